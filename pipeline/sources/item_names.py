r"""What the files of a source are called: their ids, and how a message shows a name.

Ids are relative paths with "/", always valid UTF-8. Bytes of a name that are not UTF-8 become
``\xNN``, and a digest of the whole name keeps two such ids apart. No id ever leaves its folder:
absolute names and ".." from archives are listed under ``_refused/``, and refuse to be read.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.pictures.kinds import litter

if TYPE_CHECKING:
    from pipeline.sources.left_out import LeftOut

_REFUSED = "_refused"


def member_item(name: str, address: str, left_out: LeftOut) -> tuple[str, str | None] | None:
    """Return (id, why it is refused or None) of a member's name; None for names left out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # Backslashes separate on Windows, where the archive or its items may go.
    rooted = name.startswith("/") or re.match(r"\\|[A-Za-z]:", "/".join(parts))
    escapes = rooted or ".." in re.split(r"[/\\]", name)
    kept = [re.sub(r"\.\.|[:\\]", "_", part) for part in parts] if escapes else parts
    out = next(filter(None, map(litter, kept)), None)
    if out is not None:
        left_out.add(out.why, out.label)
    if out is not None or not kept:
        return None
    if not escapes:
        return item_of("/".join(parts)), None
    why = (
        f"is named {shown_path(name)} in {shown_path(address)}, expected a path inside it; "
        "unpack it by hand"
    )
    return item_of("/".join([_REFUSED, *kept])), why


def item_of(relative: str) -> str:
    """Return the id of a relative path, which may hold undecodable bytes as surrogates."""
    raw = relative.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        path = PurePosixPath(raw.decode("utf-8", "backslashreplace"))
        digest = hashlib.sha256(raw).hexdigest()[:8]
        return str(path.with_name(f"{path.stem}~{digest}{path.suffix}"))


def shown_path(path: str) -> str:
    """Return a path for an error: one line, valid UTF-8."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)


def reason_of(error: BaseException) -> str:
    """Return why reading failed, for an error: one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__
