"""What is said where an exported file cannot be written, or cannot have its place, and what to do.

Each function returns the error of such a file; which case it is, its caller knows.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pipeline.errors import DiskError, OccupiedError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.store import Place

OF_OTHERS = "was not written by this job"
"""Why a file is not replaced."""

_OF_DISK = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "make its disk writable, or export into another folder",
}
"""What to do about a whole disk."""


def not_replaced(path: Place, size_bytes: int, *, because: str) -> OccupiedError:
    """Return the error of a file that the job did not write as it is; `because` says which."""
    return OccupiedError(
        f"{path} exists ({size_bytes} bytes) and {because}; move it away, export into another "
        "folder, or replace it with --overwrite"
    )


def appeared(path: Place) -> OccupiedError:
    """Return the error of a file that somebody wrote while its picture was encoded."""
    return OccupiedError(
        f"{path} appeared or changed while its picture was being written; it was left as it is, "
        "repeat the command to see whose it is"
    )


def shared(path: Place, other: str) -> OccupiedError:
    """Return the error of a file that would also be the file of another item on this disk."""
    return OccupiedError(
        f"{path} is the file of {other} too, as the file system takes both names for one; rename "
        "one of the two, or export into a folder elsewhere"
    )


def in_the_way(error: OSError) -> OSError:
    """Return an error that says what to do, where a file is in the place of a folder."""
    if not isinstance(error, (FileExistsError, NotADirectoryError)):
        return error
    return OccupiedError(
        f"{error.filename} is not a folder, expected one; move it away, or export into another "
        "folder"
    )


def name_too_long(path: Path) -> OSError:
    """Return the error of a file whose name or path the file system does not take."""
    return OSError(
        f"the file would be called {path.name[:40]}... ({len(os.fsencode(path.name))} bytes, its "
        f"path {len(os.fsencode(path))}), longer than the disk takes; rename it in its source, or "
        "export into a folder with a shorter path"
    )


def unwritten(error: OSError, root: Place) -> OSError:
    """Return an error that says which folder cannot be written, why, and what to do.

    A full disk concerns all folders of the export below `root`; missing permission concerns one.
    """
    if isinstance(error, OccupiedError | StoreError):
        return error
    is_of_disk = error.errno in _OF_DISK or not error.filename
    place = root if is_of_disk else error.filename
    advice = _OF_DISK.get(error.errno or 0, "fix that")
    if isinstance(error, PermissionError) or error.errno == errno.EACCES:
        advice = "grant access to it, or export into another folder"
    return DiskError(
        f"{place} cannot be written ({error.strerror or error}); {advice}, then repeat the command"
    )
