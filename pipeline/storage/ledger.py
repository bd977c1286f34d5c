"""The ledger: what is done, failed (and why) and scored, item by item and unit by unit.

The one home of SQLAlchemy. One writer keeps it (the driver of the run that holds the job), in
batches, and only after the pixels are durable. SQLite in the job's folder, or any database that
SQLAlchemy reaches by URL and that knows ``ON CONFLICT``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import LedgerError, NoLedgerError
from pipeline.storage.access import close_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

FILE_NAME = "ledger.sqlite"
VERSION = 2
_MOVE_AWAY = "move the file away, and the next `upres upscale` rebuilds it from the archive"
_BUSY_S = 30.0
_PAGE = 2_000
"""How many rows are in memory, or in one statement, at once."""
_CREATING = 0x75707265
"""Key of the lock under which PostgreSQL makes the tables."""

_metadata = sa.MetaData()

Value = TypeVar("Value")

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
    # Where the item lies in a stack: its unit is recorded under the stack, chunk by chunk.
    sa.Column("stack", sa.String, nullable=False, default=""),
    sa.Column("chunk", sa.Integer, nullable=False, default=0),
    sa.Column("place", sa.Integer, nullable=False, default=0),
    sa.Index("items_by_chunk", "job", "stack", "chunk"),
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

# Few units fail: they are found without going through the others.
_IS_FAILED = _units.c.state == sa.literal_column("'failed'")
sa.Index(
    "failed_units",
    _units.c.job,
    _units.c.item,
    sqlite_where=_IS_FAILED,
    postgresql_where=_IS_FAILED,
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

_notes = sa.Table(
    "notes",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("note", sa.String, nullable=False),
)

_RUNNING = "running"

_runs = sa.Table(
    "runs",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("command", sa.String, nullable=False),
    sa.Column("started", sa.String, nullable=False),
    sa.Column("finished", sa.String, nullable=False, default=""),
    sa.Column("outcome", sa.String, nullable=False, default=_RUNNING),
)

_exports = sa.Table(
    "exports",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("path", sa.String, primary_key=True),
    sa.Column("item", sa.String, nullable=False),
    sa.Column("asked", sa.String, nullable=False),
    sa.Column("format", sa.String, nullable=False),
    sa.Column("made_of", sa.String, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    # Text, as years after 2262 are beyond 64 bits of nanoseconds.
    sa.Column("mtime_ns", sa.String, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("coming_sha256", sa.String, nullable=False, default=""),
    sa.Column("adopted", sa.Boolean, nullable=False, default=False),
    sa.Index("exports_by_item", "job", "item"),
)

_sources = sa.Table(
    "sources",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("source", sa.String, nullable=False),
)

INGEST, EXPORT = "ingest", "export"
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
    stack: str = ""
    """Id of the stack that the item lies in, at `place` of `chunk`; "" for an image of its own."""
    chunk: int = 0
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """The last outcome of one unit: a tile of an item, or a chunk of a stack."""

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
class ExportRow:
    """A file that the job exported, as it was when it was written last; or a folder it made.

    What differs from this at `path` is not the job's, unless its content is `coming_sha256`.
    """

    path: str
    item: str
    """"" for a folder that the job made."""
    asked: str
    """The format that was asked for; `format` is what that came to."""
    format: str
    made_of: str
    """Everything besides the format that decides the bytes of the file."""
    size_bytes: int = 0
    mtime_ns: str = ""
    sha256: str = ""
    """"" where a first file is on its way."""
    coming_sha256: str = ""
    """Content of the file that is being put there; "" once it is known to be there."""
    adopted: bool = False
    """Whether it was there already, with the very bytes: perhaps another job's, so it stays."""


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence on something in an item's file that a stage, ingest or export, did not keep."""

    item: str
    stage: str
    note: str


