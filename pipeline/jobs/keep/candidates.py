"""Which items may let their pixels go: those that nothing asks for the pixels of any more.

That is an item whose tiles are all done and scored and, where its SR pixels are to go, whose file
is exported and in its place. All others keep what they have.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.constants import KEEP_ALL, KEEP_EXPORT
from pipeline.storage.ledger import INGESTED, LR, REJECTED, SR, VANISHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipeline.compute.status import JobStatus
    from pipeline.jobs.job import Job
    from pipeline.storage.ledger import ExportRow, ItemRow, Ledger


@dataclass(frozen=True, slots=True)
class Finished:
    """One item that may let pixels go."""

    row: ItemRow
    archives: tuple[str, ...]
    """Those of `LR` and `SR` that still have its pixels, and need not."""
    exported: ExportRow | None = None
    """The file that remains of it; None where its SR pixels remain."""


def finished(
    job: Job,
    read: Callable[[], JobStatus],
    *,
    keep: str,
    ledger: Ledger,
    exported: Callable[[Sequence[ItemRow]], Mapping[str, ExportRow]],
) -> list[list[Finished]]:
    """Return the items that may let pixels go, those of one chunk of a stack together.

    ``read()`` returns how far the job is, and ``exported(rows)`` the files that these items are
    exported as and that are in their places. An LR archive outside the job is another's: it keeps
    all that it has. A chunk goes as a whole, when all of its images may.
    """
    archives = _archives(job, keep)
    if not archives:
        return []
    status = read()
    done = {c.item for c in status.counts if status.item_state(c) == "done"}
    rows = _scored([r for r in ledger.each_kept(archives) if r.item in done], ledger)
    files = exported(rows) if keep == KEEP_EXPORT else {}
    if keep == KEEP_EXPORT:
        rows = [row for row in rows if row.item in files]
    gone = {archive: ledger.let_go_of(archive, (r.item for r in rows)) for archive in archives}
    found = [
        Finished(row, tuple(a for a in archives if row.item not in gone[a]), files.get(row.item))
        for row in rows
    ]
    return _together(found, ledger)


def _archives(job: Job, keep: str) -> tuple[str, ...]:
    """Return which archives let pixels go."""
    lr = (LR,) if job.owns_source and keep != KEEP_ALL else ()
    return (*lr, SR) if keep == KEEP_EXPORT else lr


def _scored(rows: Sequence[ItemRow], ledger: Ledger) -> list[ItemRow]:
    """Return those of `rows` of which all tiles are scored."""
    tiles = ledger.scored_tiles(row.item for row in rows)
    return [row for row in rows if tiles.get((row.item, row.fingerprint), 0) == row.units]


def _together(found: Iterable[Finished], ledger: Ledger) -> list[list[Finished]]:
    chunks: dict[tuple[str, int], list[Finished]] = defaultdict(list)
    alone = []
    for one in found:
        if one.row.stack:
            chunks[one.row.stack, one.row.chunk].append(one)
        else:
            alone.append([one])
    whole = (
        members
        for (stack, chunk), members in chunks.items()
        if len(members) == len(ledger.chunk_items(stack, chunk, INGESTED, VANISHED, REJECTED))
    )
    return [*alone, *whole]
