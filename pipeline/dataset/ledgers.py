"""Where lock and ledgers of a dataset are: beside it, or where the user of a bucket puts them.

What belongs here: holding a dataset, and opening its two ledgers. Not: what they say.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import LedgerError, UsageError
from pipeline.storage.dataset.remembered import read_ledger_url, write_ledger_url
from pipeline.storage.ledger import Ledger, absolute_url, without_password
from pipeline.storage.ledger.messages import is_elsewhere, not_in_bucket
from pipeline.storage.locks import (
    hold,
    hold_by_ledger,
    hold_to_read,
    lock_and_ledger_beside,
    resolved_store,
)
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from pipeline.storage.store import Place

PICTURES, CHUNKS = "pictures", "chunks"
"""What the two ledgers of a dataset are called in their database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledgers:
    """The two ledgers of a dataset, in one database: of its pictures, and of its chunks."""

    pictures: Ledger
    chunks: Ledger


def dataset_place(dataset: Place) -> Place:
    """Return where a dataset is, links followed.

    Raises:
        UsageError: if nothing can be called so, or nothing could stand beside it.
    """
    if not isinstance(dataset, BucketPlace):
        return resolved_store(dataset)
    if not dataset.key:
        raise UsageError(f"{dataset} is a whole bucket; name a place in it, as {dataset}/dataset")
    return dataset


@dataclass(frozen=True, slots=True)
class LedgerPlace:
    """Where lock and ledgers of one dataset are: by the URL, or beside it where that is empty."""

    dataset: Place
    url: str = ""

    @classmethod
    def of(cls, dataset: Place, *, asked: str | None = None) -> LedgerPlace:
        """Return those of a dataset; of one in a bucket as it remembers them, or as is asked.

        Raises:
            UsageError: if a dataset on a disk is to have them elsewhere, or one in a bucket has
                none, or has others.
        """
        place = dataset_place(dataset)
        if not isinstance(place, BucketPlace):
            if asked:
                raise UsageError(
                    f"--ledger is for datasets in a bucket, and {place} keeps its own beside it; "
                    "leave it out"
                )
            return cls(place)
        known, wanted = read_ledger_url(place), absolute_url(asked) if asked else ""
        if known and wanted and without_password(wanted) != known:
            raise is_elsewhere(place, known)
        if not known and not wanted:
            raise not_in_bucket(place)
        return cls(place, wanted or known)

    def remember(self) -> None:
        """Write into a dataset in a bucket where its ledgers are, without a password."""
        if isinstance(self.dataset, BucketPlace):
            write_ledger_url(self.dataset, without_password(self.url))

    def hold(self, command: str) -> AbstractContextManager[None]:
        """Hold the dataset alone, as `locks.hold`."""
        if self.url:
            job = self._name("dataset")
            return hold_by_ledger(self.url, job=job, what=self.dataset, command=command)
        return hold(self._beside[0], self.dataset, command)

    def hold_to_read(self, command: str) -> AbstractContextManager[None]:
        """Hold the dataset while it is read, as `locks.hold_to_read`; in a bucket, alone."""
        if isinstance(self.dataset, BucketPlace):
            return self.hold(command)
        return hold_to_read(self._beside[0], self.dataset, command)

    @contextmanager
    def opened(self, *, read_only: bool = False) -> Iterator[Ledgers]:
        """Open both ledgers.

        Raises:
            LedgerError: if they cannot be opened; with `read_only` also if there are none.
        """
        if read_only and not self.exist():
            raise LedgerError(
                f"{self._beside[1]} is missing; run `upres prepare` again, which rebuilds it"
            )
        with (
            closing(self._ledger(PICTURES, read_only=read_only)) as pictures,
            closing(self._ledger(CHUNKS, read_only=read_only)) as chunks,
        ):
            yield Ledgers(pictures=pictures, chunks=chunks)

    def exist(self) -> bool:
        """Return whether there are ledgers, as far as that can be seen from here."""
        return bool(self.url) or self._beside[1].exists()

    def __str__(self) -> str:
        """Return where the ledgers are, without a password."""
        return without_password(self.url) if self.url else str(self._beside[1])

    def _ledger(self, name: str, *, read_only: bool) -> Ledger:
        if self.url:
            return Ledger.open(self.url, job=self._name(name), read_only=read_only)
        return Ledger.open_file(self._beside[1], job=name, read_only=read_only)

    def _name(self, what: str) -> str:
        # One database may have the ledgers of many datasets.
        return f"{what} {self.dataset}"

    @property
    def _beside(self) -> tuple[Path, Path]:
        return lock_and_ledger_beside(Path(str(self.dataset)))
