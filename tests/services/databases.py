"""Databases for tests: a real PostgreSQL, on the loopback interface only, and Prefect's own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from tests.ports import free_port
from tests.sharing import SHARED

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "a secret of this test"


def binaries() -> Path | None:
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


@contextmanager
def postgresql_server() -> Iterator[str]:
    """A server of these tests' own; yields the URL of its database."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    folder = Path("/tmp") / f"upres-postgresql-{os.getpid()}"  # a path a socket's name can hold
    folder.mkdir(mode=0o700)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        for path in (folder, secret):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    port = free_port()
    data = folder / "data"
    init = ["initdb", "-D", str(data), "-U", "upres", "--auth=scram-sha-256"]
    _as_server([str(programs / init[0]), *init[1:], f"--pwfile={secret}"], cwd=folder)
    control = str(programs / "pg_ctl")
    listen = f"-h 127.0.0.1 -p {port} -k {folder}"
    log = str(folder / "log")
    _as_server(
        [control, "-D", str(data), "-l", log, "-o", listen, "-t", "600", "-w", "start"], cwd=folder
    )
    try:
        secret_in_url = PASSWORD.replace(" ", "%20")
        yield f"postgresql+psycopg://upres:{secret_in_url}@127.0.0.1:{port}/postgres"
    finally:
        _as_server([control, "-D", str(data), "-m", "immediate", "stop"], cwd=folder)
        shutil.rmtree(folder)


def put_new_database(prefect_home: Path) -> None:
    """Put Prefect's database, without a run, where a server with this home looks for it.

    Each server would make its own first, in as much CPU time as the rest of its start takes.
    """
    prefect_home.mkdir(parents=True, exist_ok=True)
    shutil.copy(_new_database(), prefect_home)


@lru_cache
def _new_database() -> Path:
    """Return the file of it, which the first process of the tests makes for all of them."""
    home = Path(os.environ[SHARED])
    with FileLock(home / "prefect.lock"):
        if not (file := home / "prefect.db").exists():
            _make_database(home / "prefect")
            (home / "prefect" / "prefect.db").rename(file)
    return file


def _make_database(home: Path) -> None:
    others = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"],
        env=others | {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
