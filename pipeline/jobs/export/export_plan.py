"""Which files an export would write: what is there already, who wrote it, and what is gone.

Nothing is written here: that is `export`. Which folders and files are refused is in
`targets`.
"""

from __future__ import annotations

import os
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compute.outcomes import Failure
from pipeline.errors import ArchiveError, OccupiedError
from pipeline.jobs.export.local_file import ExportTask
from pipeline.jobs.export.names import SAME, folded, paths_of
from pipeline.jobs.export.targets import Originals, check_targets
from pipeline.jobs.item_images import sr_image
from pipeline.storage.access import EVERYONE, readers, who_enters, who_reads
from pipeline.storage.ledger import VANISHED, ExportRow
from pipeline.storage.places import Identity
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.compute.status import JobStatus
    from pipeline.jobs.job import Job
    from pipeline.jobs.request import ExportRequest
    from pipeline.storage.ledger import ItemRow, Ledger
    from pipeline.storage.object_store import Stored
    from pipeline.storage.store import Place

RULES = 2
"""Raise this when the bytes of a file of equal pixels change on purpose, such as when more metadata
is kept: files that are there are then written again."""

MADE_FOLDER = "folder"
"""What the ledger calls the format of a folder that the job made."""

_EMPTY = sha256(b"").hexdigest()
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
    settled: Mapping[Place, int] = field(default_factory=dict)
    """Files that are up to date, each with who may read it."""
    gone: tuple[ExportRow, ...] = ()
    """Files that the job wrote for pictures that are gone from the source or renamed."""
    failures: tuple[Failure, ...] = ()


