"""Exported files that are in their places: up to date, and as this job left them."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

from pipeline.storage.store import BucketPlace, is_address, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.jobs.export.request import ExportRequest
    from pipeline.storage.ledger import ExportRow, ItemRow, Ledger

RULES = 2
"""Raise this when the bytes of a file of equal pixels change on purpose, such as when more metadata
is kept: files that are there are then written again."""

_EMPTY = sha256(b"").hexdigest()


def exported_files(
    rows: Iterable[ItemRow], *, ledger: Ledger, request: ExportRequest
) -> dict[str, ExportRow]:
    """Return the files that items are exported as, by item, where they are in place.

    They are known by their sizes and times, or their etags; their contents are not read.
    """
    known = {row.item: row for row in rows}
    below = f"{request.root}{os.sep}"
    found = {}
    for file in ledger.exports_of(known):
        asked = file.asked == request.format and file.path.startswith(below)
        whole = not file.coming_sha256 and is_of(file, known[file.item], file.format)
        if asked and whole and is_as_written(file.path, file):
            found[file.item] = file
    return found


def made_of(row: ItemRow) -> str:
    """Return what decides the bytes of an item's file, besides its format."""
    return f"rules {RULES}, pixels {row.fingerprint}, source {row.sha256}"


def is_of(before: ExportRow, row: ItemRow, format: str) -> bool:
    """Return whether a file was made of an item as it is now, in a format."""
    return (before.made_of, before.format) == (made_of(row), format)


def is_as_written(path: str, before: ExportRow) -> bool:
    """Return whether a file is as the job left it, by its size and its time or etag."""
    place = place_of(path) if is_address(path) else path
    if isinstance(place, BucketPlace):
        facts = place.facts()
        return facts is not None and (facts.size_bytes, facts.etag) == _known(before)
    try:
        found = os.lstat(place)
    except OSError:
        return False
    return (found.st_size, str(found.st_mtime_ns)) == _known(before)


def contents_of(row: ExportRow) -> set[str]:
    """Return the contents by which a file is known as the job's."""
    # An empty file may reserve the place of one that was about to come.
    coming = {row.coming_sha256, _EMPTY} if row.coming_sha256 else set()
    return {row.sha256, *coming} - {""}


def _known(before: ExportRow) -> tuple[int, str]:
    return before.size_bytes, before.mtime_ns
