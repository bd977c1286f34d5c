"""Export: from finished items of an SR archive to picture files, tree and metadata kept.

The ledger knows every file that the job wrote. A file that is already there and up to date is not
touched. A file that the job did not write, or that was changed since, is only replaced if the user
asks for it.
"""

from __future__ import annotations

import errno
import os
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.compute.driver import work_through
from pipeline.compute.metrics import timed
from pipeline.compute.outcomes import Failure
from pipeline.compute.silence import Silence
from pipeline.errors import DiskError, OccupiedError
from pipeline.jobs.export.export_plan import MADE_FOLDER
from pipeline.jobs.export.facts import Facts
from pipeline.jobs.export.in_place import contents_of
from pipeline.jobs.export.local_file import (
    ExportTask,
    discard,
    export_items,
    is_there,
    put_in_place,
    remove,
    remove_partials,
)
from pipeline.jobs.export.names import folded
from pipeline.jobs.export.unwritten import in_the_way, name_too_long, shared, unwritten
from pipeline.jobs.together import Together, together
from pipeline.storage.access import EVERYONE, close_to, make_folder
from pipeline.storage.atomic import sync_folder
from pipeline.storage.ledger import EXPORT, ExportRow, Note
from pipeline.storage.store import BucketPlace, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from pipeline.compute.stop import Stop
    from pipeline.jobs.export.export_plan import ExportPlan
    from pipeline.jobs.export.facts import Exported
    from pipeline.storage.ledger import Ledger

