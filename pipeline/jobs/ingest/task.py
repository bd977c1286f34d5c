"""Ingesting on a worker: some files become images of their own, or one chunk of a stack.

A file's bytes are read once; the hash, the pixels and the metadata all come from those bytes, so if
a file is replaced at that time, all three are of the old file or all of the new one. Pictures that
wait for their chunk are in `waiting_room` for that time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.compute.picture_tasks import PictureTask, ingested_row, rejected_row, small_groups
from pipeline.compute.silence import each_unless_silent
from pipeline.errors import (
    ArchiveError,
    PictureError,
    SourceError,
    StoreError,
    UnreadableError,
    UnsupportedError,
)
from pipeline.jobs.ingest.lr_items import notes_of, with_facts, with_place
from pipeline.jobs.ingest.own_file import own_file
from pipeline.jobs.wear import TRACES_KEY, verdict
from pipeline.pictures.files import decode_picture
from pipeline.pictures.metadata.metadata import Metadata, to_json
from pipeline.pictures.traces import Traces, traces
from pipeline.sources.source_file import SourceFile
from pipeline.storage.archive import SOURCE_SHARD_PX, Archive
from pipeline.storage.image import Layout
from pipeline.storage.spool import spooling_in
from pipeline.storage.stack_kind import Kind
from pipeline.storage.store import place_of
from pipeline.storage.waiting_room import Held, WaitingRoom, taken, waiting_room

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from pipeline.pictures.picture import Picture
    from pipeline.storage.ledger import ItemRow, ObjectRow
    from pipeline.storage.stack_index import Member
    from pipeline.storage.store import Place


@dataclass(frozen=True, slots=True)
class IngestTask(PictureTask[SourceFile]):
    """Some files to bring into an archive as images of their own, unless they fit a stack."""

    archive_dir: Place
    known: Mapping[str, str]
    """Content hashes, by item, that the archive should hold."""
    stacked: Mapping[str, Member]
    """Where those of them are that are in a stack."""
    alone: bool = False
    """Whether small pictures are stored as images too, instead of in a stack."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Content hashes, by item, of files and objects that did not change since they were read."""
    let_go: Mapping[str, ItemRow] = field(default_factory=dict)
    """What is known of items whose pixels the archive let go, and need not hold."""

    def places(self) -> tuple[Place, ...]:
        """Return the archive, and where the first of the files is."""
        return (self.archive_dir, *(place_of(file.address) for file in self.pictures[:1]))

    def failed(self, error: BaseException) -> list[Ingested]:
        """Return that no file could be ingested: a worker died, or the disk is full."""
        return _all_rejected(self.pictures, error)


@dataclass(frozen=True, slots=True)
class PackTask:
    """The files that make up one chunk of a stack, by their places."""

    stack: str
    chunk: int
    waiting: tuple[Ingested, ...]
    archive_dir: Place

    def one_by_one(self) -> Iterator[PackTask]:
        """Yield the task itself: a chunk is written whole."""
        yield self

    def failed(self, error: BaseException) -> list[Ingested]:
        """Return that no file could be packed: a worker died, or the disk is full."""
        return _all_rejected((one.file for one in self.waiting), error)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a file; one that waits for a stack is not stored yet."""

    file: SourceFile
    row: ItemRow
    waits: bool = False
    notes: tuple[str, ...] | None = ()
    """What was not kept of it; None where nothing new was learnt."""
    traces: Traces | None = None
    """Of a picture that waits."""
    held: Held | None = None
    """Where it waits; None where it is to be read again."""
    stored: bool = False
    """Whether its pixels were written to the archive."""
    seal: str = ""
    """Of its image's metadata, as `Archive.seal` says; "" where it is in a stack."""

    @property
    def worn(self) -> bool:
        """Return whether a picture that waits is for a network that restores."""
        return self.traces is not None and verdict(self.traces)[0]

    @property
    def kind(self) -> Kind:
        """Return the kind of its picture."""
        row = self.row
        return Kind(row.channels, row.height, row.width, row.dtype)


def plan_ingest(
    files: Iterable[SourceFile],
    *,
    archive_dir: Place,
    known: Mapping[str, str],
    stacked: Mapping[str, Member],
    alone: bool = False,
    unread: Mapping[str, ObjectRow] | None = None,
    let_go: Mapping[str, ItemRow] | None = None,
) -> Iterator[IngestTask]:
    """Yield tasks of few files or few bytes that hold each of `files` once, in their order."""
    for group in small_groups(files):
        items = [file.item for file in group]
        yield IngestTask(
            group,
            archive_dir,
            {item: known[item] for item in items if item in known},
            {item: stacked[item] for item in items if item in stacked},
            alone,
            {file.item: seen.sha256 for file in group if (seen := _seen(file, unread or {}))},
            {item: let_go[item] for item in items if item in let_go} if let_go else {},
        )


