"""What distinguishes an exported file from another one, on a disk or in a bucket."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """What distinguishes a file from another one."""

    size_bytes: int
    mtime_ns: int | str
    """When it was modified; of an object in a bucket, its etag."""
    sha256: str
    """"" of what is not a regular file."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The file of an item: finished next to its place, or (`is_new` False) already there."""

    facts: Facts
    is_new: bool
    replaces: Facts | None = None
    notes: tuple[str, ...] | None = None
    """Metadata that the file could not keep; None where it was not checked again."""
    overwrites: bool = False
    """Whether it replaces a file that somebody else wrote."""
