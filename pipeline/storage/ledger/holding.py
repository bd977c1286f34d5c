"""Who works on a job whose ledger is on a server: a lock of PostgreSQL that dies with its session.

The server ends the session of a process that is gone at once, and that of a machine that is gone
within a minute.
"""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import JobBusyError, NoLedgerError
from pipeline.storage.ledger.connections import parse_url
from pipeline.storage.ledger.messages import not_opened, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME_BYTES = 63
"""What PostgreSQL keeps of the name of a session."""

_ALIVE = (
    "SET tcp_keepalives_idle = 20",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)

_HOLDER = sa.text(
    "SELECT a.application_name, a.backend_start FROM pg_locks l JOIN pg_stat_activity a"
    " ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND l.classid::bigint = :high AND l.objid::bigint = :low"
)


@contextmanager
def hold_by_server(url: str, *, job: str, what: str, command: str) -> Iterator[None]:
    """Hold a job alone in the database of its ledger; `command` is how others hear of the holder.

    Raises:
        JobBusyError: if another process holds it; the message names that process and its start.
        LedgerError: if the database cannot be reached, or has no such locks.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise NoLedgerError(
            f"ledger {without_secrets(parsed)} cannot hold {what}, expected postgresql://... or "
            "sqlite:////PATH"
        )
    engine = sa.create_engine(parsed, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    try:
        connection = engine.connect()
    except (SQLAlchemyError, ImportError) as error:
        raise not_opened(parsed, error) from error
    with connection:
        if not _taken(connection, _key_of(job), command):
            raise JobBusyError.of(what, _holder(connection, _key_of(job)))
        yield


def _taken(connection: sa.Connection, key: int, command: str) -> bool:
    """Take the lock, if nobody has it, under a name by which others know this process."""
    name = f"{command} (pid {os.getpid()} on {platform.node()})".encode()[:_NAME_BYTES]
    named = sa.func.set_config("application_name", name.decode(errors="ignore"), False)
    connection.execute(sa.select(named))
    for setting in _ALIVE:
        connection.exec_driver_sql(setting)
    return bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(key))))


def _key_of(job: str) -> int:
    """Return the number of a job's lock, which is as long as PostgreSQL takes."""
    digest = sha256(f"upres job {job}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _holder(connection: sa.Connection, key: int) -> str:
    """Return who holds a lock that others hold."""
    halves = {"high": key >> 32 & 0xFFFFFFFF, "low": key & 0xFFFFFFFF}
    found = connection.execute(_HOLDER, halves).first()
    if found is None or not found[0]:
        return "another run"
    name, began = found
    return f"{name}, since {began:%Y-%m-%dT%H:%M:%S%z}" if began else str(name)
