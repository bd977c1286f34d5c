"""What is said where an exported file cannot have its place, on a disk or in a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import OccupiedError

if TYPE_CHECKING:
    from pipeline.storage.store import Place

OF_OTHERS = "was not written by this job"
"""Why a file is not replaced."""


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