class ItemCount(NamedTuple):
    """How far one item is: `done` and `failed` count units under the wanted fingerprint."""

    item: str
    state: str
    units: int
    done: int
    failed: int
    error: str = ""
    message: str = ""
    stack: str = ""
    chunk: int = 0

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
    def open(cls, url: str, *, job: str, read_only: bool = False) -> Ledger:
        """Open the ledger of `job` at a database URL, creating the tables where they lack.

        Any number of processes may open a new one at once. With `read_only` nothing is created
        nor written, and the file may lie where nothing can be.

        Raises:
            NoLedgerError: if `url` is none, or names a folder that is not there.
            LedgerError: if the database cannot be reached or was written by a newer upres; with
                `read_only` also if there is none, or it knows nothing of `job`.
        """
        return cls._of(_parsed(url), job=job, read_only=read_only)

    @classmethod
    def open_file(cls, path: Path, *, job: str, read_only: bool = False) -> Ledger:
        """Open the SQLite ledger at `path`."""
        if not read_only:
            _check_own_file(path)
        # Not by a URL in text: a folder may be called "what?".
        url = sa.URL.create("sqlite", database=str(path))
        return cls._of(url, job=job, read_only=read_only)

    @classmethod
    def _of(cls, url: sa.URL, *, job: str, read_only: bool) -> Ledger:
        _check_place(url)
        try:
            ledger = cls(_reading_engine(url) if read_only else _writing_engine(url), job)
            ledger._prepare(read_only=read_only)
        except (SQLAlchemyError, sqlite3.Error, ImportError) as error:
            raise LedgerError(
                f"ledger {_public(url)} cannot be opened: {_first_line(error)}{_remedy(error)}"
            ) from error
        return ledger

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    def close_to(self, readers: int) -> None:
        """Let nobody read the file beside the job's pictures but its owner and `readers`."""
        database = self._engine.url.database
        # One that the user named may be shared with others on purpose.
        if self._engine.dialect.name == "sqlite" and (database or "").endswith(FILE_NAME):
            for end in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    close_to(Path(f"{database}{end}"), readers)

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

    def each_item(self, state: str) -> Iterator[ItemRow]:
        """Yield the items in `state` that lie in no stack, sorted by id, a few at a time."""
        alone = self._mine(_items).where(_items.c.state == state, _items.c.stack == "")
        query = alone.order_by(_items.c.item).limit(_PAGE)
        rows = self._rows(query)
        while rows:
            yield from (ItemRow(**_without_job(row)) for row in rows)
            rows = self._rows(query.where(_items.c.item > rows[-1]["item"]))

    def items_named(self, names: Iterable[str]) -> Iterator[ItemRow]:
        """Yield the items with these ids, in their order, a few at a time."""
        for batch in _batches(names):
            rows = self._rows(self._mine(_items).where(_items.c.item.in_(batch)))
            found = {row["item"]: ItemRow(**_without_job(row)) for row in rows}
            yield from (found[name] for name in batch if name in found)

    def each_chunk(self, state: str) -> Iterator[tuple[str, int]]:
        """Yield (stack, chunk) of each chunk that holds an item in `state`, sorted."""
        query = (
            sa.select(_items.c.stack, _items.c.chunk)
            .distinct()
            .where(_items.c.job == self._job, _items.c.state == state, _items.c.stack != "")
            .order_by(_items.c.stack, _items.c.chunk)
        )
        yield from ((row["stack"], row["chunk"]) for row in self._rows(query))

    def chunk_items(self, stack: str, chunk: int, *states: str) -> list[ItemRow]:
        """Return the items in `states` of one chunk of a stack, in the order of their places."""
        query = self._mine(_items).where(
            _items.c.stack == stack, _items.c.chunk == chunk, _items.c.state.in_(states)
        )
        rows = [ItemRow(**_without_job(row)) for row in self._rows(query)]
        return sorted(rows, key=lambda row: row.place)

    def count_items(self) -> list[ItemCount]:
        """Return each item with its units counted in the database, sorted by id."""
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
        shared = _units.alias("shared")

        def total(count: sa.ColumnElement[int], state: str) -> sa.Label[int]:
            in_chunk = sa.case((shared.c.state == state, 1), else_=0)
            return (sa.func.coalesce(count, 0) + in_chunk).label(state)

        columns = {
            **{c.name: c for c in _items.c},
            "done": total(counts.c.done, DONE),
            "failed": total(counts.c.failed, FAILED),
        }
        query = (
            sa.select(*(columns[name] for name in ItemCount._fields))
            .select_from(_items.outerjoin(counts, same).outerjoin(shared, _in_chunk(shared)))
            .where(_items.c.job == self._job)
            .order_by(_items.c.item)
        )
        with self._transaction() as connection:
            return list(map(ItemCount._make, connection.execute(query).all()))

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

    def tiles_of(self, row: ItemRow, state: str) -> set[int]:
        """Return the tiles of an item that are in `state` now; an image of a stack is one tile."""
        if not row.stack:
            return self.tiles(row.item, fingerprint=row.fingerprint, state=state)
        chunks = self.tiles(row.stack, fingerprint=row.fingerprint, state=state)
        return {0} if row.chunk in chunks else set()

    def chunks(self, stack: str, state: str) -> dict[int, str]:
        """Return the chunks of a stack that are in `state`, each with its fingerprint."""
        query = sa.select(_units.c.tile, _units.c.fingerprint).where(
            _units.c.job == self._job, _units.c.item == stack, _units.c.state == state
        )
        return {row["tile"]: row["fingerprint"] for row in self._rows(query)}

    def failures(self) -> list[UnitRow]:
        """Return the failed units of the upscaling wanted now, in order."""
        return self._current_units(FAILED)

    def done_units(self) -> list[UnitRow]:
        """Return the done units of the upscaling wanted now, in order."""
        return self._current_units(DONE)

    def forget_units(self, items: Iterable[str]) -> None:
        """Drop all outcomes and scores of `items`: their pixels are about to go."""
        for batch in _batches(items):
            with self._transaction() as connection:
                for table in (_units, _scores):
                    mine = sa.and_(table.c.job == self._job, table.c.item.in_(batch))
                    connection.execute(sa.delete(table).where(mine))

    def forget_items(self, items: Iterable[str]) -> None:
        """Drop `items` with all outcomes and scores: nothing of them is there any more."""
        for batch in _batches(items):
            with self._transaction() as connection:
                for table in (_items, _units, _scores):
                    mine = sa.and_(table.c.job == self._job, table.c.item.in_(batch))
                    connection.execute(sa.delete(table).where(mine))

    def forget_all(self) -> None:
        """Drop every item, outcome and score: what they tell of is gone."""
        with self._transaction() as connection:
            for table in (_items, _units, _scores):
                connection.execute(sa.delete(table).where(table.c.job == self._job))

    def forget_chunks(self, stack: str, chunks: Iterable[int]) -> None:
        """Drop the outcomes of `chunks` of a stack: their pixels are about to go."""
        mine = sa.and_(_units.c.job == self._job, _units.c.item == stack)
        for batch in _batches(chunks):
            with self._transaction() as connection:
                connection.execute(sa.delete(_units).where(mine, _units.c.tile.in_(batch)))

    def knows_units(self) -> bool:
        """Return whether any outcome of any unit is recorded."""
        query = sa.select(_units.c.tile).where(_units.c.job == self._job).limit(1)
        return bool(list(self._rows(query)))

    def _current_units(self, state: str) -> list[UnitRow]:
        own = sa.and_(
            _items.c.job == _units.c.job,
            _items.c.item == _units.c.item,
            _items.c.fingerprint == _units.c.fingerprint,
        )
        in_state = _IS_FAILED if state == FAILED else _units.c.state == state
        mine = sa.and_(_units.c.job == self._job, in_state)
        queries = [
            sa.select(_units).select_from(_units.join(_items, own)).where(mine),
            # All items of a chunk match its one unit.
            sa.select(_units).where(mine, sa.exists().where(_in_chunk(_units))),
        ]
        rows = [UnitRow(**_without_job(row)) for query in queries for row in self._rows(query)]
        return sorted(rows, key=lambda row: (row.item, row.tile))

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

    def carry_scores(self, items: Iterable[str], *, before: str, now: str) -> None:
        """Let the scores that `items` have under the fingerprint `before` count under `now`.

        For pixels that stay as they are while their fingerprint changes.
        """
        for batch in _batches(items):
            mine = sa.and_(
                _scores.c.job == self._job,
                _scores.c.item.in_(batch),
                _scores.c.fingerprint == before,
            )
            with self._transaction() as connection:
                connection.execute(sa.update(_scores).where(mine).values(fingerprint=now))

    # --- exports -----------------------------------------------------------------------------

    def put_exports(self, rows: Iterable[ExportRow]) -> None:
        """Insert or replace what is known of exported files."""
        self._put(_exports, rows, key=("job", "path"))

    def exports(self, *, below: str) -> list[ExportRow]:
        """Return what was exported to paths that begin with `below`, sorted by path."""
        if not self._has(_exports):
            return []
        # LIKE knows no case in SQLite: what it finds beyond that is left out here.
        start = _exports.c.path.startswith(_storable(below), autoescape=True)
        query = self._mine(_exports).where(start).order_by(_exports.c.path)
        found = (ExportRow(**_without_job(row)) for row in self._rows(query))
        return [row for row in found if row.path.startswith(_storable(below))]

    def exports_of(self, items: Iterable[str]) -> Iterator[ExportRow]:
        """Yield all that was exported of `items`, to whatever path."""
        for batch in _batches(items):
            rows = self._rows(self._mine(_exports).where(_exports.c.item.in_(batch)))
            yield from (ExportRow(**_without_job(row)) for row in rows)

    def forget_exports(self, paths: Iterable[str]) -> None:
        """Drop what is known of exported files: they are not there any more."""
        for batch in _batches(map(_storable, paths)):
            mine = sa.and_(_exports.c.job == self._job, _exports.c.path.in_(batch))
            with self._transaction() as connection:
                connection.execute(sa.delete(_exports).where(mine))

    # --- where the pictures came from ----------------------------------------------------------

    def keep_source(self, source: str) -> None:
        """Keep where the pictures of the job are, for later commands to stay away from."""
        insert = _INSERT[self._engine.dialect.name](_sources)
        row = {"job": self._job, "source": _storable(source)}
        with self._transaction() as connection:
            connection.execute(
                insert.values(**row).on_conflict_do_update(
                    index_elements=["job"], set_={"source": row["source"]}
                )
            )

    def source(self) -> str | None:
        """Return what `keep_source` kept; None in jobs that never did."""
        if not self._has(_sources):
            return None
        query = sa.select(_sources.c.source).where(_sources.c.job == self._job)
        return next((row["source"] for row in self._rows(query)), None)

    # --- notes -------------------------------------------------------------------------------

    def put_notes(self, stage: str, notes: Mapping[str, Sequence[str]]) -> None:
        """Replace the notes of a stage on items; an item with none loses those it had."""
        for batch in _batches(notes.items()):
            items = [_storable(item) for item, _ in batch]
            rows = [
                {"job": self._job, "item": item, "stage": stage, "number": n, "note": note}
                for item, (_, found) in zip(items, batch, strict=True)
                for n, note in enumerate(map(_storable, found))
            ]
            with self._transaction() as connection:
                mine = sa.and_(_notes.c.job == self._job, _notes.c.stage == stage)
                connection.execute(sa.delete(_notes).where(mine, _notes.c.item.in_(items)))
                if rows:
                    connection.execute(sa.insert(_notes), rows)

    def notes(self) -> list[Note]:
        """Return all notes, by item, ingest before export, in order.

        A ledger of an upres that took none, opened where nothing can be written, has none.
        """
        with self._transaction() as connection:
            if not sa.inspect(connection).has_table(_notes.name):
                return []
        order = (_notes.c.item, _notes.c.stage.desc(), _notes.c.number)
        rows = self._rows(self._mine(_notes).order_by(*order))
        return [Note(row["item"], row["stage"], row["note"]) for row in rows]

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
        """Record that a run began now; one before it that did not say how it ended was killed."""
        row = {"job": self._job, "run": run, "command": command, "started": _now()}
        with self._transaction() as connection:
            before = sa.and_(_runs.c.job == self._job, _runs.c.outcome == _RUNNING)
            connection.execute(sa.update(_runs).where(before).values(outcome="killed"))
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

    def _has(self, table: sa.Table) -> bool:
        """Return whether a table is there; to read an old ledger makes none."""
        with self._transaction() as connection:
            return sa.inspect(connection).has_table(table.name)

    def _mine(self, table: sa.Table) -> sa.Select[Any]:
        return sa.select(table).where(table.c.job == self._job)

    def _put(self, table: sa.Table, rows: Iterable[Any], *, key: Sequence[str]) -> None:
        insert = _INSERT[self._engine.dialect.name](table)
        fresh = {c.name: insert.excluded[c.name] for c in table.c if c.name not in key}
        statement = insert.on_conflict_do_update(index_elements=list(key), set_=fresh)
        for batch in _batches(rows):
            values = [
                {"job": self._job, **{name: _storable(v) for name, v in asdict(row).items()}}
                for row in batch
            ]
            with self._transaction() as connection:
                connection.execute(statement, values)

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
            raise LedgerError(
                f"ledger {url} failed: {_first_line(error)}{_remedy(error)}"
            ) from error

    def _prepare(self, *, read_only: bool) -> None:
        try:
            with self._transaction() as connection:
                if not read_only:
                    _create_tables(connection)
                self._check_version(connection, read_only=read_only)
        except BaseException:
            self.close()
            raise

    def _check_version(self, connection: sa.Connection, *, read_only: bool) -> None:
        if read_only and not sa.inspect(connection).has_table(_jobs.name):
            raise self._unknown_job()
        query = sa.select(_jobs.c.version).where(_jobs.c.job == self._job)
        version = connection.execute(query).scalar()
        if version is None and read_only:
            raise self._unknown_job()
        if version is None:
            connection.execute(sa.insert(_jobs).values(job=self._job, version=VERSION))
        elif version != VERSION:
            remedy = "update upres" if version > VERSION else _MOVE_AWAY
            raise LedgerError(f"ledger has version {version}, expected {VERSION}; {remedy}")

    def _unknown_job(self) -> LedgerError:
        return LedgerError(
            f"ledger {_public(self._engine.url)} knows no job {self._job}, expected one that was "
            "run on; run `upres upscale SRC JOB`"
        )


