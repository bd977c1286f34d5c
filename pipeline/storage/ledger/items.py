"""Items of a job: what was ingested, rejected, or is gone from the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipeline.storage.ledger.database import JobRows, batches
from pipeline.storage.ledger.rows import DONE, FAILED, ItemCount, ItemRow
from pipeline.storage.ledger.tables import ITEMS, SCORES, UNITS, in_chunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ItemLedger(JobRows):
    """The items of one job."""

    def put_items(self, rows: Iterable[ItemRow]) -> None:
        """Insert or replace items."""
        self._put(ITEMS, rows)

    def items(self, state: str | None = None) -> list[ItemRow]:
        """Return all items, or those in `state`, sorted by id."""
        query = self._mine(ITEMS).order_by(ITEMS.c.item)
        if state is not None:
            query = query.where(ITEMS.c.state == state)
        return self._rows(ItemRow, query)

    def each_item(self, state: str) -> Iterator[ItemRow]:
        """Return the items in `state` that are in no stack, sorted by id, a few at a time."""
        alone = self._mine(ITEMS).where(ITEMS.c.state == state, ITEMS.c.stack == "")
        return self._each(ItemRow, alone, by=ITEMS.c.item)

    def items_named(self, names: Iterable[str]) -> Iterator[ItemRow]:
        """Yield the items with these ids, in their order, a few at a time."""
        for batch in batches(names):
            mine = self._mine(ITEMS).where(self._among(ITEMS.c.item, batch))
            found = {row.item: row for row in self._rows(ItemRow, mine)}
            yield from (found[name] for name in batch if name in found)

    def each_chunk(self, *states: str) -> Iterator[tuple[str, int]]:
        """Yield (stack, chunk) of each chunk that holds an item in one of `states`, sorted."""
        query = (
            sa.select(ITEMS.c.stack, ITEMS.c.chunk)
            .distinct()
            .where(ITEMS.c.job == self._job, ITEMS.c.state.in_(states), ITEMS.c.stack != "")
            .order_by(ITEMS.c.stack, ITEMS.c.chunk)
        )
        yield from self._tuples(query)

    def chunk_items(self, stack: str, chunk: int, *states: str) -> list[ItemRow]:
        """Return the items in `states` of one chunk of a stack, in the order of their places."""
        query = self._mine(ITEMS).where(
            ITEMS.c.stack == stack, ITEMS.c.chunk == chunk, ITEMS.c.state.in_(states)
        )
        return sorted(self._rows(ItemRow, query), key=lambda row: row.place)

    def forget_items(self, items: Iterable[str]) -> None:
        """Drop `items` with all outcomes and scores: nothing of them is there any more."""
        self._delete_items((ITEMS, UNITS, SCORES), items)

    def forget_all(self) -> None:
        """Drop every item, outcome and score: what they describe is gone."""
        with self._transaction() as connection:
            for table in (ITEMS, UNITS, SCORES):
                connection.execute(sa.delete(table).where(table.c.job == self._job))

    def count_items(self) -> list[ItemCount]:
        """Return each item with its units counted in the database, sorted by id."""
        done = sa.func.count().filter(UNITS.c.state == DONE)
        failed = sa.func.count().filter(UNITS.c.state == FAILED)
        counts = (
            sa.select(UNITS.c.item, UNITS.c.fingerprint, done.label("done"), failed.label("failed"))
            .where(UNITS.c.job == self._job)
            .group_by(UNITS.c.item, UNITS.c.fingerprint)
            .subquery()
        )
        same = sa.and_(counts.c.item == ITEMS.c.item, counts.c.fingerprint == ITEMS.c.fingerprint)
        shared = UNITS.alias("shared")

        def total(count: sa.ColumnElement[int], state: str) -> sa.Label[int]:
            of_chunk = sa.case((shared.c.state == state, 1), else_=0)
            return (sa.func.coalesce(count, 0) + of_chunk).label(state)

        columns = {
            **{c.name: c for c in ITEMS.c},
            "done": total(counts.c.done, DONE),
            "failed": total(counts.c.failed, FAILED),
        }
        query = (
            sa.select(*(columns[name] for name in ItemCount._fields))
            .select_from(ITEMS.outerjoin(counts, same).outerjoin(shared, in_chunk(shared)))
            .where(ITEMS.c.job == self._job)
            .order_by(ITEMS.c.item)
        )
        return list(map(ItemCount._make, self._tuples(query)))
