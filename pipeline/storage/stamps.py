"""Stamps: text that changes whenever a file does, and what they save reading.

A stamp is made of a file's two times, its number on the disk and its size. The time of its inode
changes with every write, whatever is done to the time of its content.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipeline.storage.store import BucketPlace
from pipeline.storage.zarr_metadata import LEVEL, METADATA

if TYPE_CHECKING:
    from pipeline.storage.store import Place

_UNSETTLED_NS = 2 * 10**9
"""File systems count time in steps, of two seconds at most."""


def stamp_of(facts: os.stat_result) -> str:
    """Return the stamp of a file, by what the disk says of it."""
    return f"{facts.st_mtime_ns:x}/{facts.st_ctime_ns:x}/{facts.st_ino:x}/{facts.st_size:x}"


def is_settled(stamp: str, *, seen_ns: int) -> bool:
    """Return whether a file with a stamp that was seen then cannot be another one under it.

    One that changed just before may change once more within a step of the file system's clock.
    """
    mtime, ctime = (int(part, 16) for part in stamp.split("/")[:2])
    recent_ns = seen_ns - _UNSETTLED_NS
    # The time of a content may be set to any, so one that is to come says nothing.
    return ctime < recent_ns and not recent_ns <= mtime <= seen_ns


def seal_of(root: Place, path: str) -> str:
    """Return the stamps of the metadata of the item at `path` of an archive.

    "" where a file of it is missing or cannot be looked at, and in a bucket, where each look is a
    request as reading is.
    """
    if isinstance(root, BucketPlace):
        return ""
    folder = f"{root}/{path}"
    try:
        own, level = (os.stat(f"{folder}/{METADATA}"), os.stat(f"{folder}/{LEVEL}/{METADATA}"))  # noqa: PTH116 - millions.
    except OSError:
        return ""
    return f"{stamp_of(own)} {stamp_of(level)}"
