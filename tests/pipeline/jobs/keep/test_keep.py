"""What remains of a picture once it is finished, scored and exported: `--keep`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import UsageError
from pipeline.jobs.job import open_job
from pipeline.jobs.listener import JobListener
from pipeline.jobs.perform import upscale_job
from pipeline.jobs.request import UpscaleRequest
from pipeline.storage import stamps
from pipeline.storage.disk import used_by
from pipeline.storage.ledger import LR, SR

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.compute.cluster import ClusterSettings
    from pipeline.jobs.results import JobResult
    from tests.conftest import Begun, Command, Digest, SavePicture, TakePhoto


class Heard(JobListener):
    """Hears what a run remarks on, and whether it started workers."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.connected = 0

    def remark(self, line: str) -> None:
        self.remarks.append(line)

    def connects(self, settings: ClusterSettings) -> None:
        self.connected += 1


def some_pictures(folder: Path, photo: TakePhoto, save: SavePicture) -> None:
    save(folder / "in" / "a.png", photo(70, 90))
    save(folder / "in" / "sub" / "b.jpg", photo(64, 40, at=40))
    save(folder / "in" / "sub" / "c.tif", photo(50, 60, dtype="uint16"))


@pytest.fixture
def work(begun: Begun, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str]) -> Path:
    """A folder with pictures, and a job of them that kept nothing but the exported files."""

    def make(folder: Path) -> None:
        some_pictures(folder, photo, save)
        result = upscale_job(asked(folder, cluster))
        assert result.complete
        assert result.let_go is not None
        assert result.let_go.items == 3

    return begun.as_made_by(make)


def asked(folder: Path, cluster: tuple[str, str], **more: Any) -> UpscaleRequest:
    few: dict[str, Any] = {
        "src": str(folder / "in"), "job_dir": folder / "job", "model": "bicubic-x2", "tile_px": 32,
        "export_dir": folder / "out", "keep": "export",
    }  # fmt: skip
    return UpscaleRequest(
        device="cpu", precision="fp32",
        cluster=cluster[1], **{**few, **more},
    )  # fmt: skip


@pytest.fixture
def night(work: Path, cluster: tuple[str, str]) -> Callable[..., JobResult]:
    def run(listener: JobListener | None = None, **more: Any) -> JobResult:
        return upscale_job(asked(work, cluster, **more), listener or JobListener())

    return run


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto, save: SavePicture,
    cluster: tuple[str, str], digest: Digest,
) -> dict[str, str]:  # fmt: skip
    """What the same pictures are exported as by a job that keeps everything."""
    folder = tmp_path_factory.mktemp("whole")
    some_pictures(folder, photo, save)
    assert upscale_job(asked(folder, cluster, keep="all")).complete
    return digest(folder / "out")


def let_go(work: Path) -> dict[str, int]:
    with closing(open_job(work / "job").open_ledger()) as ledger:
        return ledger.count_let_go()


def pixels(work: Path, archive: str) -> int:
    """Return how many files with pixels an archive of the job has."""
    return sum(1 for path in (work / "job" / archive).rglob("c/0/*/*") if path.is_file())


def test_what_is_exported_goes_and_its_file_and_figures_stay(
    work: Path, digest: Digest, whole: dict[str, str]
) -> None:
    assert digest(work / "out") == whole
    assert let_go(work) == {LR: 3, SR: 3}
    assert (pixels(work, "source.zarr"), pixels(work, "sr.zarr")) == (0, 0)
    assert len(list((work / "job" / "previews").rglob("*.jpg"))) == 3
    with closing(open_job(work / "job").open_ledger()) as ledger:
        assert {row.item for row in ledger.scores()} == {"a.png", "sub/b.jpg", "sub/c.tif"}
        assert not ledger.half_let_go()


def test_a_night_with_nothing_new_computes_nothing_and_writes_nothing(
    night: Callable[..., JobResult], work: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "_UNSETTLED_NS", 0)
    before, job = digest(work / "out"), used_by(work / "job")
    times = {path: path.stat().st_mtime_ns for path in (work / "out").rglob("*")}
    for connected in (1, 0):  # The first reads the pictures, which are copies with other inodes.
        heard = Heard()
        result = night(heard)
        assert result.complete
        assert (result.computed_units, heard.connected, heard.remarks) == (0, connected, [])
        assert result.exported is not None
        assert (result.exported.written, result.exported.unchanged) == (0, 3)
        assert result.ingestion is not None
        assert (result.ingestion.new, result.ingestion.changed) == (0, 0)
    assert digest(work / "out") == before
    assert {path: path.stat().st_mtime_ns for path in (work / "out").rglob("*")} == times
    assert used_by(work / "job").files == job.files
    assert let_go(work) == {LR: 3, SR: 3}


