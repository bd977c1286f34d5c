"""Scores of a job, tile by tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipeline.storage.ledger.database import JobRows, batches
from pipeline.storage.ledger.rows import ScoreRow
from pipeline.storage.ledger.tables import ITEMS, LET_GO, SCORES

if TYPE_CHECKING:
    from collections.abc import Iterable


class ScoreLedger(JobRows):
    """The scores of one job."""

    def put_scores(self, rows: Iterable[ScoreRow]) -> None:
        """Insert or replace the scores of tiles."""
        self._put(SCORES, rows)

    def scores(self) -> list[ScoreRow]:
        """Return the scores whose pixels are still those that the job is set to now, in order."""
        same = sa.and_(
            ITEMS.c.job == SCORES.c.job,
            ITEMS.c.item == SCORES.c.item,
            ITEMS.c.fingerprint == SCORES.c.fingerprint,
        )
        query = (
            self._mine(SCORES)
            .select_from(SCORES.join(ITEMS, same))
            .order_by(SCORES.c.item, SCORES.c.tile, SCORES.c.kind)
        )
        return self._rows(ScoreRow, query)

    def scored_tiles(self, items: Iterable[str]) -> dict[tuple[str, str], int]:
        """Return how many tiles of items have scores, by item and fingerprint."""
        found: dict[tuple[str, str], int] = {}
        for batch in batches(items):
            tiles = sa.func.count(sa.distinct(SCORES.c.tile))
            query = (
                sa.select(SCORES.c.item, SCORES.c.fingerprint, tiles)
                .where(SCORES.c.job == self._job, self._among(SCORES.c.item, batch))
                .group_by(SCORES.c.item, SCORES.c.fingerprint)
            )
            found |= {(item, fingerprint): n for item, fingerprint, n in self._tuples(query)}
        return found

    def forget_scores(self) -> None:
        """Drop all scores: they are about to be measured again, perhaps against other pictures.

        Those of items whose pixels were let go stay: they cannot be measured again.
        """
        gone = sa.select(LET_GO.c.item).where(LET_GO.c.job == self._job)
        mine = sa.and_(SCORES.c.job == self._job, SCORES.c.item.not_in(gone))
        with self._transaction() as connection:
            connection.execute(sa.delete(SCORES).where(mine))

    def carry_scores(self, items: Iterable[str], *, before: str, now: str) -> None:
        """Let the scores that `items` have under the fingerprint `before` count under `now`.

        For pixels that stay as they are while their fingerprint changes.
        """
        for batch in batches(items):
            mine = sa.and_(
                SCORES.c.job == self._job,
                self._among(SCORES.c.item, batch),
                SCORES.c.fingerprint == before,
            )
            with self._transaction() as connection:
                connection.execute(sa.update(SCORES).where(mine).values(fingerprint=now))
