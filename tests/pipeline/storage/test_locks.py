"""Locks: one holder at a time, known by name, whose death frees what it held."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pipeline.errors import JobBusyError, OccupiedError, UsageError
from pipeline.storage.locks import hold, hold_to_read, lock_and_ledger_beside

Take = Callable[[Path, Path, str], AbstractContextManager[None]]
NOBODY = 65534
HOLDER = """
import sys, time
from pathlib import Path
from pipeline.storage.locks import hold
with hold(Path(sys.argv[1]), Path(sys.argv[1]).parent, "upres prepare"):
    print("held", flush=True)
    time.sleep(600)
"""
OF_BEFORE = b"upres ingest (pid 7 on attic, since 2026-05-01T02:03:04+00:00)"


@contextmanager
def another_process(lock: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def another_account() -> Iterator[None]:
    """Be an account that owns nothing here."""
    if os.geteuid() != 0:
        pytest.skip("only root may act as another account")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can look into, and only its owner write."""
    folder = Path(tempfile.mkdtemp(prefix="upres-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("take", [hold, hold_to_read])
def test_who_holds_a_lock_is_named_to_all_others_and_frees_it_by_dying(
    take: Take, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    with another_process(lock) as process:
        name = rf"{re.escape(str(tmp_path))} is held by upres prepare \(pid {process.pid} on "
        for _ in range(2):  # Being refused must not take the holder's name away.
            with pytest.raises(JobBusyError, match=name), take(lock, tmp_path, "upres export"):
                pass
        process.kill()
        process.wait()
        with take(lock, tmp_path, "upres export"):
            assert lock.read_text().startswith(f"upres export (pid {os.getpid()} on ")


def test_the_file_of_a_lock_stays_so_that_nobody_locks_another_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with hold(lock, tmp_path, "one"):
        inode = lock.stat().st_ino
    with hold(lock, tmp_path, "two"):
        assert lock.stat().st_ino == inode
    assert lock.read_text().startswith("two (pid ")


@pytest.mark.parametrize("content", [b"", OF_BEFORE, OF_BEFORE + b"\n"])
def test_a_lock_of_before_is_taken(content: bytes, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_bytes(content)
    with hold(lock, tmp_path, "upres ingest"):
        assert f"pid {os.getpid()} " in lock.read_text()


@pytest.mark.parametrize("take", [hold, hold_to_read])
def test_a_file_that_upres_did_not_write_is_no_lock(take: Take, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_bytes(b"keys of the archive room")
    with pytest.raises(OccupiedError), take(lock, tmp_path, "upres ingest"):
        pass
    assert lock.read_bytes() == b"keys of the archive room"


def test_those_who_may_only_read_a_lock_share_it_and_keep_writers_out(open_folder: Path) -> None:
    lock = open_folder / "lock"
    with hold(lock, open_folder, "upres prepare"):
        before = lock.read_bytes()
        with another_account(), pytest.raises(JobBusyError, match="is being written"):  # noqa: SIM117
            with hold_to_read(lock, open_folder, "upres export"):
                pass
    with another_account():
        first = hold_to_read(lock, open_folder, "one")
        first.__enter__()
        with hold_to_read(lock, open_folder, "two"):
            pass
    with pytest.raises(JobBusyError), hold(lock, open_folder, "upres prepare"):
        pass
    first.__exit__(None, None, None)
    assert lock.read_bytes() == before
    with hold(lock, open_folder, "upres prepare"):
        pass


def test_where_no_lock_can_be_written_and_none_is_there_reading_needs_none(
    open_folder: Path,
) -> None:
    with another_account(), hold_to_read(open_folder / "lock", open_folder, "upres export"):
        assert list(open_folder.iterdir()) == []


def test_an_error_while_something_is_read_stays_what_it_is(open_folder: Path) -> None:
    with hold(open_folder / "lock", open_folder, "upres prepare"):
        pass
    with another_account(), pytest.raises(BlockingIOError):  # noqa: SIM117
        with hold_to_read(open_folder / "lock", open_folder, "upres export"):
            raise BlockingIOError("of a file that is read")


def test_lock_and_ledger_stand_beside_a_store_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = (tmp_path / "a" / "b.zarr.lock", tmp_path / "a" / "b.zarr.ledger.sqlite")
    assert lock_and_ledger_beside(tmp_path / "a" / "b.zarr") == expected
    assert (tmp_path / "a").is_dir()
    (tmp_path / "a" / "b.zarr").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "b.zarr")
    assert lock_and_ledger_beside(Path()) == expected
    with pytest.raises(UsageError, match="name a folder in it"):
        lock_and_ledger_beside(Path("/"))
    with pytest.raises(UsageError, match="cannot be a folder"):
        lock_and_ledger_beside(Path("a\0b"))
