"""Jobs: a folder is one job for ever, and one process holds it at a time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zarr

from pipeline.constants import JOB_LOCK
from pipeline.errors import (
    ArchiveError,
    JobBusyError,
    LedgerError,
    OccupiedError,
    SourceError,
    UsageError,
)
from pipeline.jobs.job import DESCRIPTION, create_job, hold_job, open_job, started_job
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import FILE_NAME, INGESTED, ItemRow, Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.jobs.job import hold_job, open_job
with hold_job(open_job(Path(sys.argv[1])), "upres upscale photos"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def another_holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def archive_at(path: Path) -> Path:
    Archive.open_or_create(path)
    return path


# --- creating and continuing -------------------------------------------------------------------


def test_a_job_is_continued_with_the_same_identity(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "job"
    first = create_job(folder, source="photos")
    assert create_job(folder, source="other photos") == first
    assert open_job(folder) == first
    assert first.source_dir == folder / "source.zarr"
    assert create_job(tmp_path / "second", source="photos").id != first.id


def test_an_archive_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_at(tmp_path / "in.zarr")
    monkeypatch.chdir(tmp_path)
    job = create_job(Path("job"), source="in.zarr")
    assert job.source_dir == archive.resolve()
    assert create_job(Path("job"), source=str(archive)) == job
    assert list(job.open_source().items()) == []


def test_a_job_takes_no_other_source_archive(tmp_path: Path) -> None:
    one, two = archive_at(tmp_path / "1.zarr"), archive_at(tmp_path / "2.zarr")
    create_job(tmp_path / "job", source=str(one))
    for other in (str(two), "photos"):
        with pytest.raises(UsageError, match=re.escape(str(one))):
            create_job(tmp_path / "job", source=other)
    create_job(tmp_path / "of files", source="photos")
    with pytest.raises(UsageError, match="use another job folder"):
        create_job(tmp_path / "of files", source=str(one))


def test_a_foreign_zarr_store_makes_no_job(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "x.zarr", zarr_format=3)
    with pytest.raises(ArchiveError, match=r"x\.zarr"):
        create_job(tmp_path / "job", source=str(tmp_path / "x.zarr"))
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("name", ["photo.png", ".hidden", "source.zarr"])
def test_a_folder_of_other_things_becomes_no_job(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match="is not a job"):
        create_job(tmp_path, source="photos")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_becomes_no_job(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("precious")
    with pytest.raises(UsageError):
        create_job(tmp_path / "job", source="photos")
    with pytest.raises(UsageError):
        open_job(tmp_path / "job")
    assert (tmp_path / "job").read_text() == "precious"


def test_what_a_killed_start_leaves_behind_can_become_a_job(tmp_path: Path) -> None:
    (tmp_path / JOB_LOCK).touch()
    create_job(tmp_path, source="photos")


def test_a_ledger_or_lock_of_another_program_is_met_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
        connection.execute("CREATE TABLE accounts (name TEXT)")
    database = (tmp_path / "ledger.sqlite").read_bytes()
    with pytest.raises(LedgerError, match="is a database of another program"):
        create_job(tmp_path, source="photos")
    (tmp_path / JOB_LOCK).write_text("4711")
    with pytest.raises(OccupiedError, match="was not written by upres"):
        create_job(tmp_path, source="photos", ledger_url=f"sqlite:///{tmp_path}/l.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.sqlite", JOB_LOCK]
    assert (tmp_path / "ledger.sqlite").read_bytes() == database
    (tmp_path / JOB_LOCK).unlink()
    (tmp_path / "ledger.sqlite").write_text("precious, and not a database at all")
    with pytest.raises(LedgerError, match="file is not a database"):
        create_job(tmp_path, source="photos")
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"]
    assert (tmp_path / "ledger.sqlite").read_text() == "precious, and not a database at all"


def start_in_vain(folder: Path, *, ingested: bool = False) -> None:
    """Start a job that fails, before it holds a picture or after."""
    with started_job(folder, source="photos") as job, hold_job(job, "test"):
        job.open_ledger().close()
        if ingested:
            job.source_dir.mkdir()
        raise SourceError("no pictures")


def test_a_start_that_fails_leaves_nothing_of_a_new_job(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no pictures"):
        start_in_vain(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no pictures"):
        start_in_vain(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_start_that_fails_removes_nothing_that_was_there(tmp_path: Path) -> None:
    job = create_job(tmp_path / "old", source="photos")
    with pytest.raises(SourceError, match="no pictures"):
        start_in_vain(tmp_path / "old")
    assert open_job(tmp_path / "old") == job
    rest = tmp_path / "rest"
    rest.mkdir()
    Ledger.open_file(rest / FILE_NAME, job="7").close()
    with pytest.raises(SourceError, match="no pictures"):
        start_in_vain(rest)
    assert [path.name for path in rest.iterdir()] == [FILE_NAME]


def test_a_start_that_fails_keeps_what_was_ingested(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no pictures"):
        start_in_vain(tmp_path / "job", ingested=True)
    assert open_job(tmp_path / "job").source_dir.is_dir()


def test_what_is_no_job_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="upres upscale SRC"):
        open_job(tmp_path)
    job = create_job(tmp_path, source="photos")
    with pytest.raises(ArchiveError, match="no upscaled pictures yet"):
        job.open_sr()
    with pytest.raises(ArchiveError):
        job.open_source()
    assert sorted(p.name for p in tmp_path.iterdir()) == [DESCRIPTION]


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "7", "{}", '{"id": "x"}', '{"id": "x", "source": "s"}',
        '{"id": "x", "source": 7, "ledger": ""}', '{"id": 7, "source": "s", "ledger": ""}',
        '{"id": "", "source": "s", "ledger": ""}', '{"id": "x", "source": "s", "ledger": 7}',
    ],
)  # fmt: skip
def test_a_damaged_description_is_an_error_and_stays_as_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / DESCRIPTION).write_text(content)
    wanted = re.escape(str(tmp_path / DESCRIPTION))
    with pytest.raises(UsageError, match=wanted):
        open_job(tmp_path)
    with pytest.raises(UsageError, match=wanted):
        create_job(tmp_path, source="photos")
    assert (tmp_path / DESCRIPTION).read_text() == content


def test_a_description_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError, match="cannot be read"):
        open_job(tmp_path)


# --- the ledger ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["job", "what?", "50%20", "a#b"])
def test_the_ledger_lies_in_the_job_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    job = create_job(tmp_path / name, source="photos")
    ledger = job.open_ledger()
    ledger.put_items([ItemRow(item="a", state=INGESTED)])
    ledger.close()
    assert (tmp_path / name / FILE_NAME).is_file()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_job_may_be_moved_with_its_ledger(tmp_path: Path) -> None:
    job = create_job(tmp_path / "old", source="photos")
    ledger = job.open_ledger()
    ledger.put_items([ItemRow(item="a", state=INGESTED)])
    ledger.close()
    (tmp_path / "old").rename(tmp_path / "new")
    ledger = open_job(tmp_path / "new").open_ledger()
    assert [row.item for row in ledger.items()] == ["a"]
    ledger.close()
    assert not (tmp_path / "old").exists()


def test_a_ledger_elsewhere_is_kept_and_no_other_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = create_job(tmp_path / "job", source="photos", ledger_url="sqlite:///l.db")
    job.open_ledger().close()
    assert (tmp_path / "l.db").is_file()
    assert create_job(tmp_path / "job", source="photos", ledger_url="sqlite:///l.db") == job
    assert create_job(tmp_path / "job", source="photos") == job
    with pytest.raises(UsageError, match=f"ledger at sqlite:///{tmp_path}/l.db; leave --ledger"):
        create_job(tmp_path / "job", source="photos", ledger_url="sqlite:////tmp/other.db")
    monkeypatch.chdir("/")
    open_job(tmp_path / "job").open_ledger().close()
    assert not Path("/l.db").exists()


def test_a_password_is_in_no_message_and_for_the_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://me:s3cret@127.0.0.1/db"
    here = Ledger.open_file(tmp_path / FILE_NAME, job="j")  # stands in for a server
    monkeypatch.setattr(Ledger, "open", lambda _url, *, job: here)
    create_job(tmp_path / "job", source="photos", ledger_url=url)
    with pytest.raises(UsageError) as caught:
        create_job(tmp_path / "job", source="photos", ledger_url=url + "x")
    here.close()
    assert "me@127.0.0.1/db" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert (tmp_path / "job" / DESCRIPTION).stat().st_mode & 0o077 == 0


# --- the lock --------------------------------------------------------------------------------


def test_a_second_process_is_kept_out_and_told_who_holds_the_job(tmp_path: Path) -> None:
    job = create_job(tmp_path, source="photos")
    with another_holder(tmp_path) as process:
        wanted = rf"upres upscale photos \(pid {process.pid} on {os.uname().nodename}, since 2"
        with pytest.raises(JobBusyError, match=wanted), hold_job(job, "upres score"):
            pass
        # Being refused must not have taken the holder's name away.
        with pytest.raises(JobBusyError, match=wanted), hold_job(job, "upres score"):
            pass


def test_a_holder_that_was_killed_holds_no_more(tmp_path: Path) -> None:
    job = create_job(tmp_path, source="photos")
    with another_holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with hold_job(job, "upres score"):
            assert "upres score" in (tmp_path / JOB_LOCK).read_text()
            assert "photos" not in (tmp_path / JOB_LOCK).read_text()


def test_a_job_is_free_again_after_a_run_and_after_a_failed_one(tmp_path: Path) -> None:
    job = create_job(tmp_path, source="photos")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), hold_job(job, "one"):
            raise error
    with hold_job(job, "two"), pytest.raises(JobBusyError, match="two"), hold_job(job, "three"):
        pass
    with hold_job(job, "four"):
        pass


def test_two_jobs_do_not_exclude_each_other(tmp_path: Path) -> None:
    one, two = (create_job(tmp_path / n, source="photos") for n in "12")
    with hold_job(one, "a"), hold_job(two, "b"):
        pass


def test_the_description_is_plain_json(tmp_path: Path) -> None:
    create_job(tmp_path, source="photos")
    values = json.loads((tmp_path / DESCRIPTION).read_text())
    assert set(values) == {"id", "created", "source", "ledger"}
