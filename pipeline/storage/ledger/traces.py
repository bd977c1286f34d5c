"""Traces in the pictures of a job: which items are for a network that restores, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipeline.storage.ledger.database import JobRows, batches
from pipeline.storage.ledger.rows import INGESTED, ItemRow, TraceRow
from pipeline.storage.ledger.tables import ITEMS, TRACES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class TraceLedger(JobRows):
    """What is known of the traces in the pictures of one job."""

    def put_traces(self, rows: Iterable[TraceRow]) -> None:
        """Insert or replace what is known of items."""
        self._put(TRACES, rows)

    def traces_of(self, items: Iterable[str]) -> dict[str, TraceRow]:
        """Return what is known of these items, by item."""
        found: dict[str, TraceRow] = {}
        for batch in batches(items):
            mine = self._mine(TRACES).where(self._among(TRACES.c.item, batch))
            found |= {row.item: row for row in self._rows(TraceRow, mine)}
        return found

    def traces(self) -> dict[str, TraceRow]:
        """Return all that is known, by item; a ledger of an earlier upres knows nothing."""
        if not self._has(TRACES):
            return {}
        return {row.item: row for row in self._rows(TraceRow, self._mine(TRACES))}

    def items_without_traces(self) -> Iterator[ItemRow]:
        """Return the ingested items whose present content was not looked at, a few at a time."""
        seen = sa.and_(
            TRACES.c.job == ITEMS.c.job,
            TRACES.c.item == ITEMS.c.item,
            TRACES.c.sha256 == ITEMS.c.sha256,
        )
        unseen = self._mine(ITEMS).where(ITEMS.c.state == INGESTED, ~sa.exists().where(seen))
        return self._each(ItemRow, unseen, by=ITEMS.c.item)
