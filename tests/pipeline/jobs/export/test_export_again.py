"""Export again: what is right is left alone, what is somebody else's too, kills or not."""

from __future__ import annotations

import io
import os
import shutil
import time
import zipfile
import zlib
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from PIL import Image

import pipeline.jobs.export.stage
from pipeline.compute.status import read_status
from pipeline.errors import UsageError
from pipeline.jobs.export import export_plan, in_place
from pipeline.jobs.export.export_plan import plan_export
from pipeline.jobs.export.local_file import put_in_place
from pipeline.jobs.export.request import ExportRequest
from pipeline.jobs.export.stage import ExportResult, run_export
from pipeline.jobs.job import open_job
from pipeline.jobs.run import run_on
from pipeline.pictures.files import read_picture
from pipeline.storage import atomic
from pipeline.storage.ledger import DONE, FILE_NAME, ExportRow, Ledger, UnitRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from pipeline.jobs.job import Job
    from tests.conftest import Begun, Command, SavePicture, TakePhoto, Upscale


class Export(Protocol):
    def __call__(self, job: Job, **request: Any) -> ExportResult: ...


class Killed(BaseException):
    """Stands for kill -9: nobody catches it, and what was committed stays."""


@pytest.fixture
def place(begun: Begun, photo: TakePhoto, save: SavePicture, upscale: Upscale) -> Path:
    """Return a folder with three pictures, and a job that upscaled them."""

    def make(folder: Path) -> None:
        for n, name in enumerate(("a.png", "b/c.tif", "b/d.jpg")):
            save(folder / "in" / name, photo(20, 24, at=40 * n))
        upscale(folder / "in", folder / "job")

    return begun.as_made_by(make)


@pytest.fixture
def source(place: Path) -> Path:
    return place / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def job(place: Path) -> Job:
    return open_job(place / "job")


