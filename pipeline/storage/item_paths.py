"""Item ids and the Zarr paths that they have in an archive."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from pipeline.errors import ArchiveError
from pipeline.storage.stack_kind import STACKS_FOLDER
from pipeline.storage.zarr_metadata import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PLAIN = re.compile(r"(?:(?!zarr\.json(?:/|\Z))[0-9A-Za-z][ -$&-.0-\[\]-~]*(?:/|\Z))+(?<!/)")
"""Ids that are their own paths whatever is in them, but for their length: most are of this kind."""

_NAME_BYTES = 240
"""Of the 255 that file systems allow; the rest is for escaping the first characters."""


def item_path(item: str) -> str:
    """Return the Zarr path of an item id: the id itself, unsafe parts percent-encoded.

    Distinct ids give distinct paths, and no id leads out of the archive. A part that is too long
    for the name of a folder becomes several, all but the last ending with a bare "%".
    """
    if len(item) <= _NAME_BYTES and _PLAIN.fullmatch(item):
        return item
    if not item:
        raise ArchiveError("item id is empty, expected a relative path")
    try:
        item.encode()
    except UnicodeEncodeError as error:
        raise ArchiveError(f"item id {item!r} is not valid Unicode text") from error
    return "/".join("%/".join(map(_encode, _pieces(part))) for part in item.split("/"))


def item_of(path: str) -> str:
    """Return the id whose `item_path` is `path`."""
    path = re.sub("(?<=[^/])%/", "", path)
    return "/".join("" if part == "%" else unquote(part) for part in path.split("/"))


def _pieces(part: str) -> list[str]:
    """Cut `part` where its encoding would be too long for the name of a folder."""
    pieces = [""]
    size = 0
    for c in part:
        size += len(_percent(c).encode())
        if size > _NAME_BYTES:
            pieces.append("")
            size = len(_percent(c).encode())
        pieces[-1] += c
    return pieces


def _encode(part: str) -> str:
    if not part:
        return "%"
    if part in (METADATA, STACKS_FOLDER) or part.startswith("__") or not part.strip("."):
        return "".join(f"%{byte:02X}" for byte in part[:2].encode()) + _percent(part[2:])
    return _percent(part)


def _percent(part: str) -> str:
    # Zarr store keys are text: everything but the escape sign and backslash may stand as it is.
    return "".join(quote(c, safe="") if c in "%\\" or ord(c) < 32 else c for c in part)


def outer_items(item: str) -> Iterator[str]:
    """Yield the ids in which `item` would be, outermost first."""
    for slash in re.finditer("/", item):
        if slash.start():
            yield item[: slash.start()]


def name_of(path: str) -> str:
    """Return the id of the item at `path`, or the path itself where no id leads there."""
    item = item_of(path)
    try:
        return item if item_path(item) == path else path
    except ArchiveError:
        return path


def clashing(items: Iterable[str]) -> dict[str, str]:
    """Return each item that would be inside another one of `items`, and that other one.

    The outermost wins: it is not a key, and every other item inside it names it. The result
    does not depend on the order of `items`.
    """
    known = set(items)
    outer_of = {item: next((o for o in outer_items(item) if o in known), None) for item in known}
    return {item: outer for item, outer in sorted(outer_of.items()) if outer is not None}