def _seen(file: SourceFile, unread: Mapping[str, ObjectRow]) -> ObjectRow | None:
    """Return what is known of a file or object with this very etag and size."""
    row = unread.get(file.item)
    same = row is not None and (row.etag, row.size_bytes) == (file.etag, file.size_bytes)
    return row if same else None


def ingest_files(task: IngestTask) -> list[Ingested]:
    """Bring the files of a task into the archive; safe to run twice.

    A file whose content the archive holds already is only read. One that is not a picture gives a
    row in state rejected, with the reason, and leaves the archive as it was.
    """
    archive = Archive.open(task.archive_dir)
    with waiting_room(task.archive_dir) as room:
        ingested = each_unless_silent(
            task.pictures,
            lambda file: _ingested(file, archive, task, room),
            *task.places(),
            row_of=lambda one: one.row,
            failed=lambda file, why: _rejected(file, ingested_row(file), task.stacked, why),
        )
        return list(ingested)


def pack_chunk(task: PackTask) -> list[Ingested]:
    """Write the pictures of a task into one chunk; safe to run twice.

    A file that is read again and no longer a picture of the stack's kind is rejected and leaves a
    hole.
    """
    archive = Archive.open(task.archive_dir)
    stack = archive.stack(task.stack)
    done, pixels, members = [], [], {}
    for place, one in enumerate(task.waiting):
        try:
            now, own, said = _held_picture(one) or _picture_again(one, stack.kind)
        except (PictureError, SourceError, StoreError) as error:
            done.append(Ingested(one.file, rejected_row(ingested_row(one.file), error)))
            continue
        pixels.append(own)
        members[place] = {"item": one.file.item, **said}
        row = replace(now.row, stack=task.stack, chunk=task.chunk, place=place)
        done.append(Ingested(one.file, row, notes=now.notes, stored=True))
    if members:
        stack.write(task.chunk, pixels, members, {})
    for member in members.values():
        archive.delete_own(member["item"])  # It was an image of its own before.
    return done


_Waited = tuple[Ingested, "NDArray[Any]", "dict[str, Any]"]
"""A picture that waited, its pixels, and what the archive is to say of it."""


def _held_picture(one: Ingested) -> _Waited | None:
    """Return a picture as it was decoded when it began to wait; None where that is not kept."""
    shape = (one.row.channels, one.row.height, one.row.width)
    found = None if one.held is None else taken(one.held, shape, one.row.dtype)
    return None if found is None else (one, *found)


def _picture_again(one: Ingested, kind: Kind) -> _Waited:
    """Return a picture as its file is now.

    Raises:
        SourceError: if it cannot be read, or is of another kind by now.
        PictureError: if it cannot be decoded.
    """
    data, row = _read(one.file)
    picture, row = _picture(data, one.file, row)
    now = Ingested(one.file, row, notes=picture.metadata.notes)
    _check_kind(now, kind)
    same = one.traces if row.sha256 == one.row.sha256 else None
    said = _provenance(row, one.file, picture.metadata, same or _traces(data, picture))
    return now, picture.pixels, said


def refused(file: SourceFile, stacked: Mapping[str, Member]) -> Ingested | None:
    """Return the outcome of a file that the listing says cannot be read, None for all others."""
    try:
        file.check_listed()
    except (SourceError, UnsupportedError) as error:
        return _rejected(file, ingested_row(file), stacked, error)
    return None


def _rejected(
    file: SourceFile, row: ItemRow, stacked: Mapping[str, Member], error: BaseException
) -> Ingested:
    return Ingested(file, rejected_row(with_place(row, stacked.get(file.item)), error))


def _ingested(file: SourceFile, archive: Archive, task: IngestTask, room: WaitingRoom) -> Ingested:
    with spooling_in(task.archive_dir):
        return _brought_in(file, archive, task, room)


