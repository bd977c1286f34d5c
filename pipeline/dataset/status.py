"""How far a dataset is, by its two ledgers and its manifests."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.compute.status import JobStatus, read_status
from pipeline.dataset.ledgers import LedgerPlace
from pipeline.dataset.prepare import foreign_chunks
from pipeline.errors import LedgerError
from pipeline.storage.dataset import Dataset
from pipeline.storage.ledger import INGESTED, VANISHED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.compute.outcomes import Failure
    from pipeline.dataset.ledgers import Ledgers
    from pipeline.storage.ledger import Ledger
    from pipeline.storage.store import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetStatus:
    """What ledgers and manifests say of a dataset."""

    pictures: JobStatus
    chunks: JobStatus
    patches: Mapping[str, int]
    """Made, by split."""
    left_out: Mapping[str, int]
    """Patches that are not in the dataset, by reason."""
    colours: Mapping[str, int]
    """Pictures by what was done about their ICC profiles."""
    lr_versions: Sequence[str]

    @classmethod
    def of(cls, dataset: Dataset, ledgers: Ledgers) -> DatasetStatus:
        """Read ledgers and manifests.

        Raises:
            DatasetError: if a manifest is damaged.
        """
        left_out: Counter[str] = Counter()
        colours: dict[str, str] = {}
        for manifest in dataset.manifests():
            for origin in manifest.origins:
                left_out.update(origin.left_out)
                if origin.colour:
                    colours[origin.item] = origin.colour
        statistics = dataset.statistics()
        return cls(
            pictures=read_status(dataset.path, ledgers.pictures, upscales=False),
            chunks=read_status(dataset.path, ledgers.chunks),
            patches={split: values["patches"] for split, values in statistics.items()},
            left_out=dict(sorted(left_out.items())),
            colours=dict(sorted(Counter(colours.values()).items())),
            lr_versions=list(dataset.spec.degradations),
        )

    @property
    def complete(self) -> bool:
        """Return whether no picture was rejected, and every chunk is made."""
        return self.pictures.complete and self.chunks.complete

    @property
    def failures(self) -> list[Failure]:
        """Return why pictures were rejected, then why chunks were not made."""
        return [*self.pictures.failures, *(replace(f, tile=None) for f in self.chunks.failures)]

    def to_json(self) -> dict[str, Any]:
        """Return the document that `upres status` prints of a dataset."""
        return {
            **self.pictures.to_json(),
            "units": self.chunks.to_json()["units"],
            "failures": [asdict(failure) for failure in self.failures],
            "patches": dict(self.patches),
            "left_out": dict(self.left_out),
            "colours": dict(self.colours),
            "lr_versions": list(self.lr_versions),
        }


def read_dataset_status(folder: Place) -> DatasetStatus:
    """Return how far the dataset in `folder` is, of any state.

    Raises:
        DatasetError: if there is none, or a manifest is damaged.
        LedgerError: if its ledger is missing, or that of another dataset.
    """
    dataset = Dataset.open(folder.resolve())
    with open_ledgers(dataset) as ledgers:
        return DatasetStatus.of(dataset, ledgers)


@contextmanager
def open_ledgers(dataset: Dataset) -> Iterator[Ledgers]:
    """Open the ledgers of a dataset to read them.

    Raises:
        LedgerError: if they are missing, or tell of chunks which the dataset does not have: they
            are those of a dataset that was here before.
    """
    where = LedgerPlace.of(dataset.path)
    with where.opened(read_only=True) as ledgers:
        foreign = foreign_chunks(dataset, ledgers.chunks)
        if foreign:
            raise LedgerError(
                f"{where} lists {foreign[0]}, but {dataset.path} has {dataset.chunks} chunks: it "
                "belongs to another dataset; run `upres prepare` again, which repairs it"
            )
        yield ledgers


def absent_pictures(pictures: Ledger) -> list[tuple[str, str]]:
    """Return the pictures that are not in the dataset, or not in the source, with the reason."""
    gone = "gone from the source; its patches stay until --prune"
    return [
        (row.item, gone if row.state == VANISHED else row.message)
        for row in pictures.items()
        if row.state != INGESTED
    ]
