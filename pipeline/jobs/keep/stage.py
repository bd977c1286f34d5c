"""Letting go: the driver's side. The worker's is in `leaving`, and which items in `candidates`.

The ledger says that pixels are let go before the first of them is deleted, and that they are
deleted afterwards. What a kill leaves in between is deleted by the next run, whatever that keeps.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.compute.outcomes import Failure
from pipeline.compute.submission import submit_windowed
from pipeline.jobs.choice import look_at_new
from pipeline.jobs.keep.leaving import PREVIEWS, LeavingTask, take_leave
from pipeline.storage.archive_group import is_archive
from pipeline.storage.ledger import LR, SR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pipeline.compute.cluster import Client
    from pipeline.compute.stop import Stop
    from pipeline.jobs.job import Job
    from pipeline.jobs.keep.candidates import Finished
    from pipeline.storage.archive import Archive
    from pipeline.storage.ledger import ItemRow, Ledger, LetGoRow

_BATCH, _BATCH_S = 64, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGoResult:
    """The result of letting go."""

    items: int = 0
    """How many items let pixels go."""
    failures: tuple[Failure, ...] = ()
    """Items whose pixels stay, as their file changed or their pixels cannot be read."""


def finish_letting_go(job: Job, ledger: Ledger) -> None:
    """Delete the pixels that were let go by a run that did not come to it."""
    _delete(ledger.half_let_go(), job, ledger)


def run_letting_go(
    job: Job,
    parts: Sequence[Sequence[Finished]],
    *,
    ledger: Ledger,
    client: Client | None,
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> LetGoResult:
    """Let the pixels of items go, those of each part together; return how many items these were.

    `client` may be None where there is no part. Killed at any moment, the next run ends in the same
    state.
    """
    if client is None or not parts:
        return LetGoResult()
    look_at_new(job, ledger)  # Afterwards there are no pixels to look at.
    items, failures = 0, []
    waiting: list[LetGoRow] = []
    began = time.monotonic()
    tasks = [_task(job, part) for part in parts]
    for n, outcome in enumerate(submit_windowed(client, take_leave, tasks, stop=stop), 1):
        if outcome.result is None:
            names = [one.row.item for one in outcome.task.items]
            failures += [Failure.of(name, outcome.error) for name in names]
        else:
            items += len(outcome.task.items)
            waiting += outcome.result
        if len(waiting) >= _BATCH or time.monotonic() - began > _BATCH_S:
            _let_go(waiting, job, ledger)
            waiting, began = [], time.monotonic()
        report(n, len(tasks))
    _let_go(waiting, job, ledger)
    return LetGoResult(items=items, failures=tuple(sorted(failures, key=lambda one: one.item)))


def _task(job: Job, part: Sequence[Finished]) -> LeavingTask:
    return LeavingTask(
        items=tuple(part),
        job=job.id,
        source_dir=job.source_dir,
        sr_dir=job.sr_dir,
        previews_dir=job.folder / PREVIEWS,
        readers=job.readers,
    )


def _let_go(rows: Sequence[LetGoRow], job: Job, ledger: Ledger) -> None:
    ledger.put_let_go(rows)
    _delete(rows, job, ledger)


def _delete(rows: Sequence[LetGoRow], job: Job, ledger: Ledger) -> None:
    """Delete the pixels that the ledger says are let go, and record that they are deleted."""
    if not rows:
        return
    items = {row.item: row for row in ledger.items_named({row.item for row in rows})}
    for name, opened, is_there in (
        (SR, job.open_sr, is_archive(job.sr_dir)),
        (LR, job.open_source, is_archive(job.source_dir)),
    ):
        gone = [items[row.item] for row in rows if row.archive == name and row.item in items]
        if gone and is_there:
            _delete_from(opened(), gone)
    ledger.put_let_go(replace(row, deleted=True) for row in rows)


def _delete_from(archive: Archive, rows: Iterable[ItemRow]) -> None:
    chunks: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row in rows:
        if row.stack:
            chunks[row.stack, row.chunk].append(row.place)
        else:
            archive.delete_own(row.item)
    for (stack, chunk), places in chunks.items():
        if archive.has_stack(stack):
            archive.stack(stack).empty(chunk, places)