def _brought_in(
    file: SourceFile, archive: Archive, task: IngestTask, room: WaitingRoom
) -> Ingested:
    row = ingested_row(file)
    try:
        if file.item in task.unread:
            row = replace(row, sha256=task.unread[file.item])
            if (found := _unchanged(file, row, archive, task)) is not None:
                return found
        data, row = _read(file)
        if (found := _unchanged(file, row, archive, task)) is not None:
            return found
        picture, row = _picture(data, file, row)
        seen = _traces(data, picture)
        if Ingested(file, row).kind.is_small and not task.alone:
            held = room.hold(picture.pixels, _provenance(row, file, picture.metadata, seen))
            return Ingested(file, row, True, picture.metadata.notes, seen, held)
        _store(archive, file, data, picture, row, seen)
        seal = archive.seal(file.item)
        return Ingested(file, row, notes=picture.metadata.notes, stored=True, seal=seal)
    except Exception as error:
        # The file's border: whatever went wrong is its outcome, and the others go on.
        return _rejected(file, row, task.stacked, error)


def _read(file: SourceFile) -> tuple[bytes, ItemRow]:
    data = file.read()
    sha256 = hashlib.sha256(data).hexdigest()
    return data, replace(ingested_row(file), sha256=sha256, size_bytes=len(data))


def _picture(data: bytes, file: SourceFile, row: ItemRow) -> tuple[Picture, ItemRow]:
    picture = decode_picture(data, name=file.item)
    return picture, with_facts(row, picture.pixels.shape, str(picture.pixels.dtype))


def _unchanged(
    file: SourceFile, row: ItemRow, archive: Archive, task: IngestTask
) -> Ingested | None:
    """Return the outcome of a file whose very content the archive holds, else None."""
    # Before the item is opened: what changes after that has another seal.
    seal = "" if row.item in task.stacked else archive.seal(row.item)
    found = _held(row, archive, task)
    if found is None:
        return None
    return Ingested(file, found, notes=_notes_on(found, archive, task), seal=seal)


def _held(row: ItemRow, archive: Archive, task: IngestTask) -> ItemRow | None:
    """Return the row of an item that the archive holds with this very content, or let go."""
    gone = task.let_go.get(row.item)
    if gone is not None and gone.sha256 == row.sha256:
        return replace(gone, source=row.source, size_bytes=row.size_bytes)
    member = task.stacked.get(row.item)
    if member is not None:
        if member.sha256 != row.sha256:
            return None
        kind = Kind.of(member.stack)
        archive.delete_own(row.item)
        row = with_place(row, member)
        size = member.size or (kind.height, kind.width)
        return with_facts(row, (kind.channels, *size), kind.dtype)
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
    return with_facts(row, (image.channels, *image.size), str(image.dtype))


def _notes_on(row: ItemRow, archive: Archive, task: IngestTask) -> tuple[str, ...] | None:
    """Return the notes on an unchanged item that the ledger does not know, else None."""
    if row.item in task.known:
        return None
    return notes_of(archive.image_at(row.item, stack=row.stack, chunk=row.chunk, place=row.place))


def _check_kind(found: Ingested, kind: Kind) -> None:
    if not kind.takes(found.kind):
        raise SourceError(
            f"{found.file.item} was changed while it was read: it is of {found.kind.stack}, "
            f"expected {kind.stack}; ingest it again"
        )


def _store(
    archive: Archive, file: SourceFile, data: bytes, picture: Picture, row: ItemRow, seen: Traces
) -> None:
    provenance = _provenance(row, file, picture.metadata, seen)
    if archive.takes_files and (own := own_file(data, picture)) is not None:
        archive.create_of_file(file.item, own, provenance=provenance)
        return
    archive.create(
        file.item,
        shape=(row.channels, row.height, row.width),
        dtype=row.dtype,
        layout=Layout.of(height=row.height, width=row.width, shard_px=SOURCE_SHARD_PX),
        provenance=provenance,
        pixels=picture.pixels,
    )


def _traces(data: bytes, picture: Picture) -> Traces:
    return traces(data, picture.metadata.format, picture.pixels)


def _provenance(row: ItemRow, file: SourceFile, metadata: Metadata, seen: Traces) -> dict[str, Any]:
    return {
        "source": file.address,
        "sha256": row.sha256,
        "size_bytes": row.size_bytes,
        "mtime_ns": file.mtime_ns if file.modified_ns is None else file.modified_ns,
        **to_json(metadata),
        TRACES_KEY: seen.to_json(),
    }


def _all_rejected(files: Iterable[SourceFile], error: BaseException) -> list[Ingested]:
    return [Ingested(file, rejected_row(ingested_row(file), error)) for file in files]
