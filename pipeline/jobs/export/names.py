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


def paths_of(formats: Mapping[str, str], out_dir: Place) -> dict[str, str]:
    """Return item -> path below `out_dir`, of items with the formats that they are written in.

    They are text: there may be millions, and most of them are only looked up.

    Raises:
        UsageError: if the id of an item leads out of `out_dir`.
    """
    names: dict[str, str] = {}
    for format in set(formats.values()):
        names |= file_names((i for i in formats if formats[i] == format), format=format)
    start = str(out_dir / "_")[:-1]
    return {item: start + _inside(out_dir, names[item]) for item in formats}


def folded(path: Place | str) -> str:
    """Return what names have in common that are one name where case or accents do not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())


def _renamed(item: str, format: str) -> str:
    stem, _, end = item.rpartition(".")
    # A name that is nothing but an extension is a whole name.
    known = EXTENSIONS.get(f".{end.lower()}") if stem and not stem.endswith("/") else None
    if known == format:
        return item
    return (item if known is None else stem) + SUFFIXES[format]


def _inside(out_dir: Place, name: str) -> str:
    """Return `name` as it is below `out_dir`; refuse one that leads out of it."""
    if {"", ".", ".."}.isdisjoint(name.split("/")):
        return name
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise UsageError(f"item {name!r} leads out of {out_dir}; its archive was not made by upres")
    return str(path)
