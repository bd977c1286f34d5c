"""The tables of a ledger, and the conditions that join them.

A change here is a change of `VERSION`, unless an older upres can live with it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

VERSION = 2
_CREATING = 0x75707265
"""Key of the lock under which PostgreSQL makes the tables."""

RUNNING = "running"
"""How a run is recorded until it ends."""

METADATA = sa.MetaData()

JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    # How the job was last upscaled, as JSON: what a rerun repeats.
    sa.Column("upscaling", sa.String, nullable=False, default=""),
)

ITEMS = sa.Table(
    "items",
    METADATA,
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
    # Where the item is in a stack: its unit is recorded under the stack, chunk by chunk.
    sa.Column("stack", sa.String, nullable=False, default=""),
    sa.Column("chunk", sa.Integer, nullable=False, default=0),
    sa.Column("place", sa.Integer, nullable=False, default=0),
    sa.Index("items_by_chunk", "job", "stack", "chunk"),
)

UNREAD = frozenset({"job", "attempts"})
"""Columns that a row has no field for: its job is known, and older versions want the other."""

UNITS = sa.Table(
    "units",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    # Of a tile, or of a chunk of a stack. It had its name before there were stacks.
    sa.Column("tile", sa.Integer, primary_key=True, key="number"),
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
IS_FAILED = UNITS.c.state == sa.literal_column("'failed'")
sa.Index(
    "failed_units",
    UNITS.c.job,
    UNITS.c.item,
    sqlite_where=IS_FAILED,
    postgresql_where=IS_FAILED,
)

SCORES = sa.Table(
    "scores",
    METADATA,
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

NOTES = sa.Table(
    "notes",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("note", sa.String, nullable=False),
)

# What was seen of the traces in pictures, for those items that a model was to be chosen for.
TRACES = sa.Table(
    "traces",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    # The content that was looked at.
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("worn", sa.Boolean, nullable=False),
    sa.Column("because", sa.String, nullable=False),
)

RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("command", sa.String, nullable=False),
    sa.Column("started", sa.String, nullable=False),
    sa.Column("finished", sa.String, nullable=False, default=""),
    sa.Column("outcome", sa.String, nullable=False, default=RUNNING),
)

EXPORTS = sa.Table(
    "exports",
    METADATA,
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

# Which file or object an item came from: one that has this etag and size is not read again.
OBJECTS = sa.Table(
    "objects",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("etag", sa.String, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    # The content that was read.
    sa.Column("sha256", sa.String, nullable=False),
)

# How the metadata of an image was on the disk when it was last known to be right.
SEALS = sa.Table(
    "seals",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    # LR or SR.
    sa.Column("archive", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("stamp", sa.String, nullable=False),
    # What it said: the content of an LR image, the fingerprint of an SR image.
    sa.Column("says", sa.String, nullable=False),
)

# Items whose pixels the job deleted on purpose: what they were, and how they were made.
LET_GO = sa.Table(
    "let_go",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    # LR or SR.
    sa.Column("archive", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("says", sa.String, nullable=False),
    sa.Column("facts", sa.String, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
)

SOURCES = sa.Table(
    "sources",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("source", sa.String, nullable=False),
)


def in_chunk(units: Any) -> sa.ColumnElement[bool]:
    """Return the condition under which a unit is the one that an item of a stack is part of."""
    return sa.and_(
        ITEMS.c.stack != "",
        ITEMS.c.job == units.c.job,
        ITEMS.c.stack == units.c.item,
        ITEMS.c.chunk == units.c.number,
        ITEMS.c.fingerprint == units.c.fingerprint,
    )


def create_tables(connection: sa.Connection) -> None:
    """Create the tables where they lack, and keep others out until the transaction ends."""
    if connection.dialect.name == "sqlite":
        # Python's sqlite3 begins no transaction before CREATE: two openers would both create.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATING)))
    METADATA.create_all(connection)
