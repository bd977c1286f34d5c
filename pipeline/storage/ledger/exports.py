"""Exports of a job: the files and folders that it wrote elsewhere, as they were then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.storage.ledger.database import JobRows, batches, storable
from pipeline.storage.ledger.rows import ExportRow
from pipeline.storage.ledger.tables import EXPORTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ExportLedger(JobRows):
    """What one job exported."""

    def put_exports(self, rows: Iterable[ExportRow]) -> None:
        """Insert or replace what is known of exported files."""
        self._put(EXPORTS, rows)

    def exports(self, *, below: str) -> list[ExportRow]:
        """Return what was exported to paths that begin with `below`, sorted by path."""
        if not self._has(EXPORTS):
            return []
        # LIKE knows no case in SQLite: what it finds beyond that is left out here.
        start = EXPORTS.c.path.startswith(storable(below), autoescape=True)
        query = self._mine(EXPORTS).where(start).order_by(EXPORTS.c.path)
        return [r for r in self._rows(ExportRow, query) if r.path.startswith(storable(below))]

    def exports_of(self, items: Iterable[str]) -> Iterator[ExportRow]:
        """Yield all that was exported of `items`, to whatever path."""
        for batch in batches(items):
            mine = self._mine(EXPORTS).where(self._among(EXPORTS.c.item, batch))
            yield from self._rows(ExportRow, mine)

    def forget_exports(self, paths: Iterable[str]) -> None:
        """Drop what is known of exported files: they are not there any more."""
        self._delete(EXPORTS.c.path, map(storable, paths))
