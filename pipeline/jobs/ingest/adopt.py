"""Using an archive outside the job as its source: items are recorded, nothing is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compute.picture_tasks import vanished_rows
from pipeline.errors import ArchiveError
from pipeline.jobs.ingest.lr_items import (
    GONE,
    notes_of,
    with_facts,
    with_known_upscaling,
    with_place,
)
from pipeline.storage.ledger import INGEST, INGESTED, REJECTED, ItemRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.storage.archive import Archive
    from pipeline.storage.ledger import Ledger


def adopt_archive(archive: Archive, ledger: Ledger) -> None:
    """Record the items of an archive that is outside the job as ingested, changed or not.

    A damaged item is rejected with the reason, and does not stop the others.
    """
    known = {row.item: row for row in ledger.items()}
    notes: dict[str, tuple[str, ...]] = {}
    rows = list(_archived(archive, known, notes))
    ledger.put_items(rows)
    ledger.put_notes(INGEST, notes)
    ledger.put_items(vanished_rows(known, {row.item for row in rows}, GONE))


def _archived(
    archive: Archive, known: Mapping[str, ItemRow], notes: dict[str, tuple[str, ...]]
) -> Iterator[ItemRow]:
    """Yield the row of each item of an archive, and add its notes to `notes`."""
    stacked = archive.index().members
    for item, image in archive.survey():
        if isinstance(image, ArchiveError):
            yield ItemRow(item=item, state=REJECTED, error=type(image).__name__, message=str(image))
            continue
        if (found := notes_of(image)) or item in known:
            notes[item] = found
        size_bytes = image.provenance.get("size_bytes", 0)
        row = ItemRow(
            item=item,
            state=INGESTED,
            source=str(image.provenance.get("source", "")),
            sha256=str(image.provenance.get("sha256", "")),
            size_bytes=size_bytes if isinstance(size_bytes, int) else 0,
        )
        if image.in_stack:
            row = with_place(row, stacked.get(item))
        row = with_facts(row, (image.channels, *image.size), str(image.dtype))
        yield with_known_upscaling(row, known)
