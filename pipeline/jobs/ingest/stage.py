"""Ingest: from picture files to items of an LR archive. The driver's side.

The worker's is `pipeline.jobs.ingest.task`; which pictures go into stacks is in
`pipeline.jobs.ingest.stacking`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pipeline.compute.driver import work_through
from pipeline.compute.metrics import timed
from pipeline.compute.picture_tasks import ingested_row, rejected_row, vanished_rows
from pipeline.compute.submission import Stop
from pipeline.errors import ArchiveError
from pipeline.jobs.ingest.lr_items import GONE, with_known_upscaling
from pipeline.jobs.ingest.stacking import leave_holes, share_out, sound_members, tidy
from pipeline.jobs.ingest.task import (
    Ingested,
    IngestTask,
    PackTask,
    ingest_files,
    pack_chunk,
    plan_ingest,
)
from pipeline.sources.left_out import LeftOut
from pipeline.sources.listing import check_same_source, list_source
from pipeline.storage.access import close_to, readers
from pipeline.storage.archive import Archive
from pipeline.storage.item_paths import clashing
from pipeline.storage.ledger import INGEST, INGESTED, ItemRow, Ledger, ObjectRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pipeline.compute.cluster import Client
    from pipeline.sources.source_file import SourceFile
    from pipeline.storage.store import Place

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Ingestion:
    """The result of an ingestion: the rows of all files, and the remarks of the listing."""

    rows: list[ItemRow]
    left_out: LeftOut = field(default_factory=LeftOut)
    remarks: tuple[str, ...] = ()
    new: int = 0
    """How many items were not known before."""
    changed: int = 0
    """How many items have other content than before."""
    vanished: int = 0
    """How many items, rejected ones too, are gone from the source since the last time."""
    unread: int = 0
    """How many files were not read because of a stop."""


@timed("ingest")
def run_ingest(
    source: str,
    *,
    archive_dir: Place,
    ledger: Ledger,
    client: Client,
    names: str = "",
    skip: Place | None = None,
    codec: str | None = None,
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> Ingestion:
    """Ingest everything at `source`, listed as `list_source` says; return the result.

    Many small pictures of one size go into stacks, all others become images of their own. The
    ledger keeps the fingerprint and unit count of items whose content did not change. Items of an
    earlier listing that are gone from `source` become vanished; their pixels stay. Items in a
    folder that cannot be opened now keep their state.

    Raises:
        SourceError: if there is nothing at `source`, or nothing of what was there before.
    """
    files = list_source(source, names=names, skip=skip)
    known = {row.item: row for row in ledger.items()}
    before = [item for item, row in known.items() if row.state == INGESTED]
    listed = {file.item for file in files} | _out_of_sight(known, files)
    check_same_source(source, listed, before)
    archive = Archive.open_or_create(archive_dir.absolute(), codec=codec)
    allowed = readers((file.address for file in files), near=archive.path)
    close_to(archive.path, allowed)
    ledger.close_to(allowed)
    others = clashing(file.item for file in files)
    clashed = [_clashed(file, others[file.item]) for file in files if file.item in others]
    ledger.put_items(clashed)
    todo = [file for file in files if file.item not in others]
    before_stacks = tidy(archive)
    into = _Ingest(archive, ledger, client, stop or Stop(), known, len(todo), report)
    waiting = into.store(todo)
    alone, chunks = share_out(waiting, archive)
    into.pack(chunks)
    into.store(alone, alone=True)
    # Last, so that an interruption leaves an item at both places, never at none.
    leave_holes(archive, before_stacks, into.rows)
    gone = vanished_rows(known, listed, GONE)
    ledger.put_items(gone)
    before_now = [(known.get(row.item), row) for row in into.rows if row.state == INGESTED]
    return Ingestion(
        [*clashed, *into.rows],
        files.left_out,
        tuple(files.remarks()),
        new=sum(old is None for old, _ in before_now),
        changed=sum(old is not None and old.sha256 != row.sha256 for old, row in before_now),
        vanished=len(gone),
        unread=len(todo) - len(into.rows),
    )


class _Ingest:
    """An ingestion in progress: tasks go out, rows come back and are recorded in batches."""

    def __init__(
        self,
        archive: Archive,
        ledger: Ledger,
        client: Client,
        stop: Stop,
        known: Mapping[str, ItemRow],
        total: int,
        report: Callable[[int, int], None],
    ) -> None:
        self.rows: list[ItemRow] = []
        self._archive = archive
        self._ledger = ledger
        self._client = client
        self._stop = stop
        self._known = known
        self._total = total
        self._report = report
        self._unread = _unchanged_objects(known, ledger)

    def store(self, files: Iterable[SourceFile], *, alone: bool = False) -> list[Ingested]:
        """Store files as images of their own; return those that wait for a stack instead."""
        tasks = plan_ingest(
            files,
            archive_dir=self._archive.path,
            known={i: r.sha256 for i, r in self._known.items() if r.state == INGESTED},
            stacked=sound_members(self._archive),
            alone=alone,
            unread=self._unread,
        )
        return [one for one in self._run(ingest_files, tasks) if one.waits]

    def pack(self, chunks: Iterable[PackTask]) -> None:
        """Write new chunks."""
        self._run(pack_chunk, chunks)

    def _run(
        self, work: Callable[[Any], list[Ingested]], tasks: Iterable[IngestTask | PackTask]
    ) -> list[Ingested]:
        ingested: list[Ingested] = []
        batch: list[ItemRow] = []
        for _, results in work_through(self._client, work, tasks, stop=self._stop):
            ingested += results
            self._ledger.put_objects(_objects(results))
            stored = (one.row for one in results if not one.waits)
            batch += [with_known_upscaling(row, self._known) for row in stored]
            self._note(results)
            if len(batch) >= _BATCH:
                self._record(batch)
                batch = []
            self._report(len(self.rows) + len(batch), self._total)
        self._record(batch)
        return ingested

    def _note(self, results: Iterable[Ingested]) -> None:
        """Record what was not kept; a new item has no earlier notes to replace."""
        notes = {r.row.item: r.notes for r in results if not r.waits and r.notes is not None}
        news = {item: noted for item, noted in notes.items() if noted or item in self._known}
        self._ledger.put_notes(INGEST, news)

    def _record(self, batch: list[ItemRow]) -> None:
        self._ledger.put_items(batch)
        self.rows += batch


def _unchanged_objects(known: Mapping[str, ItemRow], ledger: Ledger) -> dict[str, ObjectRow]:
    """Return the objects whose content the ledger still records: these need not be read again."""
    return {
        item: row
        for item, row in ledger.objects().items()
        if item in known and (known[item].state, known[item].sha256) == (INGESTED, row.sha256)
    }


def _objects(results: Iterable[Ingested]) -> list[ObjectRow]:
    """Return the objects that were read, of pictures that came from a bucket."""
    return [
        ObjectRow(
            item=one.file.item,
            etag=one.file.etag,
            size_bytes=one.file.size_bytes,
            sha256=one.row.sha256,
        )
        for one in results
        if one.file.etag and one.row.state == INGESTED and one.row.sha256
    ]


def _clashed(file: SourceFile, other: str) -> ItemRow:
    """Return the row of a file whose item would be inside another one."""
    error = ArchiveError(f"would be inside the item {other!r}; rename one of the two")
    return rejected_row(ingested_row(file), error)


def _out_of_sight(known: Iterable[str], files: Iterable[SourceFile]) -> set[str]:
    """Return the known items in folders that cannot be opened now.

    Such a folder may be closed to this user, or a link to a disk that is not mounted: nothing in it
    is gone.
    """
    closed = {file.item for file in files if file.refused is not None}
    if not closed:
        return set()
    return {i for i in known if not closed.isdisjoint(accumulate(i.split("/"), "{}/{}".format))}
