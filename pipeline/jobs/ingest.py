"""Ingest: from picture files to items of an LR archive.

A file's bytes are read once; the hash, the pixels and the metadata all come from those bytes,
so a file that is replaced meanwhile is seen either before or after, never mixed.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compute.cluster import Outcome, Stop, submit_windowed
from pipeline.errors import ArchiveError, PictureError, SourceError, UnreadableError
from pipeline.geometry import cuts
from pipeline.pictures.files import decode_picture
from pipeline.pictures.metadata import Metadata, to_json
from pipeline.sources.left_out import LeftOut
from pipeline.sources.listing import SourceFile, check_same_source, list_source
from pipeline.storage.access import close_to, readers
from pipeline.storage.archive import SOURCE_SHARD_PX, Archive, clashing
from pipeline.storage.image import Layout
from pipeline.storage.ledger import INGEST, INGESTED, REJECTED, VANISHED, ItemRow, Ledger
from pipeline.storage.stack import LEAST_MEMBERS, Kind, Member, StackedImage, discard_broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from pipeline.pictures.picture import Picture
    from pipeline.storage.image import StoredImage

_BATCH = 64
_FILES_A_TASK = 32
_BYTES_A_TASK = 4 * 2**20


@dataclass(frozen=True, slots=True)
class IngestTask:
    """Some files to bring into an archive as images of their own, unless they fit a stack."""

    files: tuple[SourceFile, ...]
    archive_dir: Path
    known: Mapping[str, str]
    """Content hashes, by item, that the archive should hold."""
    stacked: Mapping[str, Member]
    """Where those of them lie that are in a stack."""
    alone: bool = False
    """Whether small pictures are stored too, and not left for a stack."""


@dataclass(frozen=True, slots=True)
class PackTask:
    """The files that make up one chunk of a stack, by their places."""

    stack: str
    chunk: int
    files: tuple[SourceFile, ...]
    archive_dir: Path


@dataclass(frozen=True, slots=True)
class Ingestion:
    """What an ingestion came to: the rows of all files, and what the listing says besides."""

    rows: list[ItemRow]
    left_out: LeftOut = field(default_factory=LeftOut)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a file; one that waits for a stack is not stored yet."""

    file: SourceFile
    row: ItemRow
    waits: bool = False
    notes: tuple[str, ...] | None = ()
    """What was not kept of it; None where nothing new was learnt."""

    @property
    def kind(self) -> Kind:
        """Return the kind of its picture."""
        row = self.row
        return Kind(row.channels, row.height, row.width, row.dtype)


def plan_ingest(
    files: Iterable[SourceFile],
    *,
    archive_dir: Path,
    known: Mapping[str, str],
    stacked: Mapping[str, Member],
    alone: bool = False,
) -> Iterator[IngestTask]:
    """Yield tasks of few files or few bytes that hold each of `files` once, in their order."""
    group: list[SourceFile] = []

    def task() -> IngestTask:
        items = [file.item for file in group]
        return IngestTask(
            tuple(group),
            archive_dir,
            {item: known[item] for item in items if item in known},
            {item: stacked[item] for item in items if item in stacked},
            alone,
        )

    for file in files:
        size = sum(f.size_bytes for f in group) + file.size_bytes
        if group and (len(group) == _FILES_A_TASK or size > _BYTES_A_TASK):
            yield task()
            group = []
        group.append(file)
    if group:
        yield task()


def ingest_files(task: IngestTask) -> list[Ingested]:
    """Bring the files of a task into the archive; safe to run twice.

    A file whose content the archive holds already is only read. One that is no picture gives a
    row in state rejected, with the reason, and leaves the archive as it was.
    """
    archive = Archive.open(task.archive_dir)
    return [_ingested(file, archive, task) for file in task.files]


def pack_chunk(task: PackTask) -> list[Ingested]:
    """Write the pictures of a task into one chunk; safe to run twice.

    A file that is no picture of the stack's size any more is rejected and leaves a hole.
    """
    archive = Archive.open(task.archive_dir)
    stack = archive.stack(task.stack)
    done, pixels, members = [], [], {}
    for place, file in enumerate(task.files):
        row = _row(file)
        try:
            data, row = _read(file)
            picture, row = _picture(data, file, row)
            _check_kind(Ingested(file, row), stack.kind)
        except (PictureError, SourceError) as error:
            done.append(Ingested(file, _rejected(row, error)))
            continue
        pixels.append(picture.pixels)
        members[place] = {"item": file.item, **_provenance(row, file, picture.metadata)}
        row = replace(row, stack=task.stack, chunk=task.chunk, place=place)
        done.append(Ingested(file, row, notes=picture.metadata.notes))
    if members:
        stack.write(task.chunk, np.stack(pixels), members, {})
    for member in members.values():
        archive.delete_own(member["item"])  # Of the time when it was an image of its own.
    return done


