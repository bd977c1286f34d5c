"""The ledger of one job: opened and closed here, read and written in its parts."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import LedgerError
from pipeline.storage.access import close_to
from pipeline.storage.ledger.connections import (
    check_own_file,
    check_place,
    parse_url,
    reading_engine,
    writing_engine,
)
from pipeline.storage.ledger.exports import ExportLedger
from pipeline.storage.ledger.items import ItemLedger
from pipeline.storage.ledger.let_go import LetGoLedger
from pipeline.storage.ledger.messages import MOVE_AWAY, not_opened, without_secrets
from pipeline.storage.ledger.notes import NoteLedger
from pipeline.storage.ledger.objects import ObjectLedger
from pipeline.storage.ledger.runs import RunLedger
from pipeline.storage.ledger.scores import ScoreLedger
from pipeline.storage.ledger.seals import SealLedger
from pipeline.storage.ledger.tables import JOBS, VERSION, create_tables
from pipeline.storage.ledger.traces import TraceLedger
from pipeline.storage.ledger.units import UnitLedger

FILE_NAME = "ledger.sqlite"


class Ledger(
    ItemLedger,
    UnitLedger,
    ScoreLedger,
    ExportLedger,
    NoteLedger,
    TraceLedger,
    ObjectLedger,
    SealLedger,
    LetGoLedger,
    RunLedger,
):
    """The rows of one job in one database."""

    @classmethod
    def open(cls, url: str, *, job: str, read_only: bool = False) -> Ledger:
        """Open the ledger of `job` at a database URL, creating the tables where they lack.

        Any number of processes may open a new one at once. With `read_only` nothing is created
        nor written, and the file may be where nothing can be written.

        Raises:
            NoLedgerError: if `url` is none, or names a folder that is not there.
            LedgerError: if the database cannot be reached or was written by a newer upres; with
                `read_only` also if there is none, or it knows nothing of `job`.
        """
        return cls._of(parse_url(url), job=job, read_only=read_only)

    @classmethod
    def open_file(cls, path: Path, *, job: str, read_only: bool = False) -> Ledger:
        """Open the SQLite ledger at `path`."""
        if not read_only:
            check_own_file(path)
        # Not by a URL in text: a folder may be called "what?".
        url = sa.URL.create("sqlite", database=str(path))
        return cls._of(url, job=job, read_only=read_only)

    @classmethod
    def _of(cls, url: sa.URL, *, job: str, read_only: bool) -> Ledger:
        check_place(url)
        try:
            ledger = cls(reading_engine(url) if read_only else writing_engine(url), job)
            ledger._prepare(read_only=read_only)
        except (SQLAlchemyError, sqlite3.Error, ImportError) as error:
            raise not_opened(url, error) from error
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

    def _prepare(self, *, read_only: bool) -> None:
        try:
            with self._transaction() as connection:
                if not read_only:
                    create_tables(connection)
                self._check_version(connection, read_only=read_only)
        except BaseException:
            self.close()
            raise

    def _check_version(self, connection: sa.Connection, *, read_only: bool) -> None:
        if read_only and not sa.inspect(connection).has_table(JOBS.name):
            raise self._unknown_job()
        query = sa.select(JOBS.c.version).where(JOBS.c.job == self._job)
        version = connection.execute(query).scalar()
        if version is None and read_only:
            raise self._unknown_job()
        if version is None:
            connection.execute(sa.insert(JOBS).values(job=self._job, version=VERSION))
        elif version != VERSION:
            remedy = "update upres" if version > VERSION else MOVE_AWAY
            raise LedgerError(f"ledger has version {version}, expected {VERSION}; {remedy}")

    def _unknown_job(self) -> LedgerError:
        return LedgerError(
            f"ledger {without_secrets(self._engine.url)} knows no job {self._job}, expected one "
            "that was run on; run `upres upscale SRC JOB`"
        )
