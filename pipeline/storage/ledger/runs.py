"""Runs of a job: which there were, and what the next one needs to know of the last."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from pipeline.storage.ledger.database import JobRows, storable
from pipeline.storage.ledger.tables import JOBS, RUNNING, RUNS, SOURCES


class RunLedger(JobRows):
    """The runs of one job, its source, and how it was upscaled."""

    def start_run(self, run: str, command: str) -> None:
        """Record that a run began now; one before it that did not say how it ended was killed."""
        row = {"job": self._job, "run": run, "command": command, "started": _now()}
        with self._transaction() as connection:
            before = sa.and_(RUNS.c.job == self._job, RUNS.c.outcome == RUNNING)
            connection.execute(sa.update(RUNS).where(before).values(outcome="killed"))
            connection.execute(sa.insert(RUNS).values(**row))

    def finish_run(self, run: str, outcome: str) -> None:
        """Record how a run ended, now."""
        mine = sa.and_(RUNS.c.job == self._job, RUNS.c.run == run)
        with self._transaction() as connection:
            connection.execute(sa.update(RUNS).where(mine).values(finished=_now(), outcome=outcome))

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, oldest first."""
        names = ("run", "command", "started", "finished", "outcome")
        query = sa.select(*(RUNS.c[name] for name in names)).where(RUNS.c.job == self._job)
        found = self._tuples(query.order_by(RUNS.c.started))
        return [dict(zip(names, row, strict=True)) for row in found]

    def keep_source(self, source: str) -> None:
        """Keep where the pictures of the job are, for later commands to stay away from."""
        with self._transaction() as connection:
            connection.execute(
                self._upsert(SOURCES), {"job": self._job, "source": storable(source)}
            )

    def source(self) -> str | None:
        """Return what `keep_source` kept; None in jobs that never did."""
        if not self._has(SOURCES):
            return None
        query = sa.select(SOURCES.c.source).where(SOURCES.c.job == self._job)
        return next((source for (source,) in self._tuples(query)), None)

    def keep_upscaling(self, values: dict[str, Any]) -> None:
        """Keep how the job is upscaled, for a rerun to repeat."""
        mine = JOBS.c.job == self._job
        with self._transaction() as connection:
            connection.execute(sa.update(JOBS).where(mine).values(upscaling=json.dumps(values)))

    def upscaling(self) -> dict[str, Any] | None:
        """Return what `keep_upscaling` kept, None where the job was never upscaled."""
        query = sa.select(JOBS.c.upscaling).where(JOBS.c.job == self._job)
        ((text,),) = self._tuples(query)
        return json.loads(text) if text else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
