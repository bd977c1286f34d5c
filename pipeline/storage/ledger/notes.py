"""Notes of a job: what was not kept of its pictures' files, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipeline.storage.ledger.database import JobRows, batches, storable
from pipeline.storage.ledger.rows import Note
from pipeline.storage.ledger.tables import NOTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class NoteLedger(JobRows):
    """The notes of one job."""

    def put_notes(self, stage: str, notes: Mapping[str, Sequence[str]]) -> None:
        """Replace the notes of a stage on items; an item with none loses those it had."""
        for batch in batches(notes.items()):
            items = [storable(item) for item, _ in batch]
            rows = [
                {"job": self._job, "item": item, "stage": stage, "number": n, "note": note}
                for item, (_, found) in zip(items, batch, strict=True)
                for n, note in enumerate(map(storable, found))
            ]
            with self._transaction() as connection:
                mine = sa.and_(NOTES.c.job == self._job, NOTES.c.stage == stage)
                connection.execute(sa.delete(NOTES).where(mine, self._among(NOTES.c.item, items)))
                if rows:
                    connection.execute(sa.insert(NOTES), rows)

    def notes(self) -> list[Note]:
        """Return all notes, by item, ingest before export, in order.

        A ledger of an upres that took none, opened where nothing can be written, has none.
        """
        if not self._has(NOTES):
            return []
        order = (NOTES.c.item, NOTES.c.stage.desc(), NOTES.c.number)
        query = sa.select(NOTES.c.item, NOTES.c.stage, NOTES.c.note)
        return self._rows(Note, query.where(NOTES.c.job == self._job).order_by(*order))
