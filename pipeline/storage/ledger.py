"""The ledger: what is done, failed (and why) and scored, item by item and unit by unit.

The one home of SQLAlchemy. One writer keeps it (the driver of the run that holds the job), in
batches, and only after the pixels are durable. SQLite in the job's folder, or any database that
SQLAlchemy reaches by URL and that knows ``ON CONFLICT``.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

FILE_NAME = "ledger.sqlite"
VERSION = 1

_metadata = sa.MetaData()

_jobs = sa.Table(
    "jobs",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    # How the job was last upscaled, as JSON: what a rerun repeats.
    sa.Column("upscaling", sa.String, nullable=False, default=""),
)

_items = sa.Table(
    "items",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("error", sa.String, nullable=False, default=""),
    sa.Column("message", sa.String, nullable=False, default=""),
    sa.Column("source", sa.String, nullable=False, default=""),
    sa.Column("sha256", sa.String, nullable=False, default=""),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("channels", sa.Integer, nullable=False, default=0),
    sa.Column("height", sa.Integer, nullable=False, default=0),
    sa.Column("width", sa.Integer, nullable=False, default=0),
    sa.Column("dtype", sa.String, nullable=False, default=""),
    # Of the upscaling that the job wants now: a unit is done only under this very fingerprint.
    sa.Column("fingerprint", sa.String, nullable=False, default=""),
    sa.Column("units", sa.Integer, nullable=False, default=0),
)

_units = sa.Table(
    "units",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("tile", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("error", sa.String, nullable=False, default=""),
    sa.Column("message", sa.String, nullable=False, default=""),
    sa.Column("attempts", sa.Integer, nullable=False, default=1),
    sa.Column("worker", sa.String, nullable=False, default=""),
    sa.Column("seconds", sa.Float, nullable=False, default=0.0),
    sa.Column("run", sa.String, nullable=False, default=""),
)

_scores = sa.Table(
    "scores",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("tile", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("error_total", sa.Float, nullable=False),
    sa.Column("error_count", sa.BigInteger, nullable=False),
    sa.Column("ssim_total", sa.Float, nullable=False),
    sa.Column("ssim_count", sa.BigInteger, nullable=False),
)

_runs = sa.Table(
    "runs",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("command", sa.String, nullable=False),
    sa.Column("started", sa.String, nullable=False),
    sa.Column("finished", sa.String, nullable=False, default=""),
    sa.Column("outcome", sa.String, nullable=False, default="running"),
)

INGESTED, REJECTED, VANISHED = "ingested", "rejected", "vanished"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRow:
    """One item: ingested (with its facts), rejected (with the reason), or vanished."""

    item: str
    state: str
    error: str = ""
    message: str = ""
    source: str = ""
    sha256: str = ""
    size_bytes: int = 0
    channels: int = 0
    height: int = 0
    width: int = 0
    dtype: str = ""
    fingerprint: str = ""
    units: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """The last outcome of one unit."""

    item: str
    tile: int
    fingerprint: str
    state: str
    error: str = ""
    message: str = ""
    attempts: int = 1
    worker: str = ""
    seconds: float = 0.0
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """The sums that one tile's score is made of; `kind` says what was compared with what."""

    item: str
    tile: int
    kind: str
    fingerprint: str
    error_total: float
    error_count: int
    ssim_total: float
    ssim_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemCount:
    """How far one item is: `done` and `failed` count units under the wanted fingerprint."""

    item: str
    state: str
    units: int
    done: int
    failed: int
    error: str = ""
    message: str = ""

    @property
    def pending(self) -> int:
        """Return how many units are neither done nor failed."""
        return self.units - self.done - self.failed