def plan_export(
    job: Job, status: JobStatus, *, ledger: Ledger, request: ExportRequest
) -> ExportPlan:
    """Return a task for each finished item that is not exported yet, and what else is to be done.

    Raises:
        UsageError: if the format is unknown, the folder is where the job reads, or a file would
            take the place of one that an item came from.
    """
    rows = ledger.items()
    check_targets(job, rows, source=ledger.source(), request=request)
    by_item = {row.item: row for row in rows}
    ready = [by_item[c.item] for c in status.counts if status.item_state(c) == "done"]
    known = {row.path: row for row in ledger.exports(below=f"{request.root}{os.sep}")}
    formats, failures = _formats(job, ready, known.values(), request.format)
    paths = paths_of(formats, request.root)
    places = _Places(job, ledger, request, by_item, known, paths)
    tasks, settled = [], {}
    for item, path in paths.items():
        if places.is_current(path, by_item[item], formats[item]):
            settled[path] = places.readers(path, by_item[item])[0]
            continue
        try:
            tasks.append(places.task(path, by_item[item], formats[item]))
        except OccupiedError as error:
            failures.append(Failure.of(item, error))
    return ExportPlan(
        request=request,
        job=job.id,
        tasks=tuple(tasks),
        known=known,
        settled=settled,
        gone=tuple(places.gone()),
        failures=(*failures, *_unready(status)),
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
        paths: Mapping[str, Place],
    ) -> None:
        self._job, self._ledger, self._request = job, ledger, request
        self._by_item, self._known, self._paths = by_item, known, paths
        self._targets = {str(path): item for item, path in paths.items()}
        self._originals = Originals(by_item.values())
        self._folder_readers = cache(_readers_of_folder)

    def is_current(self, path: Place, row: ItemRow, format: str) -> bool:
        """Return whether the file is there, up to date, and unchanged since the job wrote it."""
        before = self._known.get(str(path))
        if before is None or before.coming_sha256 or not _is_of(before, row, format):
            return False
        return self._is_as_written(path, before)

    def _is_as_written(self, path: Place, before: ExportRow) -> bool:
        """Return whether a file is as the job left it, by its size and its time or etag."""
        if not isinstance(path, BucketPlace):
            return _is_as_written(path, before)
        facts = self._objects.get(path.key)
        found = None if facts is None else (facts.size_bytes, facts.etag)
        return found == (before.size_bytes, before.mtime_ns)

    def _is_there(self, path: Place) -> bool:
        if isinstance(path, BucketPlace):
            return path.key in self._objects
        return os.path.lexists(path)

    @cached_property
    def _objects(self) -> Mapping[str, Stored]:
        """What is below the place of the export, where that is in a bucket: listed once."""
        root = self._request.root
        return {one.key: one for one in root.below()} if isinstance(root, BucketPlace) else {}

    def task(self, path: Place, row: ItemRow, format: str) -> ExportTask:
        """Return the task that writes the file of an item.

        Raises:
            UsageError: if what is there is an original.
            OccupiedError: if the place is that of another item's file.
        """
        there = self._is_there(path)
        before = self._known.get(str(path))
        if there and (before is None or not self._is_as_written(path, before)):
            self._originals.check(path)
        if there and before is None:
            before = self._called_otherwise(path)
        rows = [*([before] if before else []), *self._elsewhere.get(row.item, ())]
        allowed, folder_allowed = self.readers(path, row)
        return ExportTask(
            row=row,
            sr_dir=self._job.sr_dir,
            path=path,
            partial_name=f".upres-{self._job.id}-{uuid.uuid4().hex}.partial",
            format=format,
            asked=self._request.format,
            made_of=_made_of(row),
            ours=frozenset().union(*map(contents_of, rows)),
            current=frozenset(r.sha256 for r in rows if _is_of(r, row, format) and r.sha256),
            of_a_run=there and before is None and self._is_of_a_run(path),
            readers=allowed,
            folder_readers=folder_allowed,
            overwrite=self._request.overwrite,
            job=self._job.id,
        )

    def readers(self, path: Place, row: ItemRow) -> tuple[int, int]:
        """Return who may read the file of an item, and who its folder.

        It is those who may read its source, or the job where the source is gone.
        """
        if not row.source or not os.path.exists(row.source):  # noqa: PTH110 - a million.
            return self._job_readers, self._job_readers
        source, folder = Path(row.source), path.parent
        if isinstance(folder, BucketPlace):
            return EVERYONE, EVERYONE
        inside, itself = self._folder_readers(source.parent, folder)
        return who_reads(source) & inside, itself

    @cached_property
    def _job_readers(self) -> int:
        return self._job.readers

    def gone(self) -> Iterator[ExportRow]:
        """Yield the files below the folder that belong to no item by its present name.

        For items that still exist, only files of the same `--format` count: others are separate
        exports.
        """
        targets = {folded(path): path for path in self._targets}
        for before in self._known.values():
            if before.path in self._targets or before.format == MADE_FOLDER:
                continue
            row = self._by_item.get(before.item)
            gone = row is None or row.state == VANISHED
            renamed = before.item in self._paths and before.asked == self._request.format
            twin = targets.get(folded(before.path))
            if (gone or renamed) and not (twin and _is_one(before.path, twin)):
                yield before

    def _called_otherwise(self, path: Place) -> ExportRow | None:
        """Return the row of another file of the job that this file system takes for `path`."""
        before = self._by_folded.get(folded(path))
        if before is None or not _is_one(before.path, path):
            return None
        other = self._targets.get(before.path)
        if other is not None:
            raise OccupiedError(
                f"{path} is the file of {other} too, as the file system takes both names for one; "
                "rename one of the two, or export into a folder elsewhere"
            )
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
        unknown = [item for item, path in self._paths.items() if str(path) not in self._known]
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


def _readers_of_folder(folder: Path, near: Path) -> tuple[int, int]:
    """Return who may reach what is in a folder of the source, and who may read that."""
    return who_enters(folder, near=near), readers([folder], near=near)


def _formats(
    job: Job, rows: Iterable[ItemRow], known: Iterable[ExportRow], format: str
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
            if before is not None and before.made_of == _made_of(row):
                formats[row.item] = before.format
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


def _made_of(row: ItemRow) -> str:
    """Return what decides the bytes of an item's file, besides its format."""
    return f"rules {RULES}, pixels {row.fingerprint}, source {row.sha256}"


def _is_of(before: ExportRow, row: ItemRow, format: str) -> bool:
    return (before.made_of, before.format) == (_made_of(row), format)


def _is_as_written(path: Path, before: ExportRow) -> bool:
    """Return whether a file has the size and time that the job left it with."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return (found.st_size, str(found.st_mtime_ns)) == (before.size_bytes, before.mtime_ns)


def contents_of(row: ExportRow) -> set[str]:
    """Return the contents by which a file is known as the job's."""
    # An empty file may reserve the place of one that was about to come.
    coming = {row.coming_sha256, _EMPTY} if row.coming_sha256 else set()
    return {row.sha256, *coming} - {""}


def _is_one(path: str | Place, other: str | Place) -> bool:
    identity = Identity.of(str(path))
    return identity is not None and identity == Identity.of(str(other))


def _ns(when: str) -> int:
    return int(datetime.fromisoformat(when).timestamp() * 1e9) if when else 0
