"""What exported files are called: relative names in the tree of their sources, no two alike."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.pictures.formats import EXTENSIONS, SUFFIXES, WRITTEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.storage.store import Place

SAME = "same"
"""Asks for the format of each item's source."""
CHOICES = (SAME, *WRITTEN)
"""What an export may be asked for."""


def file_names(items: Iterable[str], *, format: str) -> dict[str, str]:
    """Return item -> relative file name in `format`; no two items share a name.

    The extension is replaced, unless that would make two names one: then those whose extension
    changes keep theirs in front of the new one (``a.png`` and ``a.jpg`` become ``a.png`` and
    ``a.jpg.png``), as often as it takes.
    """
    items = list(items)
    wanted = {item: _renamed(item, format) for item in items}
    shared = Counter(wanted.values())
    names = {item: name for item, name in wanted.items() if shared[name] == 1 or name == item}
    taken = set(names.values())
    for item in sorted(set(items) - set(names)):
        name = item + SUFFIXES[format]
        while name in taken:
            name += SUFFIXES[format]
        names[item] = name
        taken.add(name)
    return names


def paths_of(formats: Mapping[str, str], out_dir: Place) -> dict[str, Place]:
    """Return item -> path below `out_dir`, of items with the formats that they are written in.

    Raises:
        UsageError: if the id of an item leads out of `out_dir`.
    """
    names: dict[str, str] = {}
    for format in set(formats.values()):
        names |= file_names((i for i in formats if formats[i] == format), format=format)
    return {item: _inside(out_dir, names[item]) for item in formats}


def folded(path: Place | str) -> str:
    """Return what names have in common that are one name where case or accents do not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())


def _renamed(item: str, format: str) -> str:
    path = PurePosixPath(item)
    if EXTENSIONS.get(path.suffix.lower()) == format:
        return item
    known = path.suffix.lower() in EXTENSIONS
    return str(path.with_suffix(SUFFIXES[format])) if known else item + SUFFIXES[format]


def _inside(out_dir: Place, name: str) -> Place:
    """Return the path of `name` below `out_dir`; refuse one that leads out of it."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise UsageError(
            f"item {name!r} leads out of {out_dir}; its archive was made by other means"
        )
    return out_dir.joinpath(*parts)