@pytest.fixture
def export(client: Client, out: Path) -> Export:
    def run(job: Job, **request: Any) -> ExportResult:
        with closing(job.open_ledger()) as ledger:
            status = read_status(job.folder, ledger)
            wanted = ExportRequest(**{"out_dir": out, **request})
            plan = plan_export(job, status, ledger=ledger, request=wanted)
            return run_export(plan, ledger=ledger, client=client)

    return run


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return inode, mtime and content of every file."""
    return {
        path.relative_to(folder).as_posix(): (s.st_ino, s.st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (s := path.stat())
    }


def counts(result: ExportResult) -> tuple[int, int, int, int]:
    return result.written, result.unchanged, len(result.failures), len(result.gone)


# --- what is unchanged ---------------------------------------------------------------------------


def test_what_is_unchanged_is_not_touched(job: Job, out: Path, export: Export) -> None:
    assert counts(export(job)) == (3, 0, 0, 0)
    before = state(out)
    assert counts(export(job)) == (0, 3, 0, 0)
    assert state(out) == before


def test_what_is_unchanged_is_not_even_read(
    job: Job, export: Export, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(job)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(pipeline.jobs.export.stage, "work_through", fail)
    monkeypatch.setattr(export_plan, "sr_image", fail)
    assert counts(export(job)) == (0, 3, 0, 0)


def test_only_the_picture_that_changed_is_written_again(
    job: Job, source: Path, out: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale,
    export: Export,
) -> None:  # fmt: skip
    export(job)
    before = state(out)
    save(source / "a.png", photo(20, 24, at=200))
    upscale(source, job.folder)
    assert counts(export(job)) == (1, 2, 0, 0)
    after = state(out)
    assert {n for n in after if after[n] != before[n]} == {"a.png"}


def test_another_model_and_other_rules_write_all_again(
    job: Job, source: Path, out: Path, upscale: Upscale, export: Export,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    export(job)
    upscale(source, job.folder, model="nearest-x3")
    assert counts(export(job)) == (3, 0, 0, 0)
    assert read_picture((out / "a.png").read_bytes(), name="a").pixels.shape == (3, 60, 72)
    monkeypatch.setattr(in_place, "RULES", in_place.RULES + 1)
    assert counts(export(job)) == (0, 3, 0, 0), "other rules, but they give the same bytes"
    assert counts(export(job)) == (0, 3, 0, 0)


def test_a_name_that_the_disk_does_not_take_is_a_failure_that_says_so(
    tmp_path: Path, photo: TakePhoto, upscale: Upscale, export: Export
) -> None:
    source = tmp_path / "long.zip"
    file = io.BytesIO()
    Image.fromarray(photo(8, 8).transpose(1, 2, 0)).save(file, "PNG")
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("b" * 300 + ".png", file.getvalue())
        archive.writestr("a.png", file.getvalue())
    result = export(upscale(source, tmp_path / "job").job)
    assert result.written == 1
    (failure,) = result.failures
    assert failure.message.startswith(f"the file would be called {'b' * 40}... (304 bytes, its")
    assert "rename it in its source" in failure.message


def test_two_formats_in_one_folder_leave_each_other_alone(
    job: Job, out: Path, export: Export
) -> None:
    assert counts(export(job, format="png")) == (3, 0, 0, 0)
    assert counts(export(job, format="jpeg")) == (3, 0, 0, 0)
    before = state(out)
    assert len(before) == 6
    for format in ("png", "jpeg"):
        assert counts(export(job, format=format, prune=True)) == (0, 3, 0, 0)
    assert state(out) == before


def test_a_deleted_file_is_written_again(job: Job, out: Path, export: Export) -> None:
    export(job)
    (out / "a.png").unlink()
    assert counts(export(job)) == (1, 2, 0, 0)
    assert (out / "a.png").is_file()


def test_a_file_that_was_only_touched_is_still_the_jobs(
    job: Job, out: Path, export: Export, source: Path, upscale: Upscale
) -> None:
    export(job)
    os.utime(out / "a.png", (5, 5))
    before = state(out)
    assert counts(export(job)) == (0, 3, 0, 0)
    assert state(out) == before
    upscale(source, job.folder, model="nearest-x3")
    os.utime(out / "a.png", (6, 6))
    assert counts(export(job)) == (3, 0, 0, 0)


# --- what is somebody else's ---------------------------------------------------------------------


def test_a_file_that_the_job_did_not_write_is_never_replaced(
    job: Job, out: Path, export: Export
) -> None:
    out.mkdir()
    (out / "a.png").write_bytes(b"retouched by hand")
    result = export(job)
    assert counts(result) == (2, 0, 1, 0)
    (failure,) = result.failures
    assert (failure.item, failure.error) == ("a.png", "OccupiedError")
    assert f"{out / 'a.png'} exists (17 bytes) and was not written by this job" in failure.message
    assert "--overwrite" in failure.message
    assert (out / "a.png").read_bytes() == b"retouched by hand"
    assert counts(export(job, overwrite=True)) == (1, 2, 0, 0)
    assert counts(export(job)) == (0, 3, 0, 0)


def test_a_file_that_was_changed_since_is_never_replaced(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    export(job)
    size = (out / "a.png").stat().st_size
    (out / "a.png").write_bytes(b"\0" * size)
    result = export(job)
    assert counts(result) == (0, 2, 1, 0)
    assert "changed since this job wrote it" in result.failures[0].message
    # Also where somebody set size and time back: what is to be replaced is read first.
    (out / "b" / "d.jpg").write_bytes((out / "b" / "d.jpg").read_bytes()[:-2] + b"\xff\xd8")
    with closing(job.open_ledger()) as ledger:
        (row,) = ledger.exports_of(["b/d.jpg"])
    os.utime(out / "b" / "d.jpg", ns=(0, int(row.mtime_ns)))
    upscale(source, job.folder, model="nearest-x3")
    result = export(job)
    assert [f.item for f in result.failures] == ["a.png", "b/d.jpg"]
    assert (out / "a.png").read_bytes() == b"\0" * size


def test_a_second_job_does_not_replace_what_the_first_wrote(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    export(job)
    before = state(out)
    other = upscale(source, job.folder.with_name("job2"), model="nearest-x3").job
    assert counts(export(other)) == (0, 0, 3, 0)
    assert state(out) == before


@pytest.mark.parametrize("what", ["folder", "link", "dangling"])
def test_a_folder_or_a_link_in_the_place_of_a_file_stays(
    what: str, job: Job, out: Path, export: Export, tmp_path: Path
) -> None:
    out.mkdir()
    (tmp_path / "other").write_bytes(b"precious")
    if what == "folder":
        (out / "a.png").mkdir()
    else:
        (out / "a.png").symlink_to(tmp_path / ("other" if what == "link" else "nothing"))
    assert [f.item for f in export(job).failures] == ["a.png"]
    assert (out / "a.png").is_dir() if what == "folder" else (out / "a.png").is_symlink()
    assert (tmp_path / "other").read_bytes() == b"precious"
    if what == "folder":
        assert counts(export(job, overwrite=True)) == (0, 2, 1, 0)


def test_a_file_in_the_place_of_a_folder_is_a_failure_of_what_is_in_it(
    job: Job, out: Path, export: Export
) -> None:
    out.mkdir()
    (out / "b").write_bytes(b"precious")
    result = export(job)
    assert [(f.item, f.error) for f in result.failures] == [
        ("b/c.tif", "OccupiedError"),
        ("b/d.jpg", "OccupiedError"),
    ]
    assert result.written == 1
    assert (out / "b").read_bytes() == b"precious"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(
    links: bool, job: Job, out: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(atomic.os, "link", no_links)

    def put(task: Any, exported: Any) -> None:
        if task.row.item == "a.png":
            task.path.write_bytes(b"just now")
        put_in_place(task, exported)

    monkeypatch.setattr(pipeline.jobs.export.stage, "put_in_place", put)
    result = export(job)
    assert (result.written, [f.item for f in result.failures]) == (2, ["a.png"])
    assert (out / "a.png").read_bytes() == b"just now"
    assert sorted(state(out)) == ["a.png", "b/c.tif", "b/d.jpg"], "and nothing is left over"
    monkeypatch.undo()
    assert counts(export(job)) == (0, 2, 1, 0)


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_disk_without_hard_links_is_exported_to(
    job: Job, out: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic.os, "link", no_links)
    assert counts(export(job)) == (3, 0, 0, 0)
    monkeypatch.undo()
    before = state(out)
    assert counts(export(job)) == (0, 3, 0, 0)
    assert state(out) == before


def test_a_file_that_is_changed_while_it_is_to_be_replaced_stays(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    export(job)
    upscale(source, job.folder, model="nearest-x3")

    def put(task: Any, exported: Any) -> None:
        if task.row.item == "a.png":
            task.path.write_bytes(b"just now")
        put_in_place(task, exported)

    monkeypatch.setattr(pipeline.jobs.export.stage, "put_in_place", put)
    assert counts(export(job)) == (2, 0, 1, 0)
    assert (out / "a.png").read_bytes() == b"just now"


# --- originals -----------------------------------------------------------------------------------


def test_a_hard_link_of_an_original_is_never_replaced(
    job: Job, source: Path, out: Path, export: Export
) -> None:
    out.mkdir()
    os.link(source / "b" / "d.jpg", out / "a.png")
    before = (out / "a.png").stat().st_ino, (source / "b" / "d.jpg").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="in the place of an original"):
            export(job, overwrite=overwrite)
    assert ((out / "a.png").stat().st_ino, (source / "b" / "d.jpg").read_bytes()) == before


def test_a_hard_link_of_an_original_is_known_before_pixels_are_made(
    job: Job, source: Path, out: Path, tmp_path: Path
) -> None:
    out.mkdir()
    os.link(source / "a.png", out / "c.png")
    with run_on(job, "test") as run:
        run.check_export(ExportRequest(out_dir=out, format="jpeg"))
        run.check_export(ExportRequest(out_dir=out))
        (out / "b").mkdir()
        os.link(source / "a.png", out / "b" / "c.png")
        run.check_export(ExportRequest(out_dir=out))
        with pytest.raises(UsageError, match="in the place of an original"):
            run.check_export(ExportRequest(out_dir=out, format="png"))


def test_a_link_further_down_does_not_lead_into_the_source(
    job: Job, source: Path, out: Path, export: Export
) -> None:
    out.mkdir()
    (out / "b").symlink_to(source / "b")
    before = state(source)
    with pytest.raises(UsageError, match=f"original {source}/b/"):
        export(job, format="webp")
    assert state(source) == before


def test_an_archive_as_source_knows_the_folder_of_its_originals(
    source: Path, tmp_path: Path, export: Export, upscale: Upscale, upres: Command,
    cluster: tuple[str, str],
) -> None:  # fmt: skip
    archive = tmp_path / "in.zarr"
    assert upres("ingest", source, archive, *cluster).code == 0
    job = upscale(archive, tmp_path / "job").job
    before = state(source)
    for format in ("same", "webp"):
        with pytest.raises(UsageError, match="a folder of the source"):
            export(job, out_dir=source, format=format)
    assert state(source) == before


def test_a_source_that_moved_keeps_its_originals(
    job: Job, source: Path, tmp_path: Path, export: Export
) -> None:
    moved = tmp_path / "moved"
    source.rename(moved)
    before = state(moved)
    assert counts(export(job, out_dir=moved)) == (0, 0, 3, 0)
    assert state(moved) == before


def test_a_job_that_does_not_know_its_source_keeps_the_originals(
    job: Job, source: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "source", lambda _self: None)  # As in jobs of before.
    before = state(source)
    for format in ("same", "webp"):
        with pytest.raises(UsageError, match="a folder of the source"):
            export(job, out_dir=source, format=format)
    assert state(source) == before


# --- kills ---------------------------------------------------------------------------------------


def kill_before_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Ledger, "put_exports", fail)


def kill_before_placing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(pipeline.jobs.export.stage, "put_in_place", fail)


def kill_after_placing(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(task: Any, exported: Any) -> None:
        put_in_place(task, exported)
        raise Killed

    monkeypatch.setattr(pipeline.jobs.export.stage, "put_in_place", put)


def kill_after_all_are_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(pipeline.jobs.export.stage, "sync_folder", fail)


def kill_after_reserving(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(task: Any, _exported: Any) -> None:
        if task.path.exists():
            raise Killed
        task.path.touch()
        raise Killed

    monkeypatch.setattr(pipeline.jobs.export.stage, "put_in_place", put)


def kill_while_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_client: Any, _work: Any, tasks: Iterator[Any], **_: Any) -> Any:
        for task in chain.from_iterable(group.tasks for group in tasks):
            task.partial.write_bytes(b"half a file")
        raise Killed

    monkeypatch.setattr(pipeline.jobs.export.stage, "work_through", write)


def kill_between_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(task: Any, exported: Any) -> None:
        if exported.replaces is None:
            os.link(task.partial, task.path)  # The waiting one is to be removed next.
        raise Killed

    monkeypatch.setattr(pipeline.jobs.export.stage, "put_in_place", put)


KILLS = [
    kill_before_recording, kill_before_placing, kill_after_placing, kill_after_all_are_placed,
    kill_after_reserving, kill_while_writing, kill_between_two_names,
]  # fmt: skip


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.__name__)
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (False, "the same"),
        pytest.param(True, "another model", marks=pytest.mark.slow),
        pytest.param(True, "the same", marks=pytest.mark.slow),
        pytest.param(False, "another model", marks=pytest.mark.slow),
    ],
)
def test_an_export_that_was_killed_is_continued_without_overwriting(
    kill: Any, then: str, first: bool, job: Job, source: Path, out: Path, upscale: Upscale,
    export: Export, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not first:
        export(job)
        upscale(source, job.folder, model="nearest-x3")
    kill(monkeypatch)
    with pytest.raises(Killed):
        export(job)
    monkeypatch.undo()
    if then == "another model":
        upscale(source, job.folder, model="nearest-x2")
    result = export(job)
    assert result.failures == ()
    assert result.written + result.unchanged == 3
    assert sorted(state(out)) == ["a.png", "b/c.tif", "b/d.jpg"], "and nothing is left over"
    sr = job.open_sr()
    for name in ("a.png", "b/c.tif"):
        pixels = read_picture((out / name).read_bytes(), name=name).pixels
        np.testing.assert_array_equal(pixels, sr.image(name).array[:])
    assert counts(export(job)) == (0, 3, 0, 0)


def test_a_killed_overwriting_leaves_what_it_did_not_reach_to_its_owner(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out.mkdir()
    (out / "a.png").write_bytes(b"mine")
    kill_before_placing(monkeypatch)
    with pytest.raises(Killed):
        export(job, overwrite=True)
    monkeypatch.undo()
    assert [f.item for f in export(job).failures] == ["a.png"]
    (source / "a.png").unlink()
    upscale(source, job.folder)
    assert export(job, prune=True).pruned == 0
    assert (out / "a.png").read_bytes() == b"mine"


def test_pruning_takes_no_link_that_came_to_the_place_of_a_file(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    kill_before_placing(monkeypatch)
    with pytest.raises(Killed):
        export(job)
    monkeypatch.undo()
    (out / "a.png").symlink_to(tmp_path / "elsewhere")
    (source / "a.png").unlink()
    upscale(source, job.folder)
    assert export(job, prune=True).pruned == 0
    assert (out / "a.png").is_symlink()


# --- moved, copied, lost -------------------------------------------------------------------------


def test_an_export_that_was_moved_is_still_the_jobs(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    export(job)
    moved = out.with_name("moved")
    out.rename(moved)
    before = state(moved)
    assert counts(export(job, out_dir=moved)) == (0, 3, 0, 0)
    assert state(moved) == before
    again = out.with_name("again")
    shutil.copytree(moved, again)  # Other times.
    upscale(source, job.folder, model="nearest-x3")
    assert counts(export(job, out_dir=again)) == (3, 0, 0, 0)


def test_an_export_under_another_name_is_the_same(job: Job, out: Path, export: Export) -> None:
    export(job)
    out.with_name("link").symlink_to(out)
    assert counts(export(job, out_dir=out.with_name("link"))) == (0, 3, 0, 0)


def test_exports_are_known_by_their_bytes_where_the_ledger_was_lost(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    export(job)
    before = state(out)
    for path in job.folder.glob(f"{FILE_NAME}*"):
        path.unlink()
    upscale(source, job.folder)
    assert counts(export(job)) == (0, 3, 0, 0)
    assert state(out) == before
    upscale(source, job.folder, model="nearest-x3")
    assert counts(export(job)) == (3, 0, 0, 0)


def commented(png: bytes) -> bytes:
    """Return a PNG with the same pixels and a comment more."""
    body = b"tEXta\0b"
    return png[:33] + b"\0\0\0\3" + body + zlib.crc32(body).to_bytes(4, "big") + png[33:]


def forget_exports(job: Job) -> None:
    with closing(job.open_ledger()) as ledger:
        ledger.forget_exports([row.path for row in ledger.exports(below="")])


def test_exports_of_a_version_that_kept_no_record_are_written_again_by_todays_rules(
    job: Job, out: Path, export: Export
) -> None:
    export(job)
    forget_exports(job)
    # What that version wrote besides the pixels may differ.
    content = (out / "a.png").read_bytes()
    (out / "a.png").write_bytes(commented(content))
    with closing(job.open_ledger()) as ledger:
        started = datetime.fromisoformat(ledger.runs()[0]["started"])
    os.utime(out / "a.png", (0, started.timestamp()))
    result = export(job)
    assert counts(result) == (1, 2, 0, 0), result.failures
    assert (out / "a.png").read_bytes() == content


def test_a_picture_with_the_same_pixels_that_no_run_can_have_written_stays(
    job: Job, out: Path, export: Export
) -> None:
    export(job)
    forget_exports(job)
    content = (out / "a.png").read_bytes()
    (out / "a.png").write_bytes(commented(content))
    os.utime(out / "a.png", (10**9, 10**9))
    assert [f.item for f in export(job).failures] == ["a.png"]


# --- what is gone --------------------------------------------------------------------------------


def test_what_vanished_is_listed_and_removed_when_asked(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    export(job)
    shutil.rmtree(source / "b")
    upscale(source, job.folder)
    before = state(out)
    result = export(job)
    assert counts(result) == (0, 1, 0, 2)
    assert result.gone == (str(out / "b/c.tif"), str(out / "b/d.jpg"))
    assert state(out) == before
    result = export(job, prune=True)
    assert (result.pruned, result.gone) == (2, ())
    assert sorted(state(out)) == ["a.png"]
    assert not (out / "b").exists(), "the job made that folder"
    assert counts(export(job, prune=True)) == (0, 1, 0, 0)


def test_pruning_takes_nothing_that_was_changed_or_is_not_the_jobs(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    (out / "b").mkdir(parents=True)
    export(job)
    (out / "b" / "d.jpg").write_bytes(b"retouched")
    (out / "c.png").write_bytes(b"mine")
    shutil.rmtree(source / "b")
    upscale(source, job.folder)
    result = export(job, prune=True)
    assert (result.pruned, result.gone) == (1, (str(out / "b/d.jpg"),))
    assert sorted(state(out)) == ["a.png", "b/d.jpg", "c.png"]
    (out / "b" / "d.jpg").unlink()
    assert counts(export(job, prune=True)) == (0, 1, 0, 0)
    assert (out / "b").is_dir(), "the job did not make that folder"


def test_a_renamed_picture_is_written_anew_and_the_old_one_listed(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    export(job)
    (source / "a.png").rename(source / "z.png")
    upscale(source, job.folder)
    result = export(job)
    assert (result.written, result.gone) == (1, (str(out / "a.png"),))
    assert export(job, prune=True).pruned == 1
    assert sorted(state(out)) == ["b/c.tif", "b/d.jpg", "z.png"]


def test_a_name_that_goes_to_another_item_takes_the_jobs_own_file_along(
    source: Path, tmp_path: Path, out: Path, photo: TakePhoto, save: SavePicture, export: Export,
    upscale: Upscale,
) -> None:  # fmt: skip
    shutil.rmtree(source)
    save(source / "a.jpg", photo(20, 24))
    job = upscale(source, tmp_path / "job").job
    export(job, format="png")
    save(source / "a.png", photo(20, 24, at=90))
    upscale(source, tmp_path / "job")
    assert counts(export(job, format="png")) == (2, 0, 0, 0)
    sr = job.open_sr()
    for name, item in (("a.png", "a.png"), ("a.jpg.png", "a.jpg")):
        pixels = read_picture((out / name).read_bytes(), name=name).pixels
        np.testing.assert_array_equal(pixels, sr.image(item).array[:])
    assert counts(export(job, format="png")) == (0, 2, 0, 0)
    (source / "a.png").unlink()
    upscale(source, tmp_path / "job")
    result = export(job, format="png", prune=True)
    assert counts(result) == (1, 0, 0, 0)
    assert (result.pruned, sorted(state(out))) == (1, ["a.png"])


def test_a_picture_that_is_broken_today_keeps_its_export(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    export(job)
    (source / "a.png").write_bytes(b"half a picture")
    upscale(source, job.folder)
    assert export(job, prune=True).pruned == 0
    assert (out / "a.png").is_file()


# --- names that are one where case or accents do not count ------------------------------------


def test_two_items_whose_names_are_one_on_the_disk_do_not_replace_each_other(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale, photo: TakePhoto,
    save: SavePicture,
) -> None:  # fmt: skip
    export(job)
    before = state(out)
    save(source / "A.png", photo(20, 24, at=120))
    upscale(source, job.folder)
    os.link(out / "a.png", out / "A.png")  # As a disk that knows no case finds it.
    for _ in range(2):
        (failure,) = export(job, overwrite=True).failures
        assert failure.item == "A.png"
        assert "is the file of a.png too" in failure.message
    assert {name: state(out)[name] for name in before} == before


def test_two_new_items_whose_names_are_one_on_the_disk_are_told_apart(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale, photo: TakePhoto,
    save: SavePicture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save(source / "e\u0301.png", photo(20, 24, at=120))
    save(source / "\u00e9.png", photo(20, 24, at=160))
    upscale(source, job.folder)

    def put(task: Any, exported: Any) -> None:
        put_in_place(task, exported)
        for one, other in (("e\u0301.png", "\u00e9.png"), ("\u00e9.png", "e\u0301.png")):
            if task.row.item == one and not (out / other).exists():
                os.link(task.path, out / other)

    monkeypatch.setattr(pipeline.jobs.export.stage, "put_in_place", put)
    result = export(job)
    (failure,) = result.failures
    assert failure.item in ("e\u0301.png", "\u00e9.png")
    assert "as the file system takes both names for one" in failure.message
    assert result.written == 4


def test_a_picture_that_only_changed_the_case_of_its_name_is_not_pruned(
    job: Job, source: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    export(job)
    (source / "a.png").rename(source / "A.png")
    upscale(source, job.folder)
    os.link(out / "a.png", out / "A.png")
    result = export(job, prune=True)
    assert (result.pruned, result.failures, result.unchanged) == (0, (), 3)
    assert (out / "A.png").is_file()


# --- times ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 946684800.5, -(10**9), 13569465600, 2**31])
def test_a_file_has_the_time_of_its_source(
    seconds: float, source: Path, tmp_path: Path, out: Path, export: Export, upscale: Upscale
) -> None:
    os.utime(source / "a.png", ns=(0, int(seconds * 10**9)))
    job = upscale(source, tmp_path / "job").job
    export(job)
    assert (out / "a.png").stat().st_mtime_ns == (source / "a.png").stat().st_mtime_ns
    assert counts(export(job)) == (0, 3, 0, 0)


@pytest.mark.parametrize("mtime_ns", [None, "x", 10**40])
def test_a_time_that_cannot_be_is_left_out(
    mtime_ns: Any, tmp_path: Path, save: SavePicture, photo: TakePhoto
) -> None:
    from pipeline.jobs.export.local_file import finish

    path = save(tmp_path / "a.png", photo(4, 4))
    before = path.stat().st_mtime_ns
    finish(path, mtime_ns=mtime_ns)
    assert path.stat().st_mtime_ns == before


# --- many ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_twenty_thousand_unchanged_files_take_seconds(
    job: Job, out: Path, export: Export, client: Client
) -> None:
    out.mkdir()
    with closing(job.open_ledger()) as ledger:
        row = next(r for r in ledger.items() if r.item == "a.png")
        rows = [replace(row, item=f"{n:05}.png", source=f"/x/{n:05}.png") for n in range(20_000)]
        ledger.put_items(rows)
        ledger.put_units(
            UnitRow(item=r.item, number=0, fingerprint=r.fingerprint, state=DONE) for r in rows
        )
        exports = []
        for r in rows:
            (out / r.item).touch()
            facts = (out / r.item).stat()
            exports.append(
                ExportRow(
                    path=str(out / r.item), item=r.item, asked="same", format="png",
                    made_of=in_place.made_of(r), mtime_ns=str(facts.st_mtime_ns),
                    sha256="x",
                )
            )  # fmt: skip
        ledger.put_exports(exports)
    began = time.process_time()  # Others may keep the machine busy.
    assert export(job).unchanged == 20_000
    assert time.process_time() - began < 6
