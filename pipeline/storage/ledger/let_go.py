"""What a job let go: items whose pixels it deleted on purpose, as nothing needs them any more."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipeline.storage.ledger.database import JobRows, batches
from pipeline.storage.ledger.rows import INGESTED, ItemRow, LetGoRow
from pipeline.storage.ledger.tables import ITEMS, LET_GO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class LetGoLedger(JobRows):
    """The items of one job whose pixels are not in its archives any more, but their results are.

    Unlike seals, these rows are not to be lost: without one the item is made again.
    """

    def put_let_go(self, rows: Iterable[LetGoRow]) -> None:
        """Insert or replace what is known of items that are let go."""
        self._put(LET_GO, rows)

    def let_go_of(self, archive: str, items: Iterable[str]) -> dict[str, LetGoRow]:
        """Return those of `items` whose pixels in an archive were let go, by item."""
        if not self._is_known:
            return {}
        found: dict[str, LetGoRow] = {}
        for batch in batches(items):
            own = (LET_GO.c.archive == archive, self._among(LET_GO.c.item, batch))
            rows = self._rows(LetGoRow, self._mine(LET_GO).where(*own))
            found |= {row.item: row for row in rows}
        return found

    def each_let_go(self, archive: str) -> Iterator[ItemRow]:
        """Yield the ingested items whose pixels in an archive were let go, sorted by id."""
        if not self._is_known:
            return
        same = sa.and_(
            LET_GO.c.job == ITEMS.c.job,
            LET_GO.c.item == ITEMS.c.item,
            LET_GO.c.archive == archive,
        )
        gone = self._mine(ITEMS).where(ITEMS.c.state == INGESTED, sa.exists().where(same))
        yield from self._each(ItemRow, gone, by=ITEMS.c.item)

    def each_kept(self, archives: Sequence[str]) -> Iterator[ItemRow]:
        """Return the ingested items that at least one of `archives` still has pixels of, sorted."""
        rows = sa.select(sa.func.count()).where(
            LET_GO.c.job == ITEMS.c.job,
            LET_GO.c.item == ITEMS.c.item,
            LET_GO.c.archive.in_(archives),
        )
        here = self._mine(ITEMS).where(
            ITEMS.c.state == INGESTED, rows.scalar_subquery() < len(archives)
        )
        return self._each(ItemRow, here, by=ITEMS.c.item)

    def half_let_go(self) -> list[LetGoRow]:
        """Return what was to be deleted when a run was interrupted, sorted."""
        mine = self._mine(LET_GO).where(sa.not_(LET_GO.c.deleted))
        return self._rows(LetGoRow, mine.order_by(LET_GO.c.item))

    def count_let_go(self) -> dict[str, int]:
        """Return how many items were let go, by archive; those that vanished since count too."""
        if not self._is_known:
            return {}
        count = sa.select(LET_GO.c.archive, sa.func.count()).where(LET_GO.c.job == self._job)
        return dict(self._tuples(count.group_by(LET_GO.c.archive)))

    def forget_let_go(self, archive: str, items: Iterable[str]) -> None:
        """Drop that `items` were let go: their pixels are in the archive again, or about to be."""
        mine = sa.and_(LET_GO.c.job == self._job, LET_GO.c.archive == archive)
        for batch in batches(items):
            with self._transaction() as connection:
                among = self._among(LET_GO.c.item, batch)
                connection.execute(sa.delete(LET_GO).where(mine, among))

    @cached_property
    def _is_known(self) -> bool:
        """Return False for a ledger of an upres that let nothing go, opened to be read alone."""
        return self._has(LET_GO)
