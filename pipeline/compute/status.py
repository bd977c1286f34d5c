"""How far a job is, as the command line, the flows and the report show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.compute.outcomes import Failure
from pipeline.storage.ledger import INGESTED, REJECTED, VANISHED, ItemCount, Ledger, Note

if TYPE_CHECKING:
    from pipeline.storage.store import Place


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Counts of items and units, and every failure with its reason."""

    folder: Place
    counts: tuple[ItemCount, ...]
    failures: tuple[Failure, ...]
    upscales: bool = True
    """Whether an item is done only when all its units are; False where ingesting was all."""
    notes: tuple[Note, ...] = ()
    """What was not kept of the files of which items; nothing that failed."""

    def item_state(self, count: ItemCount) -> str:
        """Return done, failed, pending, rejected or vanished."""
        if count.state != INGESTED:
            return count.state
        if not self.upscales or (count.units and count.done == count.units):
            return "done"
        return "failed" if count.failed else "pending"

    @property
    def items(self) -> Counter[str]:
        """Return how many items are in each state."""
        return Counter(self.item_state(count) for count in self.counts)

    @property
    def units(self) -> Counter[str]:
        """Return how many units of ingested items are done, failed and pending."""
        ingested = [count for count in self.counts if count.state == INGESTED]
        # The items of a chunk share one unit.
        shared = {(count.stack, count.chunk): count for count in ingested if count.stack}
        own = [count for count in ingested if not count.stack]
        counted = [*own, *shared.values()]
        return Counter(
            done=sum(count.done for count in counted),
            failed=sum(count.failed for count in counted),
            pending=sum(count.pending for count in counted),
        )

    @property
    def complete(self) -> bool:
        """Return whether nothing failed, was rejected, or is still to be done."""
        items = self.items
        return not (items["failed"] or items["pending"] or items["rejected"])

    def to_json(self, *, computed_units: int = 0) -> dict[str, Any]:
        """Return the document that `ingest`, `status`, `upscale` and `rerun` print."""
        items, units = self.items, self.units
        return {
            "job": str(self.folder),
            "items": {s: items[s] for s in ("done", "failed", "pending", "rejected", "vanished")},
            "units": {s: units[s] for s in ("done", "failed", "pending")},
            "computed_units": computed_units,
            "failures": [asdict(failure) for failure in self.failures],
            "notes": [asdict(note) for note in self.notes],
        }


def read_status(folder: Place, ledger: Ledger, *, upscales: bool = True) -> JobStatus:
    """Return the status by the ledger, failures in the order of their items."""
    counts = tuple(ledger.count_items())
    rejected = [Failure(c.item, None, c.error, c.message) for c in counts if c.state == REJECTED]
    failed = list(map(Failure.of_unit, ledger.failures()))
    failures = sorted([*rejected, *failed], key=lambda f: (f.item, f.tile or 0))
    return JobStatus(folder, counts, tuple(failures), upscales, tuple(ledger.notes()))


def vanished(status: JobStatus) -> list[str]:
    """Return the items that are gone from the source; their pixels are kept."""
    return [c.item for c in status.counts if c.state == VANISHED and c.units]