class Ledger:
    """The rows of one job in one database."""

    def __init__(self, engine: sa.Engine, job: str) -> None:
        self._engine = engine
        self._job = job

    @classmethod
    def open(cls, url: str, *, job: str) -> Ledger:
        """Open the ledger of `job` at a database URL, creating the tables where they lack.

        Raises:
            LedgerError: if the database cannot be reached or was written by a newer upres.
        """
        return cls._of(_parsed(url), job=job)

    @classmethod
    def open_file(cls, path: Path, *, job: str) -> Ledger:
        """Open the SQLite ledger at `path`."""
        # Not by a URL in text: a folder may be called "what?".
        return cls._of(sa.URL.create("sqlite", database=str(path)), job=job)

    @classmethod
    def _of(cls, url: sa.URL, *, job: str) -> Ledger:
        try:
            engine = sa.create_engine(url)
            if engine.dialect.name == "sqlite":
                sa.event.listen(engine, "connect", _set_sqlite_pragmas)
            if engine.dialect.name not in _INSERT:
                raise LedgerError(
                    f"ledger is in {engine.dialect.name}, expected sqlite or postgresql"
                )
            ledger = cls(engine, job)
            with ledger._transaction() as connection:
                _metadata.create_all(connection)
                ledger._check_version(connection)
        except (SQLAlchemyError, ImportError) as error:
            raise LedgerError(
                f"ledger {_public(url)} cannot be opened: {_first_line(error)}"
            ) from error
        return ledger

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    # --- items -------------------------------------------------------------------------------

    def put_items(self, rows: Iterable[ItemRow]) -> None:
        """Insert or replace items."""
        self._put(_items, rows, key=("job", "item"))

    def items(self, state: str | None = None) -> list[ItemRow]:
        """Return all items, or those in `state`, sorted by id."""
        query = self._mine(_items).order_by(_items.c.item)
        if state is not None:
            query = query.where(_items.c.state == state)
        return [ItemRow(**_without_job(row)) for row in self._rows(query)]

    def count_items(self) -> Iterator[ItemCount]:
        """Yield each item with its units counted in the database, sorted by id."""
        done = sa.func.count().filter(_units.c.state == DONE)
        failed = sa.func.count().filter(_units.c.state == FAILED)
        counts = (
            sa.select(
                _units.c.item, _units.c.fingerprint, done.label("done"), failed.label("failed")
            )
            .where(_units.c.job == self._job)
            .group_by(_units.c.item, _units.c.fingerprint)
            .subquery()
        )
        same = sa.and_(counts.c.item == _items.c.item, counts.c.fingerprint == _items.c.fingerprint)
        query = (
            sa.select(
                _items.c.item,
                _items.c.state,
                _items.c.units,
                _items.c.error,
                _items.c.message,
                sa.func.coalesce(counts.c.done, 0).label("done"),
                sa.func.coalesce(counts.c.failed, 0).label("failed"),
            )
            .select_from(_items.outerjoin(counts, same))
            .where(_items.c.job == self._job)
            .order_by(_items.c.item)
        )
        for row in self._rows(query):
            yield ItemCount(**row)

    # --- units -------------------------------------------------------------------------------

    def put_units(self, rows: Iterable[UnitRow]) -> None:
        """Insert or replace the outcomes of units."""
        self._put(_units, rows, key=("job", "item", "tile"))

    def tiles(self, item: str, *, fingerprint: str, state: str) -> set[int]:
        """Return the tiles of `item` that are in `state` under `fingerprint`."""
        query = sa.select(_units.c.tile).where(
            _units.c.job == self._job,
            _units.c.item == item,
            _units.c.fingerprint == fingerprint,
            _units.c.state == state,
        )
        return {row["tile"] for row in self._rows(query)}

    def failures(self) -> list[UnitRow]:
        """Return the failed units of the upscaling wanted now, in order."""
        return self._current_units(FAILED)

    def done_units(self) -> list[UnitRow]:
        """Return the done units of the upscaling wanted now, in order."""
        return self._current_units(DONE)

    def forget_units(self, items: Iterable[str]) -> None:
        """Drop all outcomes and scores of `items`: their pixels are about to go."""
        names = [{"gone": item} for item in items]
        if not names:
            return
        with self._transaction() as connection:
            for table in (_units, _scores):
                mine = sa.and_(table.c.job == self._job, table.c.item == sa.bindparam("gone"))
                connection.execute(sa.delete(table).where(mine), names)

    def knows_units(self) -> bool:
        """Return whether any outcome of any unit is recorded."""
        query = sa.select(_units.c.tile).where(_units.c.job == self._job).limit(1)
        return bool(list(self._rows(query)))

    def _current_units(self, state: str) -> list[UnitRow]:
        same = sa.and_(
            _items.c.job == _units.c.job,
            _items.c.item == _units.c.item,
            _items.c.fingerprint == _units.c.fingerprint,
        )
        query = (
            sa.select(_units)
            .select_from(_units.join(_items, same))
            .where(_units.c.job == self._job, _units.c.state == state)
            .order_by(_units.c.item, _units.c.tile)
        )
        return [UnitRow(**_without_job(row)) for row in self._rows(query)]

    # --- scores ------------------------------------------------------------------------------

    def put_scores(self, rows: Iterable[ScoreRow]) -> None:
        """Insert or replace the scores of tiles."""
        self._put(_scores, rows, key=("job", "item", "tile", "kind"))

    def scores(self) -> list[ScoreRow]:
        """Return the scores whose pixels are still those wanted now, in order."""
        same = sa.and_(
            _items.c.job == _scores.c.job,
            _items.c.item == _scores.c.item,
            _items.c.fingerprint == _scores.c.fingerprint,
        )
        query = (
            sa.select(_scores)
            .select_from(_scores.join(_items, same))
            .where(_scores.c.job == self._job)
            .order_by(_scores.c.item, _scores.c.tile, _scores.c.kind)
        )
        return [ScoreRow(**_without_job(row)) for row in self._rows(query)]

    def forget_scores(self) -> None:
        """Drop all scores: they are about to be measured again, perhaps against other pictures."""
        with self._transaction() as connection:
            connection.execute(sa.delete(_scores).where(_scores.c.job == self._job))

    # --- how the job was last upscaled -----------------------------------------------------

    def keep_upscaling(self, values: dict[str, Any]) -> None:
        """Keep how the job is upscaled, for a rerun to repeat."""
        mine = _jobs.c.job == self._job
        with self._transaction() as connection:
            connection.execute(sa.update(_jobs).where(mine).values(upscaling=json.dumps(values)))

    def upscaling(self) -> dict[str, Any] | None:
        """Return what `keep_upscaling` kept, None where the job was never upscaled."""
        (text,) = self._rows(sa.select(_jobs.c.upscaling).where(_jobs.c.job == self._job))
        return json.loads(text["upscaling"]) if text["upscaling"] else None

    # --- runs --------------------------------------------------------------------------------

    def start_run(self, run: str, command: str) -> None:
        """Record that a run began now."""
        row = {"job": self._job, "run": run, "command": command, "started": _now()}
        with self._transaction() as connection:
            connection.execute(sa.insert(_runs).values(**row))

    def finish_run(self, run: str, outcome: str) -> None:
        """Record how a run ended, now."""
        mine = sa.and_(_runs.c.job == self._job, _runs.c.run == run)
        with self._transaction() as connection:
            connection.execute(
                sa.update(_runs).where(mine).values(finished=_now(), outcome=outcome)
            )

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, oldest first."""
        return [
            _without_job(row) for row in self._rows(self._mine(_runs).order_by(_runs.c.started))
        ]

    # --- the database ------------------------------------------------------------------------

    def _mine(self, table: sa.Table) -> sa.Select[Any]:
        return sa.select(table).where(table.c.job == self._job)

    def _put(self, table: sa.Table, rows: Iterable[Any], *, key: Sequence[str]) -> None:
        values = [
            {"job": self._job, **{name: _storable(v) for name, v in asdict(row).items()}}
            for row in rows
        ]
        if not values:
            return
        insert = _INSERT[self._engine.dialect.name](table)
        fresh = {c.name: insert.excluded[c.name] for c in table.c if c.name not in key}
        with self._transaction() as connection:
            connection.execute(
                insert.on_conflict_do_update(index_elements=list(key), set_=fresh), values
            )

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self._transaction() as connection:
            # All at once: a generator would hold the transaction as long as its reader likes.
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            url = _public(self._engine.url)
            raise LedgerError(f"ledger {url} failed: {_first_line(error)}") from error

    def _check_version(self, connection: sa.Connection) -> None:
        query = sa.select(_jobs.c.version).where(_jobs.c.job == self._job)
        version = connection.execute(query).scalar()
        if version is None:
            connection.execute(sa.insert(_jobs).values(job=self._job, version=VERSION))
        elif version != VERSION:
            raise LedgerError(f"ledger has version {version}, expected {VERSION}; update upres")


_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _set_sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _without_job(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "job"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        # The text stays out of the message: it may hold a password.
        raise LedgerError(
            "the ledger's URL cannot be read; expected postgresql://USER:PASSWORD@HOST/DATABASE "
            "or sqlite:////PATH"
        ) from error


def _public(url: sa.URL) -> str:
    """Return the URL without its secrets: the password, and whatever follows the "?"."""
    return url.set(query={}).render_as_string(hide_password=True)


def _storable(value: Any) -> Any:
    """Return text that every database takes: file names may hold bytes that are no UTF-8."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
