"""Seals of a job: images whose metadata was right under a stamp, so that it is not read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.storage.ledger.database import JobRows, batches
from pipeline.storage.ledger.rows import SealRow
from pipeline.storage.ledger.tables import SEALS

if TYPE_CHECKING:
    from collections.abc import Iterable


class SealLedger(JobRows):
    """The seals of one job. They save reading, and nothing is lost with them."""

    def put_seals(self, rows: Iterable[SealRow]) -> None:
        """Insert or replace seals."""
        self._put(SEALS, rows)

    def seals_of(self, archive: str, items: Iterable[str]) -> dict[str, SealRow]:
        """Return the seals of these items of an archive, by item."""
        found: dict[str, SealRow] = {}
        for batch in batches(items):
            own = (SEALS.c.archive == archive, self._among(SEALS.c.item, batch))
            found |= {row.item: row for row in self._rows(SealRow, self._mine(SEALS).where(*own))}
        return found
