"""The ledger in a real PostgreSQL, started for the test, on the loopback interface only."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from pipeline.errors import LedgerError
from pipeline.storage.ledger import DONE, FAILED, INGESTED, ItemRow, Ledger, UnitRow
from tests.services.databases import PASSWORD, binaries

if TYPE_CHECKING:
    from tests.conftest import Command, SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]


def test_outcomes_are_counted_as_in_sqlite(postgresql: str) -> None:
    ledger = Ledger.open(postgresql, job="counted")
    ledger.put_items([ItemRow(item="a", state=INGESTED, fingerprint="f", units=3)])
    rows = [
        UnitRow(item="a", number=0, fingerprint="f", state=DONE),
        UnitRow(item="a", number=1, fingerprint="f", state=FAILED, error="E", message="why"),
        UnitRow(item="a", number=2, fingerprint="another", state=DONE),
    ]
    ledger.put_units(rows)
    ledger.put_units(rows[:1])
    (count,) = ledger.count_items()
    assert (count.done, count.failed, count.pending) == (1, 1, 1)
    assert [(u.number, u.message) for u in ledger.failures()] == [(1, "why")]
    ledger.forget_units(["a"])
    assert not ledger.knows_units()
    ledger.close()


def test_two_jobs_in_one_database_do_not_see_each_other(postgresql: str) -> None:
    one, other = (Ledger.open(postgresql, job=name) for name in ("one", "other"))
    one.put_items([ItemRow(item="a", state=INGESTED)])
    assert other.items() == []
    assert [row.item for row in one.items()] == ["a"]
    one.close()
    other.close()


@pytest.mark.parametrize("reads", [False, True])
def test_a_server_that_was_away_meanwhile_costs_a_ledger_nothing(
    reads: bool, postgresql: str
) -> None:
    Ledger.open(postgresql, job="away").close()
    ledger = Ledger.open(postgresql, job="away", read_only=reads)
    assert ledger.items() == []
    engine = sa.create_engine(postgresql)
    with engine.connect() as other:
        ended = other.scalar(
            sa.text(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()
    assert ended >= 1
    assert ledger.items() == []
    ledger.close()


def test_a_refused_password_is_one_error_that_does_not_show_it(postgresql: str) -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger.open(postgresql.replace("secret", "guess"), job="refused")
    assert "guess" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_job_runs_and_is_continued_with_its_ledger_there(
    postgresql: str, tmp_path: Path, photo: TakePhoto, save: SavePicture,
    upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    save(tmp_path / "in" / "a.png", photo(40, 70))
    words = ("upscale", tmp_path / "in", tmp_path / "job", "--model", "bicubic-x2", "--tile", 32,
             "--ledger", postgresql, "--json", *cluster)  # fmt: skip
    first, second = upres(*words), upres(*words)
    assert (first.code, second.code) == (0, 0)
    assert first.document["computed_units"] == first.document["units"]["done"] == 6
    assert second.document["computed_units"] == 0
    assert not list((tmp_path / "job").glob("ledger.sqlite*"))
    told = upres("status", tmp_path / "job", "--json")
    assert told.document["units"] == first.document["units"]
    assert PASSWORD not in told.out


def test_the_password_is_not_kept_where_others_may_read_it(
    postgresql: str, tmp_path: Path, photo: TakePhoto, save: SavePicture,
    upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    save(tmp_path / "in" / "a.png", photo(40, 70))
    upres("upscale", tmp_path / "in", tmp_path / "job", "--model", "bicubic-x2",
          "--ledger", postgresql, *cluster)  # fmt: skip
    description = tmp_path / "job" / "job.json"
    assert description.stat().st_mode & 0o077 == 0 or PASSWORD not in description.read_text()
    assert sys.platform != "win32"


def _database(url: str, name: str, program: str, *words: str) -> None:
    """Run a program of PostgreSQL's on the server of `url`, as docs/operations.md does."""
    at, _, _ = url.replace("+psycopg", "").rpartition("/")
    path = shutil.which(program) or str((binaries() or Path()) / program)
    subprocess.run([path, "--dbname", f"{at}/{name}", *words], check=True, capture_output=True)


def test_a_dump_restored_into_another_database_continues_a_copy_of_the_job(
    postgresql: str, tmp_path: Path, photo: TakePhoto, save: SavePicture,
    upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    dump = tmp_path / "ledger.sql"
    save(tmp_path / "in" / "a.png", photo(40, 70))
    options = ("--model", "bicubic-x2", "--tile", 32, "--json", *cluster)
    first = upres("upscale", tmp_path / "in", tmp_path / "out", *options, "--ledger", postgresql)
    assert first.document["computed_units"] == 6
    _database(postgresql, "postgres", "pg_dump", "--file", str(dump))
    shutil.copytree(tmp_path / "out", tmp_path / "restored")
    create = "CREATE DATABASE restored"
    _database(postgresql, "postgres", "psql", "--command", create)
    _database(postgresql, "restored", "psql", "--file", str(dump))
    description = tmp_path / "restored" / "job.json"
    other = f"{postgresql.rpartition('/')[0]}/restored"
    description.write_text(description.read_text().replace(postgresql, other))

    again = upres("upscale", tmp_path / "in", tmp_path / "restored", *options)
    assert (again.code, again.document["computed_units"]) == (0, 0)
    save(tmp_path / "in" / "b.png", photo(32, 32))
    assert upres("upscale", tmp_path / "in", tmp_path / "restored", *options).code == 0
    units = [
        upres("status", tmp_path / name, "--json").document["units"]["done"]
        for name in ("out", "restored")
    ]
    assert units == [6, 7]
