"""Units of a job: the last outcome of each tile of an image, and of each chunk of a stack."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipeline.storage.ledger.database import JobRows, batches
from pipeline.storage.ledger.rows import DONE, FAILED, UnitRow
from pipeline.storage.ledger.tables import IS_FAILED, ITEMS, SCORES, UNITS, in_chunk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.storage.ledger.rows import ItemRow


class UnitLedger(JobRows):
    """The outcomes of the units of one job."""

    def put_units(self, rows: Iterable[UnitRow]) -> None:
        """Insert or replace the outcomes of units."""
        self._put(UNITS, rows)

    def tiles_of(self, row: ItemRow, state: str) -> set[int]:
        """Return the tiles of an item that are in `state` now; an image of a stack is one tile."""
        query = sa.select(UNITS.c.number).where(
            UNITS.c.job == self._job,
            UNITS.c.item == (row.stack or row.item),
            UNITS.c.fingerprint == row.fingerprint,
            UNITS.c.state == state,
        )
        numbers = {number for (number,) in self._tuples(query)}
        if not row.stack:
            return numbers
        return {0} if row.chunk in numbers else set()

    def tiles_of_all(self, items: Iterable[str], state: str) -> dict[tuple[str, str], set[int]]:
        """Return the tiles of items outside stacks that are in `state`, by item and fingerprint."""
        found: dict[tuple[str, str], set[int]] = defaultdict(set)
        for batch in batches(items):
            query = sa.select(UNITS.c.item, UNITS.c.fingerprint, UNITS.c.number).where(
                UNITS.c.job == self._job,
                self._among(UNITS.c.item, batch),
                UNITS.c.state == state,
            )
            for item, fingerprint, number in self._tuples(query):
                found[item, fingerprint].add(number)
        return found

    def chunks(self, stack: str, state: str) -> dict[int, str]:
        """Return the chunks of a stack that are in `state`, each with its fingerprint."""
        query = sa.select(UNITS.c.number, UNITS.c.fingerprint).where(
            UNITS.c.job == self._job, UNITS.c.item == stack, UNITS.c.state == state
        )
        return dict(self._tuples(query))

    def failures(self) -> list[UnitRow]:
        """Return the failed units of the upscaling that the job is set to now, in order."""
        return self._current_units(FAILED)

    def done_units(self) -> list[UnitRow]:
        """Return the done units of the upscaling that the job is set to now, in order."""
        return self._current_units(DONE)

    def forget_units(self, items: Iterable[str]) -> None:
        """Drop all outcomes and scores of `items`: their pixels are about to go."""
        self._delete_items((UNITS, SCORES), items)

    def forget_numbers(self, name: str, numbers: Iterable[int]) -> None:
        """Drop the outcomes of some units of `name`: their pixels are about to go."""
        mine = sa.and_(UNITS.c.job == self._job, UNITS.c.item == name)
        for batch in batches(numbers):
            with self._transaction() as connection:
                among = self._among(UNITS.c.number, batch)
                connection.execute(sa.delete(UNITS).where(mine, among))

    def knows_units(self) -> bool:
        """Return whether any outcome of any unit is recorded."""
        query = sa.select(UNITS.c.number).where(UNITS.c.job == self._job).limit(1)
        return bool(self._tuples(query))

    def _current_units(self, state: str) -> list[UnitRow]:
        own = sa.and_(
            ITEMS.c.job == UNITS.c.job,
            ITEMS.c.item == UNITS.c.item,
            ITEMS.c.fingerprint == UNITS.c.fingerprint,
        )
        in_state = IS_FAILED if state == FAILED else UNITS.c.state == state
        queries = [
            self._mine(UNITS).select_from(UNITS.join(ITEMS, own)).where(in_state),
            # All items of a chunk match its one unit.
            self._mine(UNITS).where(in_state, sa.exists().where(in_chunk(UNITS))),
        ]
        rows = [row for query in queries for row in self._rows(UnitRow, query)]
        return sorted(rows, key=lambda row: (row.item, row.number))
