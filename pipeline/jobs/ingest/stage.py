"""Ingest: from picture files to items of an LR archive. The driver's side.

The worker's is `pipeline.jobs.ingest.task`; which pictures go into stacks is in
`pipeline.jobs.ingest.stacking`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pipeline.compute.driver import work_through
from pipeline.compute.metrics import timed
from pipeline.compute.picture_tasks import ingested_row, rejected_row, vanished_rows
from pipeline.compute.silence import Silence
from pipeline.compute.stop import Stop
from pipeline.errors import ArchiveError
from pipeline.jobs.ingest.lr_items import GONE, with_known_upscaling
from pipeline.jobs.ingest.stacking import (
    leave_holes,
    share_out,
    sound_members,
    tidy,
    whole_chunks,
)
from pipeline.jobs.ingest.task import (
    Ingested,
    IngestTask,
    PackTask,
    ingest_files,
    pack_chunk,
    plan_ingest,
    refused,
)
from pipeline.jobs.ingest.unread import LastReading, objects_of, seals_of
from pipeline.sources.left_out import LeftOut
from pipeline.sources.listing import check_same_source, list_source
from pipeline.storage.access import close_to, readers
from pipeline.storage.archive import Archive
from pipeline.storage.item_paths import clashing
from pipeline.storage.ledger import INGEST, INGESTED, LR, says
from pipeline.storage.store import place_of
from pipeline.storage.waiting_room import clear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pipeline.compute.cluster import Client
    from pipeline.compute.workers import Workers
    from pipeline.sources.listing import Listing
    from pipeline.sources.source_file import SourceFile
    from pipeline.storage.ledger import ItemRow, Ledger, ObjectRow
    from pipeline.storage.stack_index import Member
    from pipeline.storage.store import Place

_BATCH = 64
_WINDOW = 8_192
"""How many files are read before the chunks that they fill are written."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A source beside what the ledger and the archive have of it."""

    files: Listing[SourceFile]
    listed_ns: int
    """When they were listed."""
    known: Mapping[str, ItemRow]
    archive: Archive
    ledger: Ledger
    members: Mapping[str, Member]
    """Where items are in stacks."""
    sound: Mapping[str, Member]
    """Those of them whose pixels are there."""
    listed: set[str]
    """The items that are at the source, or cannot be looked for."""
    again: frozenset[str] = frozenset()
    """The items that are stored again, as their pixels were let go and are needed."""
    clashed: list[ItemRow] = field(default_factory=list)
    """The rows of files whose items would be inside others."""
    refused: list[Ingested] = field(default_factory=list)
    """The outcomes of files that the listing says cannot be read."""
    settled: list[ItemRow] = field(default_factory=list)
    """The rows of files that did not change."""
    todo: list[SourceFile] = field(default_factory=list)
    """The files that are to be read, or whose items are to be looked at."""
    unread: dict[str, ObjectRow] = field(default_factory=dict)
    """What was read of those files of `todo` that did not change themselves."""

    def sort_out(self) -> None:
        """Put each file where it belongs: clashed, refused, settled, or to do."""
        others = clashing(file.item for file in self.files)
        last = LastReading(self.known, self.ledger, self.sound, self.archive.path, self.again)
        left = []
        for file in self.files:
            if file.item in others:
                self.clashed.append(_clashed(file, others[file.item]))
            elif (outcome := refused(file, self.sound)) is not None:
                self.refused.append(outcome)
            else:
                left.append(file)
        for file, seen, row in last.rows_of(left):
            if row is not None:
                self.settled.append(row)
                continue
            self.todo.append(file)
            if seen is not None:
                self.unread[file.item] = seen


def compare(
    source: str,
    *,
    archive_dir: Place,
    ledger: Ledger,
    names: str = "",
    skip: Place | None = None,
    codec: str | None = None,
    again: frozenset[str] = frozenset(),
) -> Comparison:
    """List a source as `list_source` says, and find what is new there or may have changed.

    The archive is there from then on, and nobody but those who may read the source reads it. The
    items of `again` are to be stored again.

    Raises:
        SourceError: if there is nothing at `source`, or nothing of what was there before.
    """
    listed_ns = time.time_ns()
    files = list_source(source, names=names, skip=skip)
    known = {row.item: row for row in ledger.items()}
    before = [item for item, row in known.items() if row.state == INGESTED]
    listed = {file.item for file in files} | _out_of_sight(known, files)
    check_same_source(source, listed, before)
    archive = Archive.open_or_create(archive_dir.absolute(), codec=codec)
    allowed = readers((file.address for file in files), near=archive.path)
    close_to(archive.path, allowed)
    ledger.close_to(allowed)
    members = tidy(archive)
    found = Comparison(
        files=files,
        listed_ns=listed_ns,
        known=known,
        archive=archive,
        ledger=ledger,
        members=members,
        sound=sound_members(archive, members),
        listed=listed,
        again=again,
    )
    found.sort_out()
    return found


