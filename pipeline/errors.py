"""Every error that upres raises on purpose: value met, value wanted, next step.

One base class, and each error also is the builtin that fits, so that callers who know nothing of
upres catch it too. The command line turns these into one line and exit code 1, or 2 where
its words are wrong (`UsageError`); anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class UpresError(Exception):
    """Base of all errors raised on purpose."""


class UsageError(UpresError, ValueError):
    """The words of a command contradict each other or the job."""


class RecipeError(UsageError):
    """A recipe is unknown, names an unknown key, or a value that cannot be."""


class TomlError(UsageError):
    """A file that a command names is not TOML."""


class SourceError(UpresError, OSError):
    """A source (folder, glob, archive file) holds nothing to read, or cannot be read."""


class NoSourceError(SourceError, UsageError):
    """There is nothing where a command says that pictures are."""


class PictureError(UpresError, ValueError):
    """One file is not a picture, is broken, or is of a kind that upres does not read."""


class UnsupportedError(PictureError):
    """A file is of a kind that upres does not read: another picture format, an archive."""


class ArchiveError(UpresError, ValueError):
    """A Zarr store is not an archive that upres wrote, or an item of it is damaged."""


class OccupiedError(UpresError, FileExistsError):
    """Where a file is to be written there is one that upres did not write, or not like this."""


class DiskError(UpresError, OSError):
    """A disk is full, or may not be written: whatever was to be put there is not."""


class StoreError(UpresError, OSError):
    """An object store refused a request, or did not answer for as long as it is asked again."""


class NoStoreError(StoreError, UsageError):
    """A command names a bucket, or a kind of address, that there is not."""


class UnreadableError(ArchiveError):
    """A disk failed, or kept its files to itself: what the archive holds there is not known."""


class DatasetError(UpresError, ValueError):
    """A folder is not a dataset, or is one that was prepared otherwise, or is damaged."""


class LedgerError(UpresError, RuntimeError):
    """The ledger cannot be read or written."""


class NoLedgerError(LedgerError, UsageError):
    """A command names a database for its ledger that there cannot be."""


class JobBusyError(UpresError, RuntimeError):
    """Another run holds the job."""

    @classmethod
    def of(cls, what: object, holder: str) -> Self:
        """Return the error that names what is held, and the process that holds it."""
        return cls(f"{what} is held by {holder}; wait for it or stop it")


class ModelError(UpresError, ValueError):
    """A model's file is damaged, or it does not fit the job."""


class UnknownModelError(ModelError, UsageError):
    """No model has that name, and no checkpoint is there."""


class TileShapeError(UpresError, ValueError):
    """A network returned a tile of another shape than its scale promises."""


class NotFiniteError(UpresError, ArithmeticError):
    """A network returned NaN or infinity, even in fp32."""


class WorkerError(UpresError, RuntimeError):
    """A worker died or hung while it held a unit."""


class TrainingError(UpresError, ArithmeticError):
    """Training diverged."""


class ClusterError(UpresError, ConnectionError):
    """The scheduler that work was submitted to is gone."""


def in_one_line(name: str) -> str:
    """Return a file's name as errors say it: names may hold line breaks, errors must not."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "?", name)
