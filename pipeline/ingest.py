"""Ingest: from picture files to items of an LR archive.

The file's bytes are read once; the hash, the pixels and the metadata all come from those bytes,
so a file that is replaced meanwhile is seen either before or after, never mixed.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.cluster import Outcome, Stop, submit_windowed
from pipeline.errors import ArchiveError, PictureError, SourceError
from pipeline.images import Metadata, Picture, read_picture
from pipeline.sources import SourceFile, list_source
from pipeline.storage.archive import SOURCE_SHARD_PX, Archive, Layout, clashing
from pipeline.storage.ledger import INGESTED, REJECTED, VANISHED, ItemRow, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.cluster import Client

_BATCH = 64


@dataclass(frozen=True, slots=True)
class IngestTask:
    """One file to bring into an archive, and the content hash that the archive should hold."""

    file: SourceFile
    archive_dir: Path
    known_sha256: str


def plan_ingest(source: str, *, archive_dir: Path, known: Sequence[ItemRow]) -> list[IngestTask]:
    """Return one task for each file of `source`, in the order of their ids.

    Raises:
        SourceError: if there is nothing at `source`.
    """
    hashes = {row.item: row.sha256 for row in known if row.state == INGESTED}
    return [
        IngestTask(file, archive_dir, hashes.get(file.item, "")) for file in list_source(source)
    ]


def ingest_file(task: IngestTask) -> ItemRow:
    """Bring one file into the archive and return its row; safe to run twice.

    A file whose content the archive holds already is only read. One that is no picture gives a
    row in state rejected, with the reason, and leaves the archive as it was.
    """
    file = task.file
    row = ItemRow(item=file.item, state=INGESTED, source=file.address, size_bytes=file.size_bytes)
    try:
        data = file.read()
        sha256 = hashlib.sha256(data).hexdigest()
        row = replace(row, sha256=sha256, size_bytes=len(data))
        archive = Archive.open(task.archive_dir)
        if sha256 == task.known_sha256:
            held = archive.provenance(file.item)
            if held is not None and held.get("sha256") == sha256:
                image = archive.image(file.item)
                return _with_facts(row, (image.channels, *image.size), str(image.dtype))
        picture = read_picture(data, name=file.item)
        _store(archive, file, picture, sha256=sha256, size_bytes=len(data))
        return _with_facts(row, picture.pixels.shape, str(picture.pixels.dtype))
    except (PictureError, SourceError, ArchiveError) as error:
        return replace(row, state=REJECTED, error=type(error).__name__, message=str(error))


def run_ingest(
    source: str,
    *,
    archive_dir: Path,
    ledger: Ledger,
    client: Client,
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[ItemRow]:
    """Ingest everything at `source`; return the rows of all its files.

    The ledger keeps the fingerprint and unit count of items whose content did not change. Items
    of an earlier listing that are gone from `source` become vanished; their pixels stay.

    Raises:
        SourceError: if there is nothing at `source`, or nothing of what was there before.
    """
    archive_dir = archive_dir.absolute()
    known = {row.item: row for row in ledger.items()}
    tasks = plan_ingest(source, archive_dir=archive_dir, known=list(known.values()))
    _check_same_source(source, tasks, known)
    Archive.open_or_create(archive_dir)
    others = clashing(task.file.item for task in tasks)
    rows = [_clashed(task, others[task.file.item]) for task in tasks if task.file.item in others]
    ledger.put_items(rows)
    tasks = [task for task in tasks if task.file.item not in others]
    listed = {task.file.item for task in tasks} | set(others)
    batch: list[ItemRow] = []
    for outcome in submit_windowed(client, ingest_file, tasks, stop=stop):
        batch.append(_kept(_row_of(outcome), known))
        if len(batch) == _BATCH:
            ledger.put_items(batch)
            rows, batch = rows + batch, []
        report(len(rows) + len(batch), len(tasks))
    ledger.put_items(batch)
    ledger.put_items(_vanished(known, listed))
    return rows + batch


def adopt_archive(archive: Archive, ledger: Ledger) -> None:
    """Record the items of an archive that lies outside the job as ingested, changed or not.

    A damaged item is rejected with the reason, and does not stop the others.
    """
    known = {row.item: row for row in ledger.items()}
    rows = list(_archived(archive, known))
    ledger.put_items(rows)
    ledger.put_items(_vanished(known, {row.item for row in rows}))


def metadata_of(provenance: Mapping[str, Any]) -> Metadata:
    """Return the metadata that an item's provenance carries."""
    dpi = provenance.get("dpi")
    return Metadata(
        format=provenance["format"],
        mode=provenance["mode"],
        icc=_decoded(provenance.get("icc")),
        exif=_decoded(provenance.get("exif")),
        xmp=_decoded(provenance.get("xmp")),
        dpi=(dpi[0], dpi[1]) if dpi else None,
    )