def _in_chunk(units: Any) -> sa.ColumnElement[bool]:
    """Return the condition under which a unit is the one that an item of a stack is part of."""
    return sa.and_(
        _items.c.stack != "",
        _items.c.job == units.c.job,
        _items.c.stack == units.c.item,
        _items.c.chunk == units.c.tile,
        _items.c.fingerprint == units.c.fingerprint,
    )


_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _writing_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_sqlite_pragmas)
    return engine


def _set_sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000:.0f}")
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait where two connections change the mode of a new file at once.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _create_tables(connection: sa.Connection) -> None:
    """Create the tables where they lack, and keep others out until the transaction ends."""
    if connection.dialect.name == "sqlite":
        # Python's sqlite3 begins no transaction before CREATE: two openers would both create.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATING)))
    _metadata.create_all(connection)


def _check_own_file(path: Path) -> None:
    """Make sure that a file that is to be a ledger is not a database of another program.

    Raises:
        LedgerError: if it is. A file that is no database is known as such when it is opened.
    """
    if not path.exists():
        return
    with (
        suppress(sqlite3.Error),
        closing(
            sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)
        ) as connection,
    ):
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in found}
        if tables and _jobs.name not in tables:
            raise LedgerError(
                f"{path} is a database of another program (it holds {min(tables)}), expected a "
                "ledger or no file; move it away"
            )


