"""The ledger in a real PostgreSQL, started for the test, on the loopback interface only."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import LedgerError
from pipeline.storage.ledger import DONE, FAILED, INGESTED, ItemRow, Ledger, UnitRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Command, SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]

PASSWORD = "a secret of this test"


def _binaries() -> Path | None:
    """Return the folder of the server's programs, None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return debian[-1].parent if debian else None


def _as_server(words: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a program of the server; it refuses to run as root, so root becomes another user."""
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    return subprocess.run(words, check=True, capture_output=True, **user, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of this test's own; yields the URL of its database."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    folder = Path("/tmp") / f"upres-postgresql-{os.getpid()}"  # a path a socket's name can hold
    folder.mkdir(mode=0o700)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        for path in (folder, secret):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    init = ["initdb", "-D", str(data), "-U", "upres", "--auth=scram-sha-256"]
    _as_server([str(binaries / init[0]), *init[1:], f"--pwfile={secret}"], cwd=folder)
    control = str(binaries / "pg_ctl")
    listen = f"-h 127.0.0.1 -p {port} -k {folder}"
    log = str(folder / "log")
    _as_server([control, "-D", str(data), "-l", log, "-o", listen, "-w", "start"], cwd=folder)
    try:
        secret_in_url = PASSWORD.replace(" ", "%20")
        yield f"postgresql+psycopg://upres:{secret_in_url}@127.0.0.1:{port}/postgres"
    finally:
        _as_server([control, "-D", str(data), "-m", "immediate", "stop"], cwd=folder)
        shutil.rmtree(folder)


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
    path = shutil.which(program) or str((_binaries() or Path()) / program)
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
