"""Disk use: what a job takes, what is to come, and that a night without room does not begin."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import DiskError
from pipeline.jobs.disk_use import check_room, disk_use
from pipeline.storage.disk import Used, used_by
from pipeline.storage.ledger import DONE

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.jobs.job import Job
    from tests.conftest import Command, SavePicture, TakePhoto, Upscale


@pytest.fixture
def job(tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale) -> Job:
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, photo(96, 128))
    return upscale(tmp_path / "in", tmp_path / "job").job


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Pretend that so many bytes are free on every disk."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=free))


def forget_half(job: Job) -> None:
    """Let the ledger forget one of the two pictures' tiles, as if they were still to come."""
    with closing(job.open_ledger()) as ledger:
        ledger.forget_units(["b.png"])


def test_files_are_added_up_and_folders_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "a" / "b" / "two").write_bytes(b"123")
    assert used_by(tmp_path) == Used(8, 2)
    assert used_by(tmp_path / "none") == Used(0, 0)


def test_the_parts_are_all_there_is(job: Job) -> None:
    with closing(job.open_ledger()) as ledger:
        found = disk_use(job, ledger)
        parts = found.source + found.sr + found.other
        assert parts == used_by(job.folder)
        assert min(found.source.files, found.sr.files, found.other.files) > 0
        assert found.coming_bytes == 0
        assert found.free_bytes is not None


def test_what_is_to_come_is_near_what_comes(job: Job) -> None:
    forget_half(job)
    with closing(job.open_ledger()) as ledger:
        found = disk_use(job, ledger)
        assert sum(row.state == DONE for row in ledger.done_units()) > 0
    pixels = used_by(job.sr_dir / "b.png" / "0" / "c").size_bytes
    assert 0.5 * pixels < found.coming_bytes < 2 * pixels


def test_a_night_without_room_does_not_begin(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_half(job)
    with closing(job.open_ledger()) as ledger:
        coming = disk_use(job, ledger).coming_bytes
        assert check_room(job, ledger, scale=2) == ""
        with_free(monkeypatch, coming * 9 // 10)
        assert "what does not fit will fail" in check_room(job, ledger, scale=2)
        with_free(monkeypatch, coming // 3)
        full = r"the disk is too full: .* needs about [\d.]+ MB more .* MB are free; free some"
        with pytest.raises(DiskError, match=full):
            check_room(job, ledger, scale=2)
        with_free(monkeypatch, coming * 2)
        assert check_room(job, ledger, scale=2) == ""


def test_nothing_is_computed_where_there_is_no_room(
    job: Job, upscale: Upscale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_half(job)
    with_free(monkeypatch, 0)
    with pytest.raises(DiskError):
        upscale(tmp_path / "in", job.folder)
    monkeypatch.undo()
    assert upscale(tmp_path / "in", job.folder).computed > 0


def test_a_job_with_nothing_to_do_needs_no_room(
    job: Job, upscale: Upscale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 0)
    assert upscale(tmp_path / "in", job.folder).computed == 0


def test_status_shows_it(job: Job, upres: Command) -> None:
    said = upres("status", job.folder, "--disk")
    assert said.code == 0
    assert "LR" in said.out
    assert "MB to come" in said.out
    disk = upres("status", job.folder, "--disk", "--json").document["disk"]
    with closing(job.open_ledger()) as ledger:
        assert disk["sr"]["files"] == disk_use(job, ledger).sr.files


def test_a_source_that_is_gone_takes_nothing(job: Job) -> None:
    other = replace(job, folder=job.folder, source_dir=job.folder / "none.zarr")
    with closing(job.open_ledger()) as ledger:
        assert disk_use(other, ledger).source == Used(0, 0)