def _reading_engine(url: sa.URL) -> sa.Engine:
    """Return an engine that writes nothing, not even what SQLite keeps beside its file."""
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, execution_options={"postgresql_readonly": True})
    if not url.database or url.database.startswith(("file:", ":memory:")):
        engine = sa.create_engine(url)
    else:
        engine = sa.create_engine(url, creator=_reader_of(Path(url.database).absolute()))
    sa.event.listen(engine, "connect", _forbid_writing)
    return engine


def _forbid_writing(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000:.0f}")
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


def _reader_of(path: Path) -> Callable[[], sqlite3.Connection]:
    """Return what connects to the SQLite file at `path` for reading.

    Raises:
        LedgerError: if there is no file, or what was written last is out of reach.
    """
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}; make one with `upres upscale SRC JOB`")
    address = f"file:{quote(os.fsencode(path))}?mode=ro"
    if not _readable(address) and not os.access(path.parent, os.W_OK):
        # In write-ahead mode SQLite makes files beside the ledger even to read it, unless it is
        # promised that nobody writes. Then it overlooks what was not yet copied into the ledger.
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise LedgerError(
                f"ledger {path} cannot be read where nothing can be written, as {log.name} holds "
                "more of it; copy both files to a folder that you can write"
            )
        address += "&immutable=1"
    return lambda: sqlite3.connect(address, uri=True, check_same_thread=False)


