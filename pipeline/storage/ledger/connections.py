"""Ways to the database of a ledger: which URLs and files may be one, and how it is connected to."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import LedgerError, NoLedgerError, UsageError
from pipeline.storage.ledger.database import INSERT
from pipeline.storage.ledger.messages import without_secrets
from pipeline.storage.ledger.tables import JOBS

if TYPE_CHECKING:
    from collections.abc import Callable

_BUSY_S = 30.0
_SERVER = "postgresql"


def writing_engine(url: sa.URL) -> sa.Engine:
    """Return an engine that makes what it writes durable, and waits for others that write."""
    # A server that was away for a while leaves connections behind that are dead.
    engine = sa.create_engine(url, pool_pre_ping=url.get_backend_name() == _SERVER)
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


def check_own_file(path: Path) -> None:
    """Make sure that a file that is to be a ledger is not a database of another program.

    Raises:
        LedgerError: if it is. A file that is not a database is noticed when it is opened.
    """
    if not path.exists():
        return
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(_address_to_read(path), uri=True)) as connection,
    ):
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in found}
        if tables and JOBS.name not in tables:
            raise LedgerError(
                f"{path} is a database of another program (it holds {min(tables)}), expected a "
                "ledger or no file; move it away"
            )


def reading_engine(url: sa.URL) -> sa.Engine:
    """Return an engine that writes nothing, not even what SQLite keeps beside its file."""
    if url.get_backend_name() != "sqlite":
        readonly = {"postgresql_readonly": True}
        return sa.create_engine(url, execution_options=readonly, pool_pre_ping=True)
    path = file_of(url)
    engine = sa.create_engine(url, creator=_reader_of(path)) if path else sa.create_engine(url)
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
        LedgerError: if there is not a file, or what was written last is out of reach.
    """
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}; make one with `upres upscale SRC JOB`")
    address = _address_to_read(path)
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


def _address_to_read(path: Path) -> str:
    """Return how SQLite calls the file at `path` where it is only to be read."""
    return f"file:{quote(os.fsencode(path))}?mode=ro"


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


def parse_url(url: str) -> sa.URL:
    """Return the URL of a ledger that is given as text.

    Raises:
        NoLedgerError: if it is not a URL.
    """
    try:
        parsed = sa.make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        # The text stays out of the message: it may hold a password.
        raise NoLedgerError(
            "the ledger's URL cannot be read; expected postgresql://USER:PASSWORD@HOST/DATABASE "
            "or sqlite:////PATH"
        ) from error
    # The driver that upres installs; SQLAlchemy's own choice is an older one.
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == _SERVER else parsed


def without_password(url: str) -> str:
    """Return the URL of a ledger as text without a password, for files that others may read.

    Raises:
        NoLedgerError: if it is not a URL.
    """
    parsed = parse_url(url)
    plain = {k: v for k, v in parsed.query.items() if "password" not in k.lower()}
    bare = parsed.set(query=plain)
    # `set` takes None for a value to leave as it is.
    bare = sa.URL.create(
        bare.drivername, bare.username, None, bare.host, bare.port, bare.database, bare.query
    )
    return bare.render_as_string(hide_password=False)


def absolute_url(url: str) -> str:
    """Return a SQLite URL that means the same file in any working folder.

    Raises:
        UsageError: if it is in memory.
    """
    if url in ("sqlite://", "sqlite:///") or ":memory:" in url:
        raise UsageError(
            f"--ledger {url} is in memory and would be lost with the process; name a file"
        )
    start, found, path = url.partition("sqlite:///")
    if start or not found or not path or path.startswith(("/", ":", "file:")):
        return url
    return f"sqlite:///{Path(path).resolve()}"


def ledger_file(url: str) -> Path | None:
    """Return the file of a ledger's URL; None where it is on a server.

    Raises:
        NoLedgerError: as `check_place`.
    """
    parsed = parse_url(url)
    check_place(parsed)
    return file_of(parsed)


def file_of(url: sa.URL) -> Path | None:
    """Return the file that a ledger is kept in; None for a server, and for what has no plain path.

    SQLite has names of its own for databases in memory (``:memory:``) and for files with options
    (``file:``).
    """
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name.startswith((":memory:", "file:")):
        return None
    return Path(name).absolute()


def check_place(url: sa.URL) -> None:
    """Make sure that a ledger can be there; of a missing folder SQLite does not say that it is.

    Raises:
        NoLedgerError: if the database is of an unknown kind, if SQLite is to be on a server, or
            there is no folder for its file.
    """
    kind, path = url.get_backend_name(), file_of(url)
    if kind not in INSERT:
        raise NoLedgerError(f"ledger is in {kind}, expected sqlite or postgresql")
    if kind == "sqlite" and url.host:
        raise NoLedgerError(
            f"ledger {without_secrets(url)} names a server, and SQLite has none; a file has three "
            f"slashes: sqlite:///{url.host}"
        )
    if path is None:
        return
    folder = path.parent
    if not folder.is_dir():
        raise NoLedgerError(
            f"ledger {without_secrets(url)} cannot be made, as {folder} is not a folder; "
            "make that, or name another file"
        )
