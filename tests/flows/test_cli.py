"""The command line: exit codes, one JSON document on stdout, one line for each mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flows.cli import main
from pipeline.degradation.apply import degrade_bicubic
from pipeline.errors import JobBusyError
from pipeline.jobs.job import create_job, hold_job, open_job
from tests.fresh_process import printed_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Command, Said, SavePicture, TakePhoto

UPRES = Path(sys.executable).with_name("upres")
COMMANDS = sorted(main.commands)
BICUBIC = ("--model", "bicubic-x2", "--tile", "32", "--precision", "fp32", "--device", "cpu")


@pytest.fixture
def source(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """Two pictures of 6 and 4 tiles."""
    folder = tmp_path / "source"
    save(folder / "a.png", photo(40, 70))
    save(folder / "b/c.png", photo(40, 40, at=100))
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return tmp_path / "job"


def break_a_picture(source: Path) -> None:
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


# Starting


def test_help_answers_without_any_heavy_import() -> None:
    script = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from flows.cli import main\n"
        f"for words in [[], *([name] for name in {COMMANDS})]:\n"
        "    said = CliRunner().invoke(main, [*words, '--help'])\n"
        "    assert said.exit_code == 0 and 'Usage: ' in said.stdout, said\n"
        "heavy = {'torch', 'zarr', 'prefect', 'distributed', 'sqlalchemy', 'PIL', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert printed_by(script) == ("[]\n", "")


def test_every_command_stands_in_the_help(upres: Command) -> None:
    said = upres("--help")
    assert said.code == 0
    listed = said.out.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in listed if re.match(r"  \S", line)]
    assert sorted(names) == COMMANDS
    for name in COMMANDS:
        assert upres(name, "-h").code == 0


def test_no_command_at_all_shows_the_help_as_wrong_usage(upres: Command) -> None:
    said = upres()
    assert said.code == 2
    assert "Commands:" in said.err


def test_the_version_is_that_of_the_package(upres: Command) -> None:
    from importlib.metadata import version

    assert version("upres") in upres("--version").out


# JSON


def keys(failure: dict[str, Any]) -> set[str]:
    return set(failure)


def assert_is_status(document: dict[str, Any]) -> None:
    assert {"job", "items", "units", "computed_units", "failures"} <= set(document)
    assert {"done", "failed", "pending", "rejected"} <= set(document["items"])
    assert {"done", "failed", "pending"} <= set(document["units"])
    for failure in document["failures"]:
        assert set(failure) == {"item", "tile", "error", "message"}


def test_upscale_creates_a_job_and_then_has_nothing_to_do(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path
) -> None:
    first = upres("upscale", source, job, *BICUBIC, *cluster, "--json")
    assert_is_status(first.document)
    assert first.code == 0
    assert first.document["job"] == str(job)
    assert first.document["items"]["done"] == 2
    assert first.document["units"] == {"done": 10, "failed": 0, "pending": 0}
    assert first.document["computed_units"] == 10
    second = upres("upscale", source, job, *BICUBIC, *cluster, "--json")
    assert second.code == 0
    assert second.document["computed_units"] == 0
    assert second.document["units"] == first.document["units"]


def test_a_rejected_picture_makes_exit_code_3_and_is_listed_with_its_reason(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path
) -> None:
    break_a_picture(source)
    said = upres("upscale", source, job, *BICUBIC, *cluster, "--json")
    assert said.code == 3
    assert said.document["items"]["done"] == 2
    assert said.document["items"]["rejected"] == 1
    (failure,) = said.document["failures"]
    assert (failure["item"], failure["tile"], failure["error"]) == (
        "broken.png",
        None,
        "PictureError",
    )
    plain = upres("status", job)
    assert plain.code == 3
    assert "2 done" in plain.out
    assert "1 rejected" in plain.out
    assert "broken.png: PictureError: " in plain.err


def test_ingest_gives_an_archive_that_upscale_takes(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "deep" / "lr.zarr"
    first = upres("ingest", source, archive, *cluster, "--json")
    assert first.code == 0
    assert_is_status(first.document)
    assert first.document["items"]["done"] == 2
    assert upres("ingest", source, archive, *cluster).code == 0
    break_a_picture(source)
    third = upres("ingest", source, archive, *cluster, "--json")
    assert third.code == 3
    assert third.document["items"] | {"vanished": 0} == {
        "done": 2,
        "failed": 0,
        "pending": 0,
        "rejected": 1,
        "vanished": 0,
    }
    said = upres("upscale", archive, job, *BICUBIC, *cluster, "--json")
    assert (said.code, said.document["computed_units"]) == (0, 10)


def test_status_lists_items_and_runs(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path
) -> None:
    upres("upscale", source, job, *BICUBIC, *cluster)
    said = upres("status", job, "--items", "--json")
    assert said.code == 0
    assert_is_status(said.document)
    assert [r["outcome"] for r in said.document["runs"]] == ["finished"]
    assert said.document["by_item"] == [
        {"item": "a.png", "state": "done", "done": 6, "failed": 0, "pending": 0},
        {"item": "b/c.png", "state": "done", "done": 4, "failed": 0, "pending": 0},
    ]
    plain = upres("status", job, "--items")
    assert "6/6" in plain.out


def damage_source(job: Path, item: str) -> Callable[[], object]:
    """Damage an item of the LR archive; return what mends it."""
    chunks = job / "source.zarr" / item / "0" / "c"
    shard = next(path for path in chunks.rglob("*") if path.is_file())
    sound = shard.read_bytes()
    shard.write_bytes(sound[:20] + bytes(40) + sound[60:])
    return lambda: shard.write_bytes(sound)


def test_rerun_redoes_what_failed_and_nothing_else(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path
) -> None:
    upres("upscale", source, job, *BICUBIC, *cluster)
    mend = damage_source(job, "a.png")
    tiles = ("--model", "bicubic-x2", "--tile", "48", "--precision", "fp32")
    failed = upres("upscale", source, job, *tiles, *cluster, "--json")
    assert failed.code == 3
    assert failed.document["units"] == {"done": 1, "failed": 2, "pending": 0}
    assert failed.document["items"]["failed"] == 1
    assert {(f["item"], f["tile"], f["error"]) for f in failed.document["failures"]} == {
        ("a.png", 0, "ArchiveError"),
        ("a.png", 1, "ArchiveError"),
    }
    again = upres("rerun", job, *cluster, "--json")
    assert_is_status(again.document)
    assert (again.code, again.document["computed_units"]) == (3, 0)
    mend()
    assert upres("rerun", job, "--item", "b/*", *cluster, "--json").document["computed_units"] == 0
    assert (
        upres("rerun", job, "--error", "out of memory", *cluster, "--json").document[
            "computed_units"
        ]
        == 0
    )
    mended = upres("rerun", job, "--item", "a.PNG", "--error", "archiveerror", *cluster, "--json")
    assert (mended.code, mended.document["computed_units"]) == (0, 2)
    assert mended.document["failures"] == []
    assert upres("rerun", job, *cluster, "--json").document["computed_units"] == 0


def test_rerun_stale_redoes_all_with_another_model(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path
) -> None:
    upres("upscale", source, job, *BICUBIC, *cluster)
    said = upres("rerun", job, "--stale", "--model", "nearest-x2", *cluster, "--json")
    assert (said.code, said.document["computed_units"]) == (0, 10)
    again = upres("rerun", job, "--stale", *cluster, "--json")
    assert (again.code, again.document["computed_units"]) == (0, 0)


def originals_of(source: Path, tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """Replace the pictures of `source` by reduced originals; return where the originals are."""
    folder = tmp_path / "originals"
    for name, pixels in (("a.png", photo(80, 140)), ("b/c.png", photo(80, 80, at=100))):
        save(folder / name, pixels)
        save(source / name, degrade_bicubic(pixels, 2))
    return folder


def test_score_gives_figures_with_and_without_originals(
    upres: Command,
    cluster: tuple[str, str],
    source: Path,
    job: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    originals = originals_of(source, tmp_path, photo, save)
    upres("upscale", source, job, *BICUBIC, *cluster)
    said = upres("score", job, "--reference", originals, *cluster, "--json")
    assert said.code == 0
    assert [item["item"] for item in said.document["items"]] == ["a.png", "b/c.png"]
    for figures in (said.document, *said.document["items"]):
        assert 15 < figures["psnr_y"] < 60
        assert figures["psnr_y"] == figures["bicubic_psnr_y"]
        assert 0 < figures["ssim_y"] <= 1
    plain = upres("score", job, "--reference", originals, *cluster)
    assert plain.code == 0
    assert f"{said.document['psnr_y']:.2f}" in plain.out
    alone = upres("score", job, *cluster, "--json")
    assert alone.code == 0
    assert alone.document["psnr_y"] is None
    assert alone.document["consistency_psnr_y"] > 15


def test_an_original_of_another_size_makes_exit_code_3(
    upres: Command,
    cluster: tuple[str, str],
    source: Path,
    job: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    originals = originals_of(source, tmp_path, photo, save)
    save(originals / "a.png", photo(90, 140))
    upres("upscale", source, job, *BICUBIC, *cluster)
    said = upres("score", job, "--reference", originals, *cluster, "--json")
    assert said.code == 3
    assert [(f["item"], f["error"]) for f in said.document["failures"]] == [
        ("a.png", "PictureError")
    ]
    assert [item["item"] for item in said.document["items"]] == ["b/c.png"]


def test_upscale_scores_and_exports_in_one_go(
    upres: Command,
    cluster: tuple[str, str],
    source: Path,
    job: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    originals = originals_of(source, tmp_path, photo, save)
    out = tmp_path / "out"
    words = ("--reference", originals, "--export", out, "--format", "jpeg")
    said = upres("upscale", source, job, *BICUBIC, *cluster, *words, "--json")
    assert said.code == 0
    assert (out / "a.jpg").is_file()
    assert (out / "b/c.jpg").is_file()


def test_export_says_how_many_it_wrote_and_why_not_all(
    upres: Command,
    cluster: tuple[str, str],
    source: Path,
    job: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    save(source / "alpha.png", photo(20, 20, 4))
    upres("upscale", source, job, *BICUBIC, *cluster)
    whole = upres("export", job, tmp_path / "same", *cluster, "--json")
    assert (whole.code, whole.document["written"], whole.document["failures"]) == (0, 3, [])
    part = upres("export", job, tmp_path / "jpegs", "--format", "jpeg", *cluster, "--json")
    assert (part.code, part.document["written"]) == (3, 2)
    assert [f["item"] for f in part.document["failures"]] == ["alpha.png"]


def test_evaluate_gives_the_protocols_figures(
    upres: Command, tmp_path: Path, photo: TakePhoto, save: SavePicture
) -> None:
    save(tmp_path / "set" / "a.png", photo(64, 64))
    said = upres("evaluate", "bicubic-x2", tmp_path / "set", "--json")
    assert said.code == 0
    assert (said.document["model"], said.document["scale"]) == ("bicubic-x2", 2)
    (found,) = said.document["sets"]
    assert {"name", "images", "psnr_y", "ssim_y", "lpips"} <= set(found)
    assert (found["name"], found["images"]) == ("set", 1)
    assert "PSNR-Y" in upres("evaluate", "bicubic-x2", tmp_path / "set").out


@pytest.mark.slow
def test_models_lists_every_model_and_tells_all_of_one(upres: Command) -> None:
    said = upres("models", "--json")
    assert said.code == 0
    names = [model["name"] for model in said.document]
    assert {"span-x4", "bicubic-x4"} <= set(names)
    one = upres("models", "span-x4", "--json")
    assert one.code == 0
    assert one.document["scale"] == 4
    assert one.document["licence"]
    assert one.document["training_data"]
    assert "span-x4" in upres("models").out


def test_report_says_where_it_is(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path
) -> None:
    upres("upscale", source, job, *BICUBIC, *cluster)
    said = upres("report", job, "--json")
    assert said.code == 0
    assert Path(said.document["report"]).is_file()
    assert upres("report", job).out.strip() == said.document["report"]


@pytest.mark.slow
def test_a_process_of_its_own_prints_json_on_stdout_and_progress_on_stderr(
    source: Path, job: Path
) -> None:
    break_a_picture(source)
    done = subprocess.run(
        [UPRES, "upscale", source, job, *BICUBIC, "--workers", "1", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 3
    assert_is_status(json.loads(done.stdout))
    assert "upscale: 10 of 10 tiles" in done.stderr
    assert "Traceback" not in done.stderr


# Mistakes


def assert_one_line(said: Said, code: int, *words: str) -> None:
    assert said.code == code, said
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("upres: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["upscal"], ["upscal", "Did you mean", "upscale"]),
        (["upscale"], ["SRC", "--help"]),
        (["upscale", "{source}"], ["JOB", "--help"]),
        (["upscale", "{source}", "{job}", "more"], ["more"]),
        (["upscale", "{source}", "{job}", "--halo", "-1"], ["-1", "auto"]),
        (["upscale", "{source}", "{job}", "--halo", "wide"], ["wide", "auto"]),
        (["upscale", "{source}", "{job}", "--tile", "3"], ["3", "16"]),
        (["upscale", "{source}", "{job}", "--tile", "many"], ["many"]),
        (["upscale", "{source}", "{job}", "--workers", "0"], ["0", "1"]),
        (["upscale", "{source}", "{job}", "--precision", "fp8"], ["fp8", "fp32"]),
        (["upscale", "{source}", "{job}", "--device", "tpu"], ["tpu", "cuda"]),
        (["upscale", "{source}", "{job}", "--device", "cuda:99"], ["cuda:99", "CUDA"]),
        (["upscale", "{source}", "{job}", "--format", "png"], ["--format png", "--export DIR"]),
        (["upscale", "{source}", "{job}", "--format", "gif", "--export", "x"], ["gif", "png"]),
        (["upscale", "{source}", "{job}", "--formt", "png"], ["--formt", "--format"]),
        (["upscale", "{source}", "{file}", "--model", "bicubic"], ["file", "not a job"]),
        (["upscale", "{source}", "{source}", "--model", "bicubic"], ["source", "not a job"]),
        (["upscale", "{source}", "{job}", "--cluster", "tcp://h:1", "--workers", "2"], ["tcp://"]),
        (["status", "{job}"], ["does not exist", "upres upscale"]),
        (["status", "{source}"], ["is not a job", "upres upscale"]),
        (["status", "{file}"], ["file"]),
        (["score", "{job}"], ["does not exist"]),
        (["export", "{job}", "{out}"], ["does not exist"]),
        (["report", "{job}"], ["does not exist"]),
        (["rerun", "{job}"], ["does not exist"]),
        (["rerun", "{job}", "--model", "bicubic"], ["--stale"]),
        (["evaluate", "bicubic"], ["HR_DIR"]),
        (["train", "{source}", "--recipe", "nope", "--out", "{job}"], ["nope"]),
        (["upscale", "{source}", "{job}", "--model", "span-x5"], ["span-x5", "span-x4"]),
        (["upscale", "{source}", "{job}", "--model", "bicubik-x4"], ["did you mean bicubic-x4"]),
        (["models", "span"], ["span", "did you mean"]),
        (["evaluate", "nope", "{source}"], ["nope"]),
        (["evaluate", "{source}", "{source}"], ["is a folder", "best.safetensors"]),
        (["ingest", "{source}", "{source}"], ["is the archive", "name another folder"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    words: list[str], says: list[str], upres: Command, source: Path, job: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    places = {"source": source, "job": job, "file": file, "out": tmp_path / "out"}
    assert_one_line(upres(*(word.format(**places) for word in words)), 2, *says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["upscale", "{source}", "{job}", "--model", "{file}"], ["file", "safetensors"]),
        (["upscale", "{source}", "{file}/job", "--model", "bicubic"], ["file"]),
        (["upscale", "{strange}", "{job}", "--model", "bicubic"], ["strange", "archive"]),
        (["ingest", "{source}", "{file}/x.zarr"], ["file"]),
        (["evaluate", "bicubic-x2", "{empty}"], ["empty"]),
        (["evaluate", "bicubic-x2", "{texts}"], ["texts holds no pictures", ".txt 1"]),
    ],
)
def test_a_command_that_cannot_do_its_work_is_one_line_and_exit_code_1(
    words: list[str], says: list[str], upres: Command, source: Path, job: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "words.txt").write_text("words")
    strange = tmp_path / "strange.zarr"
    strange.mkdir()
    (strange / "zarr.json").write_text("this is no JSON")
    places = {
        "source": source,
        "job": job,
        "file": file,
        "empty": tmp_path / "empty",
        "texts": tmp_path / "texts",
        "strange": strange,
    }
    assert_one_line(upres(*(word.format(**places) for word in words)), 1, *says)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["upscale", "{nowhere}", "{job}", "--model", "bicubic"],
        ["upscale", "{nowhere}/*.png", "{job}", "--model", "bicubic"],
        ["upscale", "{source}/nowhere*.png", "{job}", "--model", "bicubic"],
        ["upscale", "ftp://nowhere/pictures", "{job}", "--model", "bicubic"],
        ["upscale", "{source}", "{job}", "--model", "{nowhere}.safetensors"],
        ["upscale", "{source}", "{job}", "--model", "{nowhere}"],
        ["upscale", "{source}", "{job}", "--model", "bicubic", "--reference", "{nowhere}"],
        ["upscale", "{source}", "{job}", "--model", "bicubic", "--ledger", "sqlite:///{nowhere}/l"],
        ["ingest", "{nowhere}", "{job}.zarr"],
        ["status", "{nowhere}"],
        ["rerun", "{nowhere}"],
        ["score", "{nowhere}"],
        ["report", "{nowhere}"],
        ["export", "{nowhere}", "{job}"],
        ["models", "{nowhere}.safetensors"],
        ["evaluate", "bicubic-x2", "{nowhere}"],
        ["evaluate", "bicubic-x2", "{source}", "{nowhere}"],
        ["evaluate", "{nowhere}.safetensors", "{source}"],
        ["evaluate", "bicubic-x2", "{source}", "--features", "{nowhere}"],
        ["prepare", "{nowhere}", "{job}.zarr", "--recipe", "span-x4"],
        ["prepare", "{source}", "{job}.zarr", "--recipe", "{nowhere}.toml"],
        ["prepare", "{source}", "{job}.zarr", "--recipe", "span-x4", "--lr", "bicubic={nowhere}"],
        ["prepare", "{source}", "{job}.zarr", "--recipe", "span-x4", "--licence", "{nowhere}.csv"],
        ["train", "{nowhere}", "--recipe", "span-x4", "--out", "{job}"],
    ],
)
def test_whatever_is_named_and_missing_is_wrong_usage_and_leaves_nothing(
    words: list[str], upres: Command, source: Path, tmp_path: Path
) -> None:
    places = {"source": source, "job": tmp_path / "job", "nowhere": tmp_path / "nowhere"}
    before = sorted(tmp_path.rglob("*"))
    said = upres(*(word.format(**places) for word in words))
    assert_one_line(said, 2, "nowhere")
    made = {p for p in tmp_path.rglob("*") if p not in before}
    assert not [path for path in made if path.suffix == ".zarr"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["upscale", "{empty}", "{job}", "--model", "bicubic"], ["empty"]),
        (["ingest", "{source}", "{file}"], ["file"]),
    ],
)
def test_what_cannot_be_read_is_one_line_and_leaves_no_archive(
    words: list[str],
    says: list[str],
    upres: Command,
    cluster: tuple[str, str],
    source: Path,
    job: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    (tmp_path / "empty").mkdir()
    places = {
        "source": source,
        "job": job,
        "file": file,
        "empty": tmp_path / "empty",
    }
    said = upres(*(word.format(**places) for word in words), *cluster)
    assert_one_line(said, 1, *says)
    assert not job.with_suffix(".zarr").exists()
    assert not (job / "source.zarr").exists()
    assert file.read_text() == "not a folder"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("nonsense", 2),
        ("mysql://host/base", 2),
        ("oracel://host/base", 2),
        ("sqlite:////nowhere/at/all/ledger.sqlite", 2),
        ("sqlite://ledger.sqlite", 2),
        ("postgresql+psycopg://me@127.0.0.1:1/base", 1),
    ],
)
def test_a_ledger_that_cannot_be_opened_is_one_line(
    url: str, code: int, upres: Command, source: Path, job: Path
) -> None:
    said = upres("upscale", source, job, "--model", "bicubic", "--ledger", url)
    assert_one_line(said, code, "ledger")
    assert not job.exists()


def test_an_address_without_a_scheduler_is_one_line(
    upres: Command, source: Path, job: Path
) -> None:
    said = upres("upscale", source, job, *BICUBIC, "--cluster", "nonsense")
    assert_one_line(said, 2, "--cluster nonsense", "tcp://HOST:PORT")


def test_a_missing_reference_is_one_line_and_an_unrelated_one_wrong_usage(
    upres: Command,
    cluster: tuple[str, str],
    source: Path,
    job: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    upres("upscale", source, job, *BICUBIC, *cluster)
    missing = upres("score", job, "--reference", tmp_path / "nowhere", *cluster)
    assert_one_line(missing, 2, "nowhere")
    save(tmp_path / "other" / "z.png", photo(20, 20))
    other = upres("score", job, "--reference", tmp_path / "other", *cluster)
    assert_one_line(other, 2, "none of 2 items", "a.*")


@pytest.mark.parametrize("words", [["score", "{job}"], ["export", "{job}", "{out}"]])
def test_a_job_without_upscaled_pictures_has_nothing_to_score_or_export(
    words: list[str],
    upres: Command,
    cluster: tuple[str, str],
    source: Path,
    job: Path,
    tmp_path: Path,
) -> None:
    create_job(job, source=str(source))
    said = upres(*(w.format(job=job, out=tmp_path / "out") for w in words), *cluster)
    assert_one_line(said, 1, "no upscaled pictures yet", "upres upscale")


def test_a_job_inside_its_source_is_not_taken_for_pictures(
    upres: Command, cluster: tuple[str, str], source: Path
) -> None:
    job = source / "job"
    assert upres("upscale", source, job, *BICUBIC, *cluster).code == 0
    said = upres("upscale", source, job, *BICUBIC, *cluster, "--json")
    assert (said.code, said.document["items"]["rejected"]) == (0, 0)


def test_a_mistyped_ledger_does_not_spoil_the_job(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path
) -> None:
    assert upres("upscale", source, job, *BICUBIC, "--ledger", "nonsense").code == 2
    assert upres("upscale", source, job, *BICUBIC, *cluster).code == 0


def test_another_archive_than_the_jobs_own_is_wrong_usage(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path, tmp_path: Path
) -> None:
    upres("upscale", source, job, *BICUBIC, *cluster)
    upres("ingest", source, tmp_path / "lr.zarr", *cluster)
    said = upres("upscale", tmp_path / "lr.zarr", job, *BICUBIC, *cluster)
    assert_one_line(said, 2, "another job folder")


def test_a_job_that_is_held_says_by_whom(
    upres: Command, cluster: tuple[str, str], source: Path, job: Path
) -> None:
    upres("upscale", source, job, *BICUBIC, *cluster)
    with hold_job(open_job(job), "upres upscale"):
        said = upres("upscale", source, job, *BICUBIC, *cluster)
        assert_one_line(said, 1, f"upres upscale (pid {os.getpid()}")
        assert upres("status", job).code == 0
        with pytest.raises(JobBusyError), hold_job(open_job(job), "third"):
            pass


def test_a_damaged_job_description_is_one_line(upres: Command, job: Path) -> None:
    job.mkdir()
    (job / "job.json").write_text("{")
    assert_one_line(upres("status", job), 2, "job.json", "cannot be read")


def test_a_folder_that_may_not_be_written_is_one_line(
    upres: Command, source: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    said = upres("upscale", source, closed / "job", "--model", "bicubic")
    assert_one_line(said, 1, "closed")


def test_a_bug_keeps_its_traceback(upres: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("pipeline.training.catalogue.describe_model", fail)
    with pytest.raises(ZeroDivisionError):
        upres("models", "span-x4")


def test_grey_alpha_and_16_bit_go_through_the_whole_command_line(
    upres: Command,
    cluster: tuple[str, str],
    tmp_path: Path,
    job: Path,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    from pipeline.pictures.files import read_picture

    source, out = tmp_path / "mixed", tmp_path / "out"
    save(source / "grey.png", photo(20, 30, 1))
    save(source / "alpha.png", photo(20, 30, 4))
    save(source / "deep.tif", photo(20, 30, 3, "uint16"))
    assert upres("upscale", source, job, *BICUBIC, *cluster, "--export", out).code == 0
    for name, channels, dtype in (
        ("grey.png", 1, np.uint8),
        ("alpha.png", 4, np.uint8),
        ("deep.tif", 3, np.uint16),
    ):
        pixels = read_picture((out / name).read_bytes(), name=name).pixels
        assert (pixels.shape, pixels.dtype) == ((channels, 40, 60), dtype)
