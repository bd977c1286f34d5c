"""Which files an export would write: what is there already, who wrote it, and what is gone.

Nothing is written here: that is `export`. Which folders and files are refused is in
`targets`.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compute.outcomes import Failure
from pipeline.errors import ArchiveError, OccupiedError
from pipeline.jobs.export.in_place import contents_of, is_as_written, is_of, made_of
from pipeline.jobs.export.local_file import ExportTask, holds
from pipeline.jobs.export.names import SAME, folded, paths_of
from pipeline.jobs.export.targets import Originals, check_folders, has_other_names
from pipeline.jobs.export.unwritten import shared
from pipeline.jobs.item_images import sr_image
from pipeline.storage.access import EVERYONE, readers, who_enters, who_reads
from pipeline.storage.ledger import SR, VANISHED, ExportRow
from pipeline.storage.places import Identity
from pipeline.storage.store import BucketPlace, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.compute.status import JobStatus
    from pipeline.jobs.export.request import ExportRequest
    from pipeline.jobs.job import Job
    from pipeline.storage.ledger import ItemRow, Ledger, LetGoRow
    from pipeline.storage.object_store import Stored
    from pipeline.storage.store import Place

MADE_FOLDER = "folder"
"""What the ledger calls the format of a folder that the job made."""

_RUN_SLACK_NS = 2 * 10**9
"""File systems round times, by two seconds at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What an export would do."""

    request: ExportRequest
    tasks: tuple[ExportTask, ...] = ()
    known: Mapping[str, ExportRow] = field(default_factory=dict)
    """What the job wrote below the folder before, by path."""
    job: str = ""
    """Id of the job."""
    settled: Mapping[str, int] = field(default_factory=dict)
    """Files that are up to date, each with who may read it."""
    gone: tuple[ExportRow, ...] = ()
    """Files that the job wrote for pictures that are gone from the source or renamed."""
    failures: tuple[Failure, ...] = ()
    let_go: tuple[str, ...] = ()
    """Items that cannot be written, as their pixels were let go and their files are not there."""


def plan_export(
    job: Job, status: JobStatus, *, ledger: Ledger, request: ExportRequest
) -> ExportPlan:
    """Return a task for each finished item that is not exported yet, and what else is to be done.

    Raises:
        UsageError: if the format is unknown, the folder is where the job reads, or a file would
            take the place of one that an item came from.
    """
    rows = ledger.items()
    check_folders(job, rows, source=ledger.source(), request=request)
    by_item = {row.item: row for row in rows}
    ready = [by_item[c.item] for c in status.counts if status.item_state(c) == "done"]
    known = {row.path: row for row in ledger.exports(below=f"{request.root}{os.sep}")}
    gone = ledger.let_go_of(SR, (row.item for row in ready))
    formats, failures = _formats(job, ready, known.values(), request.format, gone)
    paths = paths_of(formats, request.root)
    places = _Places(job, ledger, request, by_item, known, paths)
    tasks, settled, let_go = [], {}, []
    for item, path in paths.items():
        if places.is_current(path, by_item[item], formats[item]):
            settled[path] = places.readers(path, by_item[item])[0]
            continue
        try:
            task = places.task(place_of(path), by_item[item], formats[item])
        except OccupiedError as error:
            failures.append(Failure.of(item, error))
            continue
        if item in gone and not holds(task.path, task.current, job=job.id):
            let_go.append(item)
        else:
            tasks.append(task)
    left = set(let_go)
    return ExportPlan(
        request=request,
        job=job.id,
        tasks=tuple(tasks),
        known=known,
        settled=settled,
        # Under its former name, a file may be all that remains of such an item.
        gone=tuple(row for row in places.gone() if row.item not in left),
        failures=(*failures, *_unready(status)),
        let_go=tuple(let_go),
    )


class _Places:
    """The places where files will be written, and what is there now."""

    def __init__(
        self,
        job: Job,
        ledger: Ledger,
        request: ExportRequest,
        by_item: Mapping[str, ItemRow],
        known: Mapping[str, ExportRow],
        paths: Mapping[str, str],
    ) -> None:
        self._job, self._ledger, self._request = job, ledger, request
        self._by_item, self._known, self._paths = by_item, known, paths
        self._targets = {path: item for item, path in paths.items()}
        self._originals = Originals(by_item.values())
        self._folder_readers = cache(_readers_of_folder)

    def is_current(self, path: str, row: ItemRow, format: str) -> bool:
        """Return whether the file is there, up to date, and unchanged since the job wrote it."""
        before = self._known.get(path)
        if before is None or before.coming_sha256 or not is_of(before, row, format):
            return False
        return self._is_as_written(path, before)

    def _is_as_written(self, path: str, before: ExportRow) -> bool:
        """Return whether a file is as the job left it, by its size and its time or etag."""
        if not isinstance(self._request.out_dir, BucketPlace):
            return is_as_written(path, before)
        facts = self._objects.get(path)
        found = None if facts is None else (facts.size_bytes, facts.etag)
        return found == (before.size_bytes, before.mtime_ns)

    def _is_there(self, path: Place) -> bool:
        if isinstance(path, BucketPlace):
            return str(path) in self._objects
        return os.path.lexists(path)

    @cached_property
    def _objects(self) -> Mapping[str, Stored]:
        """What is below the place of the export, where that is in a bucket: listed once."""
        root = self._request.root
        if not isinstance(root, BucketPlace):
            return {}
        below = f"{root}/"
        return {below + one.key[len(root.key) :].strip("/"): one for one in root.below()}

    def task(self, path: Place, row: ItemRow, format: str) -> ExportTask:
        """Return the task that writes the file of an item.

        Raises:
            UsageError: if what is there is an original.
            OccupiedError: if the place is that of another item's file.
        """
        there = self._is_there(path)
        before = self._known.get(str(path))
        if there and not (before and self._is_certain(before)):
            self._originals.check(path)
        if there and before is None:
            before = self._called_otherwise(path)
        rows = [*([before] if before else []), *self._elsewhere.get(row.item, ())]
        allowed, folder_allowed = self.readers(str(path), row)
        return ExportTask(
            row=row,
            sr_dir=self._job.sr_dir,
            path=path,
            partial_name=f".upres-{self._job.id}-{uuid.uuid4().hex}.partial",
            format=format,
            asked=self._request.format,
            made_of=made_of(row),
            ours=frozenset().union(*map(contents_of, rows)),
            current=frozenset(r.sha256 for r in rows if is_of(r, row, format) and r.sha256),
            of_a_run=there and before is None and self._is_of_a_run(path),
            readers=allowed,
            folder_readers=folder_allowed,
            overwrite=self._request.overwrite,
            job=self._job.id,
        )

    def _is_certain(self, before: ExportRow) -> bool:
        """Return whether a file is as the job left it, and nobody calls it otherwise."""
        return self._is_as_written(before.path, before) and not has_other_names(before.path)

    def readers(self, path: str, row: ItemRow) -> tuple[int, int]:
        """Return who may read the file of an item, and who its folder.

        It is those who may read its source, or the job where the source is gone.
        """
        own = who_reads(row.source)
        if not own and not os.path.exists(row.source):  # noqa: PTH110 - a million.
            return self._job_readers, self._job_readers
        if isinstance(self._request.out_dir, BucketPlace):
            return EVERYONE, EVERYONE
        inside, itself = self._folder_readers(os.path.dirname(row.source), os.path.dirname(path))  # noqa: PTH120
        return own & inside, itself

    @cached_property
    def _job_readers(self) -> int:
        return self._job.readers

    def gone(self) -> Iterator[ExportRow]:
        """Yield the files below the folder that belong to no item by its present name.

        For items that still exist, only files of the same `--format` count: others are separate
        exports.
        """
        left = list(filter(self._is_left, self._known.values()))
        targets = {folded(path): path for path in self._targets} if left else {}
        for before in left:
            twin = targets.get(folded(before.path))
            if not (twin and _is_one(before.path, twin)):
                yield before

    def _is_left(self, before: ExportRow) -> bool:
        if before.path in self._targets or before.format == MADE_FOLDER:
            return False
        row = self._by_item.get(before.item)
        gone = row is None or row.state == VANISHED
        return gone or (before.item in self._paths and before.asked == self._request.format)

    def _called_otherwise(self, path: Place) -> ExportRow | None:
        """Return the row of another file of the job that this file system takes for `path`."""
        before = self._by_folded.get(folded(path))
        if before is None or not _is_one(before.path, path):
            return None
        other = self._targets.get(before.path)
        if other is not None:
            raise shared(path, other)
        return before

    def _is_of_a_run(self, path: Place) -> bool:
        if isinstance(path, BucketPlace):
            return False  # There, exported files say whose they are.
        modified = path.lstat().st_mtime_ns
        return any(start <= modified <= end for start, end in self._runs)

    @cached_property
    def _by_folded(self) -> dict[str, ExportRow]:
        return {folded(row.path): row for row in self._known.values()}

    @cached_property
    def _elsewhere(self) -> Mapping[str, list[ExportRow]]:
        """Files written for each item before the export folder was moved."""
        unknown = [item for item, path in self._paths.items() if path not in self._known]
        rows: dict[str, list[ExportRow]] = defaultdict(list)
        for row in self._ledger.exports_of(unknown):
            rows[row.item].append(row)
        return rows

    @cached_property
    def _runs(self) -> list[tuple[int, int]]:
        """When runs of the job began and ended, in ns; a killed one ends where the next begins."""
        runs = self._ledger.runs()
        starts = [_ns(run["started"]) for run in runs]
        ends = [_ns(run["finished"] or "") for run in runs]
        later = [*starts[1:], starts[-1] if starts else 0]
        return [
            (start - _RUN_SLACK_NS, (end or after) + _RUN_SLACK_NS)
            for start, end, after in zip(starts, ends, later, strict=True)
        ]


def _readers_of_folder(folder: str, near: str) -> tuple[int, int]:
    """Return who may reach what is in a folder of the source, and who may read that."""
    return who_enters(Path(folder), near=Path(near)), readers([folder], near=Path(near))


def _formats(
    job: Job,
    rows: Iterable[ItemRow],
    known: Iterable[ExportRow],
    format: str,
    gone: Mapping[str, LetGoRow],
) -> tuple[dict[str, str], list[Failure]]:
    """Return the format of each item, and a failure for each whose own cannot be read."""
    if format != SAME:
        job.open_sr()
        return {row.item: format for row in rows}, []
    # An earlier export in the format of the source has recorded it, so no archive is read.
    exported = {row.item: row for row in known if row.asked == SAME}
    sr = job.open_sr()
    formats: dict[str, str] = {}
    failures = []
    for row in rows:
        before = exported.get(row.item)
        try:
            if before is not None and before.made_of == made_of(row):
                formats[row.item] = before.format
            elif row.item in gone:
                formats[row.item] = json.loads(gone[row.item].facts)["format"]
            else:
                formats[row.item] = sr_image(sr, row).provenance["format"]
        except ArchiveError as error:
            failures.append(Failure.of(row.item, error))
    return formats, failures


def _unready(status: JobStatus) -> list[Failure]:
    return [
        Failure.not_done(c.item, f"{c.done} of {c.units} tiles are done; not exported")
        for c in status.counts
        if status.item_state(c) in ("failed", "pending")
    ]


def _is_one(path: str | Place, other: str | Place) -> bool:
    identity = Identity.of(str(path))
    return identity is not None and identity == Identity.of(str(other))


def _ns(when: str) -> int:
    return int(datetime.fromisoformat(when).timestamp() * 1e9) if when else 0
