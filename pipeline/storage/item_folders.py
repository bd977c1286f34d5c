"""Which folders of an archive are items, by what is in them.

Zarr itself passes over every folder whose metadata is damaged or gone; nothing here does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ArchiveError
from pipeline.storage.disk import scanned
from pipeline.storage.stack_kind import STACKS_FOLDER
from pipeline.storage.zarr_metadata import (
    LEVEL,
    METADATA,
    PROVENANCE_KEY,
    holds_metadata,
    read_metadata,
    read_provenance,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.storage.store import Place


def item_folders(root: Place, start: str = "") -> Iterator[str]:
    """Yield the path of every folder from `start` on that is an item, complete or not.

    Complete items are not entered: their files are pixels.
    """
    waiting = [start]
    while waiting:
        path = waiting.pop()
        try:
            found = bool(path) and is_item(root / path)
            inner = _inner_folders(root / path, top=not path)
        except PermissionError:
            # Nobody can tell what it holds: not to be passed over.
            found, inner = True, []
        if found:
            yield path
        if not (found and is_claimed(root / path)):
            waiting.extend(f"{path}/{name}" if path else name for name in inner)


def _inner_folders(folder: Place, *, top: bool) -> list[str]:
    """Return the folders in `folder` that may be or hold items: no stacks, no array of an item."""
    names = [entry.name for entry in scanned(folder) if entry.is_dir()]
    passed = STACKS_FOLDER if top else LEVEL
    if passed in names and (top or _is_level(folder / LEVEL)):
        names.remove(passed)
    return names


def is_item(folder: Place) -> bool:
    """Return whether a folder is, was or was to become an item, and no mere folder of items."""
    try:
        metadata = read_metadata(folder)
    except ArchiveError:
        if _is_level(folder / LEVEL):
            return True
        return (folder / METADATA).exists() and not holds_metadata(folder)
    if metadata.get("node_type") != "group":
        return True
    attributes = metadata.get("attributes", {})
    if not isinstance(attributes, dict):
        return True
    return bool({PROVENANCE_KEY, "ome"} & attributes.keys()) or _is_level(folder / LEVEL)


def is_claimed(folder: Place) -> bool:
    """Return whether a folder is an item for certain: it carries provenance."""
    try:
        read_provenance(folder)
    except ArchiveError:
        return False
    return True


def is_unfinished(folder: Place) -> bool:
    """Return whether a writer was interrupted here: sound metadata, but no provenance yet."""
    try:
        metadata = read_metadata(folder)
    except ArchiveError:
        return False
    attributes = metadata.get("attributes", {})
    return isinstance(attributes, dict) and PROVENANCE_KEY not in attributes


def _is_level(folder: Place) -> bool:
    """Return whether a folder called "0" is an array, rather than an item of that name."""
    if not folder.is_dir():
        return False
    try:
        return read_metadata(folder).get("node_type") == "array"
    except ArchiveError:
        # Where all metadata is gone: pixels are in "c", and the array of an item in "0".
        return not holds_metadata(folder) and not (folder / LEVEL).is_dir()
