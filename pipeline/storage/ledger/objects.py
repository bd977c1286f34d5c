"""Objects of a job: which file or object each item came from, to see whether it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.storage.ledger.database import JobRows, batches
from pipeline.storage.ledger.rows import ObjectRow
from pipeline.storage.ledger.tables import OBJECTS

if TYPE_CHECKING:
    from collections.abc import Iterable


class ObjectLedger(JobRows):
    """The files and objects that one job read its pictures from."""

    def put_objects(self, rows: Iterable[ObjectRow]) -> None:
        """Insert or replace the objects of items."""
        self._put(OBJECTS, rows)

    def objects_of(self, items: Iterable[str]) -> dict[str, ObjectRow]:
        """Return what each of these items came from, as it was when it was read last."""
        found: dict[str, ObjectRow] = {}
        for batch in batches(items):
            mine = self._mine(OBJECTS).where(self._among(OBJECTS.c.item, batch))
            found |= {row.item: row for row in self._rows(ObjectRow, mine)}
        return found