def test_a_changed_picture_is_made_again_and_no_other(
    night: Callable[..., JobResult], work: Path, save: SavePicture, photo: TakePhoto,
    digest: Digest,
) -> None:  # fmt: skip
    before = digest(work / "out")
    save(work / "in" / "a.png", photo(70, 90, at=90))
    result = night()
    assert result.complete
    assert result.computed_units == 9
    assert result.ingestion is not None
    assert result.ingestion.changed == 1
    after = digest(work / "out")
    assert {name for name in after if after[name] != before[name]} == {"a.png"}
    assert let_go(work) == {LR: 3, SR: 3}
    assert pixels(work, "sr.zarr") == 0


@pytest.mark.slow
def test_another_model_makes_all_again_from_the_source(
    night: Callable[..., JobResult], work: Path, tmp_path: Path, digest: Digest
) -> None:  # fmt: skip
    heard = Heard()
    result = night(heard, model="lanczos-x2")
    assert result.complete
    assert result.computed_units == 9 + 4 + 4
    assert heard.remarks == [
        "the pixels of 3 pictures were let go (--keep) and are needed: read again from the source"
    ]
    other = {"job_dir": tmp_path / "job", "export_dir": tmp_path / "out", "keep": "all"}
    assert night(model="lanczos-x2", **other).complete
    assert digest(work / "out") == digest(tmp_path / "out")
    assert let_go(work) == {LR: 3, SR: 3}
    assert pixels(work, "source.zarr") == 0


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_file_that_is_missing_or_changed_is_made_again(
    damage: str, night: Callable[..., JobResult], work: Path, digest: Digest,
    whole: dict[str, str],
) -> None:  # fmt: skip
    file = work / "out" / "sub" / "b.jpg"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"something else")
    heard = Heard()
    result = night(heard, overwrite=damage == "changed")
    assert result.complete
    assert result.computed_units == 4
    assert heard.remarks[0] == (
        "the pixels of 1 picture were let go after the export (--keep export), and its file is "
        f"missing or changed below {work / 'out'}: made again from the source"
    )
    assert digest(work / "out") == whole
    assert pixels(work, "sr.zarr") == 0


def test_a_picture_whose_file_gets_another_name_is_made_again_that_very_night(
    work: Path, night: Callable[..., JobResult], photo: TakePhoto, save: SavePicture
) -> None:
    assert night(file_format="png").complete
    before = (work / "out" / "sub" / "b.png").read_bytes()
    save(work / "in" / "sub" / "b.tif", photo(30, 40))  # Both would be b.png.
    result = night(file_format="png", prune=True)
    assert result.complete
    assert result.exported is not None
    assert (result.exported.let_go, result.exported.written) == (0, 2)
    assert sorted(path.name for path in (work / "out" / "sub").glob("b.*")) == [
        "b.jpg", "b.jpg.png", "b.tif.png",
    ]  # fmt: skip
    assert (work / "out" / "sub" / "b.jpg.png").read_bytes() == before


