"""The database of a ledger, as its parts read and write it: the rows of one job alone."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import LedgerError
from pipeline.storage.ledger.messages import explain, without_secrets
from pipeline.storage.ledger.rows import maker
from pipeline.storage.ledger.tables import UNREAD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Row = TypeVar("Row")
Value = TypeVar("Value")

PAGE = 2_000
"""How many rows are in memory, or in one statement, at once."""

INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""By the kind of database: what inserts a row or, where its key is there, replaces it."""


class JobRows:
    """The rows of one job. The parts of the ledger build on this."""

    def __init__(self, engine: sa.Engine, job: str) -> None:
        self._engine = engine
        self._job = job

    def _has(self, table: sa.Table) -> bool:
        """Return whether a table is there: a ledger that is only read may be of an older upres."""
        with self._transaction() as connection:
            return sa.inspect(connection).has_table(table.name)

    def _mine(self, table: sa.Table) -> sa.Select[Any]:
        """Return a query of this job's rows of a table: their fields, by the columns' keys."""
        columns = (column.label(column.key) for column in table.c if column.key not in UNREAD)
        return sa.select(*columns).where(table.c.job == self._job)

    def _among(self, column: sa.Column[Any], values: Sequence[Any]) -> sa.ColumnElement[bool]:
        """Return the condition that a column has one of many values, as one parameter.

        ``column.in_(values)`` has one for each, which takes longer than the query itself.
        """
        if self._engine.dialect.name == "sqlite":
            each = sa.func.json_each(json.dumps(values)).table_valued("value")
            return column.in_(sa.select(each.c.value))
        return column == sa.any_(sa.literal(list(values), postgresql.ARRAY(column.type)))

    def _rows(self, kind: type[Row], query: sa.Select[Any]) -> list[Row]:
        """Return what a query of `_mine` finds, as rows of `kind`."""
        with self._transaction() as connection:
            # All at once: a generator would hold the transaction as long as its reader likes.
            found = connection.execute(query)
            return list(map(maker(kind, tuple(found.keys())), found.all()))

    def _each(self, kind: type[Row], query: sa.Select[Any], *, by: sa.Column[Any]) -> Iterator[Row]:
        """Yield what a query of `_mine` finds, sorted by a column that tells its rows apart.

        Only a few are in memory at a time.
        """
        page = query.order_by(by).limit(PAGE)
        rows = self._rows(kind, page)
        while rows:
            yield from rows
            last = getattr(rows[-1], by.key)
            rows = self._rows(kind, page.where(by > last)) if len(rows) == PAGE else []

    def _tuples(self, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
        with self._transaction() as connection:
            return list(map(tuple, connection.execute(query).all()))

    def _put(self, table: sa.Table, rows: Iterable[Any]) -> None:
        """Insert rows (values of `rows`), or replace those that have their keys."""
        statement = self._upsert(table)
        for batch in batches(rows):
            names = [field.name for field in fields(batch[0])]
            values = [
                {"job": self._job, **{name: storable(getattr(row, name)) for name in names}}
                for row in batch
            ]
            with self._transaction() as connection:
                connection.execute(statement, values)

    def _upsert(self, table: sa.Table) -> Any:
        insert = INSERT[self._engine.dialect.name](table)
        fresh = {c.key: insert.excluded[c.key] for c in table.c if not c.primary_key}
        return insert.on_conflict_do_update(index_elements=table.primary_key.columns, set_=fresh)

    def _delete(self, column: sa.Column[Any], values: Iterable[Any]) -> None:
        """Delete this job's rows of one table that have one of `values` in `column`."""
        table = column.table
        for batch in batches(values):
            with self._transaction() as connection:
                mine = sa.and_(table.c.job == self._job, self._among(column, batch))
                connection.execute(sa.delete(table).where(mine))

    def _delete_items(self, tables: Sequence[sa.Table], items: Iterable[str]) -> None:
        """Delete all rows of `items` from `tables`, from all of them at once."""
        for batch in batches(items):
            with self._transaction() as connection:
                for table in tables:
                    mine = sa.and_(table.c.job == self._job, self._among(table.c.item, batch))
                    connection.execute(sa.delete(table).where(mine))

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise LedgerError(
                f"ledger {without_secrets(self._engine.url)} failed: {explain(error)}"
            ) from error


def batches(values: Iterable[Value]) -> Iterator[tuple[Value, ...]]:
    """Yield all of `values` in their order, `PAGE` at most at once."""
    waiting = iter(values)
    while batch := tuple(islice(waiting, PAGE)):
        yield batch


def storable(value: Any) -> Any:
    """Return text that every database takes: file names may hold bytes that are not UTF-8."""
    if not isinstance(value, str) or (value.isascii() and "\0" not in value):
        return value
    return value.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