@timed("ingest")
def read_new(
    found: Comparison,
    *,
    client: Client | None,
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> Ingestion:
    """Read what is to be read of a source; return the result of the whole source.

    Many small pictures of one size go into stacks, all others become images of their own. The
    ledger keeps the fingerprint and unit count of items whose content did not change. Items of an
    earlier listing that are gone from the source become vanished; their pixels stay. Items in a
    folder that cannot be opened now keep their state.

    `client` may be None where nothing is to be read.
    """
    ledger, known = found.ledger, found.known
    into = _Ingest(found, stop or Stop(), report)
    into.record([*found.clashed, *found.settled])
    into.take(found.refused)
    if not found.todo:
        report(len(into.rows), len(found.files))
    if client is not None and found.todo:
        _store_all(found, into, client)
        # Last, so that an interruption leaves an item at both places, never at none.
        leave_holes(found.archive, found.members, into.rows)
    gone = vanished_rows(known, found.listed, GONE)
    ledger.put_items(gone)
    before_now = [(known.get(row.item), row) for row in into.rows if row.state == INGESTED]
    return Ingestion(
        into.rows,
        found.files.left_out,
        tuple(found.files.remarks()),
        new=sum(old is None for old, _ in before_now),
        changed=sum(old is not None and old.sha256 != row.sha256 for old, row in before_now),
        vanished=len(gone),
        unread=len(found.files) - len(into.rows),
    )


def _store_all(found: Comparison, into: _Ingest, client: Client) -> None:
    """Store all files that are to do, those of a window after those of another.

    So what waits on the disk is little, and a run that is killed has stored most of what it read.
    """
    waiting: list[Ingested] = []
    clear(found.archive.path)  # What a kill left.
    try:
        for start in range(0, len(found.todo), _WINDOW):
            waiting += into.store(found.todo[start : start + _WINDOW], client)
            waiting, chunks = whole_chunks(waiting, found.archive)
            into.pack(chunks, client)
        alone, chunks = share_out(waiting, found.archive)
        into.pack(chunks, client)
        into.store(alone, client, alone=True)
    finally:
        clear(found.archive.path)


def run_ingest(
    source: str,
    *,
    archive_dir: Place,
    ledger: Ledger,
    workers: Workers,
    names: str = "",
    skip: Place | None = None,
    codec: str | None = None,
    again: frozenset[str] = frozenset(),
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> Ingestion:
    """Bring a source into an archive, as `compare` and `read_new`: what commands and runs call.

    Workers are connected to only where a file is to be read.
    """
    found = compare(
        source,
        archive_dir=archive_dir,
        ledger=ledger,
        names=names,
        skip=skip,
        codec=codec,
        again=again,
    )
    return read_new(found, client=workers.client_if(found.todo), stop=stop, report=report)


class _Ingest:
    """An ingestion in progress: tasks go out, rows come back and are recorded in batches."""

    def __init__(self, found: Comparison, stop: Stop, report: Callable[[int, int], None]) -> None:
        self.rows: list[ItemRow] = []
        self._found = found
        self._ledger = found.ledger
        self._known = found.known
        self._stop = stop
        self._report = report
        sources = (place_of(file.address) for file in found.todo[:1])
        self._silence = Silence(*sources, found.archive.path)

    def store(
        self, files: Iterable[SourceFile], client: Client, *, alone: bool = False
    ) -> list[Ingested]:
        """Store files as images of their own; return those that wait for a stack instead."""
        archive, files = self._found.archive, list(files)
        again = self._found.again
        rows = [self._known[f.item] for f in files if f.item in self._known]
        known = {r.item: r for r in rows if r.state == INGESTED and r.item not in again}
        gone = self._ledger.let_go_of(LR, (file.item for file in files))
        tasks = plan_ingest(
            files,
            archive_dir=archive.path,
            known={i: r.sha256 for i, r in known.items()},
            stacked=self._found.sound,
            alone=alone,
            unread=self._found.unread,
            let_go={i: known[i] for i in gone if i in known and says(gone, i) == known[i].sha256},
        )
        return [one for one in self._run(ingest_files, tasks, client) if one.waits]

    def pack(self, chunks: Iterable[PackTask], client: Client) -> None:
        """Write new chunks."""
        self._run(pack_chunk, chunks, client)

    def _run(
        self,
        work: Callable[[Any], list[Ingested]],
        tasks: Iterable[IngestTask | PackTask],
        client: Client,
    ) -> list[Ingested]:
        ingested: list[Ingested] = []
        batch: list[Ingested] = []
        for _, results in work_through(client, work, tasks, stop=self._stop):
            ingested += results
            batch += (one for one in results if not one.waits)
            errors = [one.row.error for one in results]
            if len(batch) >= _BATCH or any(errors):
                self.take(batch)
                batch = []
            self._report(len(self.rows) + len(batch), len(self._found.files))
            self._silence.hear(errors)
        self.take(batch)
        return ingested

    def take(self, batch: list[Ingested]) -> None:
        """Record what became of some files."""
        self._ledger.put_objects(objects_of(batch, listed_ns=self._found.listed_ns))
        self._ledger.put_seals(seals_of(batch))
        # A new item has no earlier notes to replace.
        notes = {one.row.item: one.notes for one in batch if one.notes is not None}
        news = {item: noted for item, noted in notes.items() if noted or item in self._known}
        self._ledger.put_notes(INGEST, news)
        self._ledger.forget_let_go(LR, [one.row.item for one in batch if self._is_back(one)])
        self.record([with_known_upscaling(one.row, self._known) for one in batch])

    def _is_back(self, one: Ingested) -> bool:
        """Return whether the archive has the pixels, by this run or one that was killed."""
        return one.stored or (one.row.item in self._found.again and one.row.state == INGESTED)

    def record(self, rows: list[ItemRow]) -> None:
        """Record the rows of items where they are not as they were."""
        self._ledger.put_items(row for row in rows if row != self._known.get(row.item))
        self.rows += rows


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