def test_the_last_file_of_a_picture_is_not_pruned_though_its_name_is_not_the_present_one(
    work: Path, night: Callable[..., JobResult], photo: TakePhoto, save: SavePicture,
    upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    assert night(file_format="png").complete
    save(work / "in" / "sub" / "b.tif", photo(30, 40))
    assert upscale_job(asked(work, cluster, export_dir=None, keep="all")).status.complete
    said = upres("export", work / "job", work / "out", "--format", "png", "--prune", *cluster)
    assert said.code == 3
    assert (work / "out" / "sub" / "b.png").exists()
    assert (work / "out" / "sub" / "b.tif.png").exists()


def test_keeping_the_export_alone_needs_one(tmp_path: Path) -> None:
    request = UpscaleRequest(src=str(tmp_path), job_dir=tmp_path / "job", keep="export")
    with pytest.raises(UsageError, match="--keep export goes with --export DIR; add that"):
        request.check()


def test_every_command_says_in_one_line_what_was_let_go(
    work: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job = work / "job"
    status = upres("status", job, "--disk")
    assert status.code == 0
    assert "let go LR of 3 pictures, SR of 3 pictures" in status.out
    assert "about 0.0 MB to come" in status.out
    assert upres("status", job, "--json").document["let_go"] == {"lr": 3, "sr": 3}
    before = upres("score", job, "--json", *cluster)
    assert before.code == 0
    assert before.err.strip() == (
        "the pixels of 3 pictures were let go (--keep), so the scores from before stay"
    )
    assert len(before.document["items"]) == 3
    assert upres("rerun", job, *cluster).code == 0
    rerun = upres("rerun", job, "--stale", "--model", "lanczos-x2", *cluster)
    assert rerun.code == 3
    assert (
        f"the pixels of 3 pictures were let go (--keep), so nothing is left to compute from; "
        f"`upres upscale SRC {job}`, with the model that is wanted, makes them again"
    ) in rerun.err
    assert upres("status", job, "--json").document["items"]["done"] == 3
    assert upres("export", job, work / "out", *cluster).code == 0
    export = upres("export", job, tmp_path / "other", "--json", *cluster)
    assert (export.code, export.document["written"], export.document["let_go"]) == (3, 0, 3)
    (line,) = export.err.splitlines()
    assert f"`upres upscale SRC {job} --export {tmp_path / 'other'}` makes them" in line
    assert not (tmp_path / "other").exists()
    assert upres("status", job, "--json").document["failures"] == []
    ingest = upres("ingest", work / "in", job / "source.zarr", *cluster)
    assert (ingest.code, ingest.err.count("\n")) == (2, 1)
    assert (
        f"let go (--keep) from the copy of the job {job}; `upres upscale SRC {job}`" in ingest.err
    )
    assert not (job / "source.zarr.ledger.sqlite").exists()
    as_source = upres(
        "upscale", job / "sr.zarr", tmp_path / "of-sr", "--model", "nearest-x2", *cluster
    )
    assert (
        f"the pixels of 3 pictures were let go (--keep) and are not in {job / 'sr.zarr'}; use the "
        "files that its job exported, or its source"
    ) in as_source.err


def test_the_report_shows_a_preview_and_where_the_file_is(work: Path, upres: Command) -> None:
    assert upres("report", work / "job").code == 0
    page = (work / "job" / "report.html").read_text("utf-8")
    assert page.count("The pixels were let go after the export (--keep export)") == 3
    assert f"Its file is {work / 'out' / 'a.png'}" in page
    assert page.count("data:image/jpeg;base64,") == 3
    assert "bicubic-x2" in page


def test_a_picture_that_comes_back_unchanged_is_not_made_again(
    night: Callable[..., JobResult], work: Path
) -> None:
    away = (work / "in" / "a.png").rename(work / "away.png")
    result = night()
    assert result.status.items["vanished"] == 1
    assert (work / "out" / "a.png").is_file()
    away.rename(work / "in" / "a.png")
    result = night()
    assert result.complete
    assert (result.computed_units, result.status.items["done"]) == (0, 3)
    assert pixels(work, "source.zarr") == 0


def test_a_source_that_is_closed_leaves_what_was_let_go_pending_and_nothing_fails(
    night: Callable[..., JobResult], work: Path
) -> None:
    (work / "out" / "sub" / "b.jpg").unlink()
    (work / "in" / "sub").rename(work / "elsewhere")
    (work / "in" / "sub").symlink_to(work / "not mounted")
    result = night()
    assert not result.complete
    assert result.status.units["failed"] == 0
    assert (result.status.items["done"], result.status.items["pending"]) == (2, 1)
    (work / "in" / "sub").unlink()
    (work / "elsewhere").rename(work / "in" / "sub")
    result = night()
    assert result.complete
    assert result.computed_units == 4
    assert (work / "out" / "sub" / "b.jpg").is_file()


def test_without_its_ledger_all_is_made_again_and_the_files_are_known(
    night: Callable[..., JobResult], work: Path, digest: Digest, whole: dict[str, str]
) -> None:
    for path in (work / "job").glob("ledger.sqlite*"):
        path.unlink()
    result = night()
    assert result.complete
    assert result.exported is not None
    assert (result.computed_units, result.exported.unchanged) == (9 + 4 + 4, 3)
    assert digest(work / "out") == whole


@pytest.mark.slow
def test_what_was_not_exported_stays(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str]
) -> None:
    some_pictures(tmp_path, photo, save)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"of somebody else")
    result = upscale_job(asked(tmp_path, cluster))
    assert [failure.item for failure in result.later_failures] == ["a.png"]
    assert let_go(tmp_path) == {LR: 2, SR: 2}
    assert (pixels(tmp_path, "source.zarr"), pixels(tmp_path, "sr.zarr")) == (1, 9)
    (tmp_path / "out" / "a.png").unlink()
    result = upscale_job(asked(tmp_path, cluster))
    assert result.complete
    assert result.computed_units == 0
    assert let_go(tmp_path) == {LR: 3, SR: 3}


def test_what_cannot_be_scored_stays(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str]
) -> None:
    some_pictures(tmp_path, photo, save)
    save(tmp_path / "hr" / "a.png", photo(140, 180))
    result = upscale_job(asked(tmp_path, cluster, reference=str(tmp_path / "hr")))
    assert {failure.item for failure in result.later_failures} == {"sub/b.jpg", "sub/c.tif"}
    assert let_go(tmp_path) == {LR: 1, SR: 1}