def _readable(address: str) -> bool:
    try:
        connection = sqlite3.connect(address, uri=True)
    except sqlite3.Error:
        return False
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:
        pass  # Damaged: no other way of opening will help, and the first query will say so.
    finally:
        connection.close()
    return True


def _batches(values: Iterable[Value]) -> Iterator[tuple[Value, ...]]:
    waiting = iter(values)
    while batch := tuple(islice(waiting, _PAGE)):
        yield batch


def _without_job(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "job"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        # The text stays out of the message: it may hold a password.
        raise NoLedgerError(
            "the ledger's URL cannot be read; expected postgresql://USER:PASSWORD@HOST/DATABASE "
            "or sqlite:////PATH"
        ) from error


def _check_place(url: sa.URL) -> None:
    """Make sure that a ledger can be there; of a missing folder SQLite does not say that it is.

    Raises:
        NoLedgerError: if the database is of an unknown kind, or there is no folder for its file.
    """
    kind, name = url.get_backend_name(), url.database
    if kind not in _INSERT:
        raise NoLedgerError(f"ledger is in {kind}, expected sqlite or postgresql")
    if kind != "sqlite" or not name or name.startswith((":", "file:")):
        return
    folder = Path(name).absolute().parent
    if not folder.is_dir():
        raise NoLedgerError(
            f"ledger {_public(url)} cannot be made, as {folder} is not a folder; make that, or "
            "name another file"
        )


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


def _remedy(error: BaseException) -> str:
    """Return the next step, where a SQLite file is damaged or closed to this user."""
    text = str(error)
    if "file is not a database" in text or "malformed" in text:
        return f"; {_MOVE_AWAY}"
    if "readonly database" in text or "unable to open database file" in text:
        return "; let this user read and write the file and its folder"
    return ""