def _store(
    archive: Archive, file: SourceFile, picture: Picture, *, sha256: str, size_bytes: int
) -> None:
    channels, height, width = picture.pixels.shape
    archive.create(
        file.item,
        shape=(channels, height, width),
        dtype=str(picture.pixels.dtype),
        layout=Layout.of(height=height, width=width, shard_px=SOURCE_SHARD_PX),
        provenance={
            "source": file.address,
            "sha256": sha256,
            "size_bytes": size_bytes,
            "mtime_ns": file.mtime_ns,
            **_encoded(picture.metadata),
        },
        pixels=picture.pixels,
    )


def _encoded(metadata: Metadata) -> dict[str, Any]:
    """Return the metadata as JSON values; bytes in base64."""
    values: dict[str, Any] = {"format": metadata.format, "mode": metadata.mode}
    for name in ("icc", "exif", "xmp"):
        content = getattr(metadata, name)
        if content is not None:
            values[name] = base64.b64encode(content).decode("ascii")
    if metadata.dpi is not None:
        values["dpi"] = list(metadata.dpi)
    return values


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _check_same_source(
    source: str, tasks: Sequence[IngestTask], known: Mapping[str, ItemRow]
) -> None:
    """Refuse a source that holds none of the items: an unmounted disk must not retire them all."""
    before = {item for item, row in known.items() if row.state == INGESTED}
    if before and before.isdisjoint(task.file.item for task in tasks):
        raise SourceError(
            f"{source} holds none of the {len(before)} pictures that came from it before, such as "
            f"{min(before)}; is it the right folder, and mounted? for other pictures use another "
            "job or archive"
        )


def _clashed(task: IngestTask, other: str) -> ItemRow:
    """Return the row of a file whose item would lie inside another one."""
    return ItemRow(
        item=task.file.item,
        state=REJECTED,
        error="ArchiveError",
        message=f"would lie inside the item {other!r}; rename one of the two",
        source=task.file.address,
        size_bytes=task.file.size_bytes,
    )


def _row_of(outcome: Outcome[IngestTask, ItemRow]) -> ItemRow:
    """Return the row of an outcome; a dead worker or a full disk rejects the item."""
    if outcome.result is not None:
        return outcome.result
    file, error = outcome.task.file, outcome.error
    return ItemRow(
        item=file.item,
        state=REJECTED,
        error=type(error).__name__,
        message=str(error),
        source=file.address,
        size_bytes=file.size_bytes,
    )


def _kept(row: ItemRow, known: Mapping[str, ItemRow]) -> ItemRow:
    before = known.get(row.item)
    if before is None or row.state != INGESTED or before.sha256 != row.sha256:
        return row
    return replace(row, fingerprint=before.fingerprint, units=before.units)


def _vanished(known: Mapping[str, ItemRow], listed: set[str]) -> list[ItemRow]:
    return [
        replace(row, state=VANISHED, message=f"{row.source} is gone from the source")
        for item, row in known.items()
        if item not in listed and row.state != VANISHED
    ]


def _archived(archive: Archive, known: Mapping[str, ItemRow]) -> Iterator[ItemRow]:
    for item, image in archive.survey():
        if isinstance(image, ArchiveError):
            yield ItemRow(item=item, state=REJECTED, error=type(image).__name__, message=str(image))
            continue
        size_bytes = image.provenance.get("size_bytes", 0)
        row = ItemRow(
            item=item,
            state=INGESTED,
            source=str(image.provenance.get("source", "")),
            sha256=str(image.provenance.get("sha256", "")),
            size_bytes=size_bytes if isinstance(size_bytes, int) else 0,
        )
        yield _kept(_with_facts(row, (image.channels, *image.size), str(image.dtype)), known)


def _with_facts(row: ItemRow, shape: tuple[int, ...], dtype: str) -> ItemRow:
    return replace(row, channels=shape[0], height=shape[1], width=shape[2], dtype=dtype)