def run_ingest(
    source: str,
    *,
    archive_dir: Path,
    ledger: Ledger,
    client: Client,
    names: str = "",
    skip: Path | None = None,
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> Ingestion:
    """Ingest everything at `source`, listed as `list_source` says; return what it came to.

    Many small pictures of one size go into stacks, all others become images of their own. The
    ledger keeps the fingerprint and unit count of items whose content did not change. Items of an
    earlier listing that are gone from `source` become vanished; their pixels stay. Those in a
    folder that cannot be looked into today stay what they were.

    Raises:
        SourceError: if there is nothing at `source`, or nothing of what was there before.
    """
    files = list_source(source, names=names, skip=skip)
    known = {row.item: row for row in ledger.items()}
    before = [item for item, row in known.items() if row.state == INGESTED]
    listed = {file.item for file in files} | _out_of_sight(known, files)
    check_same_source(source, listed, before)
    archive = Archive.open_or_create(archive_dir.absolute())
    allowed = readers((file.address for file in files), near=archive.path)
    close_to(archive.path, allowed)
    ledger.close_to(allowed)
    others = clashing(file.item for file in files)
    clashed = [_clashed(file, others[file.item]) for file in files if file.item in others]
    ledger.put_items(clashed)
    todo = [file for file in files if file.item not in others]
    lain = _tidied(archive)
    into = _Ingest(archive, ledger, client, stop or Stop(), known, len(todo), report)
    waiting = into.store(todo)
    alone, chunks = _shared_out(waiting, archive)
    into.pack(chunks)
    into.store(alone, alone=True)
    # Only now: an interruption leaves an item at both places, never at none.
    _leave(archive, lain, into.rows)
    ledger.put_items(_vanished(known, listed))
    return Ingestion([*clashed, *into.rows], files.left_out, tuple(files.remarks()))


class _Ingest:
    """One ingestion on its way: tasks go out, rows come back and are recorded in batches."""

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

    def store(self, files: Iterable[SourceFile], *, alone: bool = False) -> list[Ingested]:
        """Store files as images of their own; return those that wait for a stack instead."""
        tasks = plan_ingest(
            files,
            archive_dir=self._archive.path,
            known={i: r.sha256 for i, r in self._known.items() if r.state == INGESTED},
            stacked=_sound(self._archive),
            alone=alone,
        )
        found = self._run(ingest_files, tasks, _file_by_file)
        return [one for one in found if one.waits]

    def pack(self, chunks: Iterable[PackTask]) -> None:
        """Write new chunks."""
        self._run(pack_chunk, chunks, lambda task: (task,))

    def _run(
        self,
        work: Callable[[Any], list[Ingested]],
        tasks: Iterable[Any],
        split: Callable[[Any], Iterable[Any]],
    ) -> list[Ingested]:
        found: list[Ingested] = []
        batch: list[ItemRow] = []
        for outcome in submit_windowed(
            self._client, work, iter(tasks), stop=self._stop, split=split
        ):
            results = _results(outcome)
            found += results
            batch += [_kept(one.row, self._known) for one in results if not one.waits]
            self._note(results)
            if len(batch) >= _BATCH:
                self._record(batch)
                batch = []
            self._report(len(self.rows) + len(batch), self._total)
        self._record(batch)
        return found

    def _note(self, results: Iterable[Ingested]) -> None:
        """Record what was not kept; an item that was never known has no notes to be replaced."""
        notes = {r.row.item: r.notes for r in results if not r.waits and r.notes is not None}
        news = {item: found for item, found in notes.items() if found or item in self._known}
        self._ledger.put_notes(INGEST, news)

    def _record(self, batch: list[ItemRow]) -> None:
        self._ledger.put_items(batch)
        self.rows += batch


def _tidied(archive: Archive) -> Mapping[str, Member]:
    """Return where items lie in stacks, once what an interruption or a fault left is removed."""
    index = archive.index()
    discard_broken(archive.path, index.broken)
    _drop(archive, (member for _, member in index.outdated))
    return index.members


def _sound(archive: Archive) -> dict[str, Member]:
    """Return the members of all stacks whose arrays and pixels are there."""
    stacks = {stack: archive.stack(stack) for stack in archive.stacks()}
    chunks = {(s, n) for s, stack in stacks.items() for n in stack.numbers() if stack.has_pixels(n)}
    members = archive.index().members
    return {item: m for item, m in members.items() if (m.stack, m.chunk) in chunks}


def _leave(archive: Archive, before: Mapping[str, Member], rows: Iterable[ItemRow]) -> None:
    """Leave holes where items lay that are in other places now, or images of their own."""
    now = archive.index()
    held = {*now.members.items(), *now.outdated}
    moved = []
    for row in rows:
        member = before.get(row.item)
        # In a stack that was made anew, others lie at the same places.
        if member is None or row.state != INGESTED or (row.item, member) not in held:
            continue
        if (row.stack, row.chunk, row.place) != (member.stack, member.chunk, member.place):
            moved.append(member)
    _drop(archive, moved)


def _drop(archive: Archive, members: Iterable[Member]) -> None:
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    for member in members:
        places[member.stack, member.chunk].append(member.place)
    for (stack, chunk), gone in places.items():
        if archive.has_stack(stack):
            archive.stack(stack).drop(chunk, gone)


def adopt_archive(archive: Archive, ledger: Ledger) -> None:
    """Record the items of an archive that lies outside the job as ingested, changed or not.

    A damaged item is rejected with the reason, and does not stop the others.
    """
    known = {row.item: row for row in ledger.items()}
    notes: dict[str, tuple[str, ...]] = {}
    rows = list(_archived(archive, known, notes))
    ledger.put_items(rows)
    ledger.put_notes(INGEST, notes)
    ledger.put_items(_vanished(known, {row.item for row in rows}))


def _ingested(file: SourceFile, archive: Archive, task: IngestTask) -> Ingested:
    row = _row(file)
    try:
        data, row = _read(file)
        held = _held(row, archive, task)
        if held is not None:
            return Ingested(file, held, notes=_notes_on(held, archive, task))
        picture, row = _picture(data, file, row)
        waits = Ingested(file, row).kind.is_small and not task.alone
        if not waits:
            _store(archive, file, picture, row)
        return Ingested(file, row, waits, picture.metadata.notes)
    except Exception as error:
        # The file's border: whatever went wrong is its outcome, and the others go on.
        return Ingested(file, _rejected(_placed(row, task.stacked.get(file.item)), error))


def _read(file: SourceFile) -> tuple[bytes, ItemRow]:
    data = file.read()
    sha256 = hashlib.sha256(data).hexdigest()
    return data, replace(_row(file), sha256=sha256, size_bytes=len(data))


def _picture(data: bytes, file: SourceFile, row: ItemRow) -> tuple[Picture, ItemRow]:
    picture = decode_picture(data, name=file.item)
    return picture, _with_facts(row, picture.pixels.shape, str(picture.pixels.dtype))


def _held(row: ItemRow, archive: Archive, task: IngestTask) -> ItemRow | None:
    """Return the row of an item that the archive holds with this very content."""
    member = task.stacked.get(row.item)
    if member is not None:
        if member.sha256 != row.sha256:
            return None
        kind = Kind.of(member.stack)
        archive.delete_own(row.item)
        row = _placed(row, member)
        return _with_facts(row, (kind.channels, kind.height, kind.width), kind.dtype)
    if task.known.get(row.item) != row.sha256:
        return None
    try:
        image = archive.image_at(row.item, stack="", chunk=0, place=0)
    except UnreadableError:
        raise
    except ArchiveError:
        return None
    if image.provenance.get("sha256") != row.sha256:
        return None
    return _with_facts(row, (image.channels, *image.size), str(image.dtype))


def _notes_on(row: ItemRow, archive: Archive, task: IngestTask) -> tuple[str, ...] | None:
    """Return the notes on a held item that the ledger does not know, None on one that it does."""
    if row.item in task.known:
        return None
    return _noted(archive.image_at(row.item, stack=row.stack, chunk=row.chunk, place=row.place))


def _noted(image: StoredImage) -> tuple[str, ...]:
    """Return the notes in an image's provenance; one of an earlier upres has none."""
    return tuple(image.provenance.get("notes", ()))


def _shared_out(
    waiting: Iterable[Ingested], archive: Archive
) -> tuple[list[SourceFile], list[PackTask]]:
    """Return the files that stay alone, and the chunks that the others make up.

    New chunks only: those that are there are not touched.
    """
    kinds: dict[Kind, list[SourceFile]] = defaultdict(list)
    for one in waiting:
        kinds[one.kind].append(one.file)
    alone: list[SourceFile] = []
    chunks: list[PackTask] = []
    for kind, files in sorted(kinds.items(), key=lambda pair: pair[0]):
        is_there = archive.has_stack(kind.stack)
        if len(files) < LEAST_MEMBERS and not is_there:
            alone += files
            continue
        chunks += _chunks(kind, sorted(files, key=lambda file: file.item), archive)
    return sorted(alone, key=lambda file: file.item), chunks


def _chunks(kind: Kind, files: Sequence[SourceFile], archive: Archive) -> Iterator[PackTask]:
    if archive.has_stack(kind.stack):
        stack = archive.stack(kind.stack)
        first = max(stack.numbers(), default=-1) + 1
    else:
        size = kind.chunk_members
        stack = archive.create_stack(kind.stack, kind, chunk_members=size, chunks=0)
        first = 0
    groups = cuts(len(files), stack.chunk_members)
    stack.grow(first + len(groups))
    for chunk, group in enumerate(groups, first):
        yield PackTask(kind.stack, chunk, tuple(files[group.index]), archive.path)


def _placed(row: ItemRow, member: Member | None) -> ItemRow:
    if member is None:
        return row
    return replace(row, stack=member.stack, chunk=member.chunk, place=member.place)


def _check_kind(found: Ingested, kind: Kind) -> None:
    if found.kind != kind:
        raise SourceError(
            f"{found.file.item} was changed while it was read: it is of {found.kind.stack}, "
            f"expected {kind.stack}; ingest it again"
        )


def _store(archive: Archive, file: SourceFile, picture: Picture, row: ItemRow) -> None:
    archive.create(
        file.item,
        shape=(row.channels, row.height, row.width),
        dtype=row.dtype,
        layout=Layout.of(height=row.height, width=row.width, shard_px=SOURCE_SHARD_PX),
        provenance=_provenance(row, file, picture.metadata),
        pixels=picture.pixels,
    )


def _provenance(row: ItemRow, file: SourceFile, metadata: Metadata) -> dict[str, Any]:
    return {
        "source": file.address,
        "sha256": row.sha256,
        "size_bytes": row.size_bytes,
        "mtime_ns": file.mtime_ns if file.modified_ns is None else file.modified_ns,
        **to_json(metadata),
    }


def _row(file: SourceFile) -> ItemRow:
    return ItemRow(item=file.item, state=INGESTED, source=file.address, size_bytes=file.size_bytes)


def _rejected(row: ItemRow, error: BaseException) -> ItemRow:
    return replace(row, state=REJECTED, error=type(error).__name__, message=str(error))


def _clashed(file: SourceFile, other: str) -> ItemRow:
    """Return the row of a file whose item would lie inside another one."""
    error = ArchiveError(f"would lie inside the item {other!r}; rename one of the two")
    return _rejected(_row(file), error)


def _file_by_file(task: IngestTask) -> Iterator[IngestTask]:
    """Yield a task for each file: one that kills its worker must not take others with it."""
    for file in task.files:
        yield replace(task, files=(file,))


def _results(outcome: Outcome[Any, list[Ingested]]) -> list[Ingested]:
    """Return what became of the files of a task; a dead worker or a full disk rejects them."""
    if outcome.result is not None:
        return outcome.result
    error: Any = outcome.error
    return [Ingested(file, _rejected(_row(file), error)) for file in outcome.task.files]


def _kept(row: ItemRow, known: Mapping[str, ItemRow]) -> ItemRow:
    before = known.get(row.item)
    if before is None or row.state != INGESTED or before.sha256 != row.sha256:
        return row
    return replace(row, fingerprint=before.fingerprint, units=before.units)


def _out_of_sight(known: Iterable[str], files: Iterable[SourceFile]) -> set[str]:
    """Return the known items in a folder that is listed as one thing, as it cannot be opened.

    It may be closed to this user, or a link to a disk that is not mounted: nothing in it is gone.
    """
    closed = {file.item for file in files if file.refused is not None}
    if not closed:
        return set()
    return {i for i in known if not closed.isdisjoint(accumulate(i.split("/"), "{}/{}".format))}


def _vanished(known: Mapping[str, ItemRow], listed: set[str]) -> list[ItemRow]:
    return [
        replace(row, state=VANISHED, message=f"{row.source} is gone from the source, or left out")
        for item, row in known.items()
        if item not in listed and row.state != VANISHED
    ]


def _archived(
    archive: Archive, known: Mapping[str, ItemRow], notes: dict[str, tuple[str, ...]]
) -> Iterator[ItemRow]:
    """Yield the row of each item of an archive, and add its notes to `notes`."""
    stacked = archive.index().members
    for item, image in archive.survey():
        if isinstance(image, ArchiveError):
            yield ItemRow(item=item, state=REJECTED, error=type(image).__name__, message=str(image))
            continue
        if (found := _noted(image)) or item in known:
            notes[item] = found
        size_bytes = image.provenance.get("size_bytes", 0)
        row = ItemRow(
            item=item,
            state=INGESTED,
            source=str(image.provenance.get("source", "")),
            sha256=str(image.provenance.get("sha256", "")),
            size_bytes=size_bytes if isinstance(size_bytes, int) else 0,
        )
        if isinstance(image, StackedImage):
            row = _placed(row, stacked.get(item))
        yield _kept(_with_facts(row, (image.channels, *image.size), str(image.dtype)), known)


def _with_facts(row: ItemRow, shape: tuple[int, ...], dtype: str) -> ItemRow:
    return replace(row, channels=shape[0], height=shape[1], width=shape[2], dtype=dtype)