_BATCH, _BATCH_S = 64, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """The result of an export."""

    written: int = 0
    unchanged: int = 0
    pruned: int = 0
    gone: tuple[str, ...] = ()
    """Paths of files that are still there although their pictures are gone from the source."""
    kept: bool = False
    """Whether the user asked to remove them; then they stay because somebody changed them."""
    failures: tuple[Failure, ...] = ()
    notes: tuple[Note, ...] = ()
    """Metadata that the exported files could not keep, also of files that did not change."""
    stopped: bool = False
    """Whether a stop came before all was written."""
    let_go: int = 0
    """How many items were not written: their pixels were let go, and their files are not there."""

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the files that are gone from the source, and the notes."""
        counts = {
            name: getattr(self, name) for name in ("written", "unchanged", "pruned", "let_go")
        }
        notes = [asdict(note) for note in self.notes]
        return {**counts, "gone": len(self.gone), "gone_files": list(self.gone), "notes": notes}


@timed("export")
def run_export(
    plan: ExportPlan,
    *,
    ledger: Ledger,
    client: Client | None,
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> ExportResult:
    """Write what `plan` says, remove what is gone if it asks to `prune`, and return the result.

    Killed at any moment, the next export knows every file that this one wrote. `client` may be None
    where there are no tasks.
    """
    export = _Export(plan, ledger)
    for path, allowed in plan.settled.items():
        if allowed != EVERYONE:
            close_to(place_of(path), allowed)  # Its picture may have become private since.
    if client is not None and plan.tasks:
        n = 0
        silence = Silence(plan.tasks[0].sr_dir, place_of(plan.tasks[0].path))
        for group, outcomes in work_through(client, export_items, export.with_folders(), stop=stop):
            for task, done in zip(group.tasks, outcomes, strict=True):
                export.take(task, done.result, done.error)
            n += len(outcomes)
            report(n, len(plan.tasks))
            silence.hear(type(done.error).__name__ if done.error else "" for done in outcomes)
        export.place()
    stopped = stop is not None and stop.requested
    pruned, gone = export.leave(prune=plan.request.prune and not stopped)
    return ExportResult(
        written=export.written,
        unchanged=export.unchanged,
        pruned=pruned,
        gone=gone,
        kept=plan.request.prune and not stopped,
        failures=tuple(sorted(export.failures, key=lambda failure: failure.item)),
        notes=tuple(note for note in ledger.notes() if note.stage == EXPORT),
        stopped=stopped,
        let_go=len(plan.let_go),
    )


class _Export:
    """An export in progress: finished files are moved to their places and recorded.

    Each file is recorded before it is moved, so that a kill in between leaves no file that the job
    does not know.
    """

    def __init__(self, plan: ExportPlan, ledger: Ledger) -> None:
        self.written = 0
        self.unchanged = len(plan.settled)
        self.failures = list(plan.failures)
        self._plan = plan
        self._root = plan.request.root
        self._ledger = ledger
        self._waiting: list[tuple[ExportTask, Exported]] = []
        self._rows: list[ExportRow] = []
        self._notes: dict[str, tuple[str, ...]] = {}
        self._shared = _shared_names(plan.tasks)
        self._placed_s = time.monotonic()

    def with_folders(self) -> Iterator[Together[ExportTask]]:
        """Yield each group of tasks once their folders exist; remove what a killed export left."""
        ready: set[Path] = set()
        for group in together(self._plan.tasks):
            if tasks := tuple(self._with_folder(group.tasks, ready)):
                yield Together(tasks)

    def _with_folder(self, tasks: Iterable[ExportTask], ready: set[Path]) -> Iterator[ExportTask]:
        for task in tasks:
            if isinstance(task.path, BucketPlace):
                yield task  # There are no folders in a bucket, nor names of unfinished files.
                continue
            try:
                if task.file.parent not in ready:
                    self._make_folder(task.file.parent, task.folder_readers)
                    remove_partials(task)
                    ready.add(task.file.parent)
            except OSError as error:
                told = unwritten(in_the_way(error), self._root)
                if isinstance(told, DiskError) and not self._root.is_dir():
                    raise told from error
                self.failures.append(Failure.of(task.row.item, told))
                continue
            yield task

    def take(
        self, task: ExportTask, exported: Exported | None, error: BaseException | None
    ) -> None:
        """Record the result of a task."""
        if exported is None:
            discard(task)
            self.failures.append(Failure.of(task.row.item, self._unmade(task, error)))
        elif exported.is_new:
            self._waiting.append((task, exported))
        else:
            self.unchanged += 1
            self._rows.append(self._found(task, exported.facts))
        if exported is not None and exported.notes is not None:
            self._notes[task.row.item] = exported.notes
        late = time.monotonic() - self._placed_s > _BATCH_S
        if late or len(self._waiting) + len(self._rows) >= _BATCH:
            self.place()

    def place(self) -> None:
        """Put every finished file into its place."""
        waiting, self._waiting = self._waiting, []
        self._ledger.put_exports([*self._rows, *(self._coming(*one) for one in waiting)])
        self._ledger.put_notes(EXPORT, self._notes)
        self._notes = {}
        self._rows = []
        for task, exported in waiting:
            try:
                put_in_place(task, exported)
            except OSError as error:
                self.failures.append(Failure.of(task.row.item, self._explained(task, error)))
                self._take_back(task)
                continue
            self.written += 1
            self._rows.append(_row_of(task, exported.facts))
        on_disk = (task for task, _ in waiting if not isinstance(task.path, BucketPlace))
        for folder in {task.file.parent for task in on_disk}:
            sync_folder(folder)
        self._ledger.put_exports(self._rows)
        self._rows = []
        self._placed_s = time.monotonic()

    def _found(self, task: ExportTask, there: Facts) -> ExportRow:
        """Return the row of a file that is in its place already, and whose it is."""
        before = self._plan.known.get(str(task.path))
        adopted = there.sha256 not in task.ours if before is None else before.adopted
        return replace(_row_of(task, there), adopted=adopted)

    def leave(self, *, prune: bool) -> tuple[int, tuple[str, ...]]:
        """Remove files whose pictures are gone from the source; return (pruned, those still there).

        Only files that did not change since the job wrote them are removed, and empty folders that
        it made.
        """
        here = [row for row in self._plan.gone if is_there(place_of(row.path))]
        forgotten = {row.path for row in self._plan.gone} - {row.path for row in here}
        own = [row for row in here if not row.adopted]
        pruned = self._removed(own) if prune else set()
        self._ledger.forget_exports(forgotten.union(pruned))
        if prune:
            self._remove_folders()
        gone = tuple(row.path for row in here if row.path not in pruned)
        return len(pruned), gone

    def _removed(self, rows: Iterable[ExportRow]) -> set[str]:
        """Remove the files of `rows` that are as the job left them; return their paths."""
        removed = set()
        for row in rows:
            try:
                if remove(place_of(row.path), contents_of(row), job=self._plan.job):
                    removed.add(row.path)
            except OSError as error:
                self.failures.append(Failure.of(row.item, unwritten(error, self._root)))
        return removed

    def _remove_folders(self) -> None:
        made = [row.path for row in self._plan.known.values() if row.format == MADE_FOLDER]
        removed = []
        for path in sorted(made, reverse=True):  # Inner folders come first.
            try:
                os.rmdir(path)  # noqa: PTH106 - only where it is empty.
            except OSError:
                if os.path.lexists(path):
                    continue
            removed.append(path)
        self._ledger.forget_exports(removed)

    def _make_folder(self, folder: Path, allowed: int) -> None:
        missing = [p for p in (folder, *folder.parents) if p.is_relative_to(str(self._root))]
        for path in reversed(missing):
            is_new = not path.is_dir()
            make_folder(path, allowed)
            if is_new and path != self._root:
                self._rows.append(_folder_row(path))

    def _coming(self, task: ExportTask, exported: Exported) -> ExportRow:
        """Return what to record before a file is moved to its place.

        Its old and its new content both count as the job's then. The old content does not if
        somebody else wrote it and it is overwritten.
        """
        there = None if exported.overwrites else exported.replaces
        there = there or Facts(0, 0, "")
        return replace(_row_of(task, there), made_of="", coming_sha256=exported.facts.sha256)

    def _take_back(self, task: ExportTask) -> None:
        before = self._plan.known.get(str(task.path))
        if before is None:
            self._ledger.forget_exports([str(task.path)])
        else:
            self._ledger.put_exports([before])

    def _explained(self, task: ExportTask, error: OSError) -> OSError:
        """Return an error that names the other item, where two have one name on this disk."""
        if not isinstance(error, OccupiedError):
            return unwritten(error, self._root)
        others = [i for i in self._shared.get(folded(task.path), ()) if i != task.row.item]
        if not others:
            return error
        return shared(task.path, others[0])

    def _unmade(self, task: ExportTask, error: BaseException | None) -> BaseException | None:
        """Return an error that says why a file was not made, and what to do."""
        if isinstance(error, DiskError):
            return unwritten(error, self._root)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return name_too_long(task.file)
        return error


def _row_of(task: ExportTask, facts: Facts) -> ExportRow:
    return ExportRow(
        path=str(task.path),
        item=task.row.item,
        asked=task.asked,
        format=task.format,
        made_of=task.made_of,
        size_bytes=facts.size_bytes,
        mtime_ns=str(facts.mtime_ns),
        sha256=facts.sha256,
    )


def _folder_row(path: Path) -> ExportRow:
    return ExportRow(path=str(path), item="", asked="", format=MADE_FOLDER, made_of="")


def _shared_names(tasks: Iterable[ExportTask]) -> dict[str, list[str]]:
    """Return the items of `tasks` by what their names have in common."""
    items: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        items[folded(task.path)].append(task.row.item)
    return items
