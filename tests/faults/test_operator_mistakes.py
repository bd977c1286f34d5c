"""What people do to jobs and archives: nothing of theirs is lost, and nothing is told wrongly."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import OccupiedError, UsageError
from pipeline.recipes.files import RECIPES_DIR

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command, Digest, SavePicture, TakePhoto

WORDS = ("--model", "nearest-x2", "--tile", 32)


@pytest.fixture
def pictures(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    for n in range(3):
        save(tmp_path / "in" / "sub" / f"{n}.png", photo(40, 70, at=n * 40))
    return tmp_path / "in"


def test_an_export_from_another_directory_does_not_replace_the_originals(
    pictures: Path,
    tmp_path: Path,
    upres: Command,
    cluster: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    digest: Digest,
) -> None:
    before = digest(pictures)
    monkeypatch.chdir(tmp_path)
    assert upres("upscale", "in", "job", *WORDS, *cluster).code == 0
    monkeypatch.chdir(os.sep)
    told = upres("export", tmp_path / "job", pictures, *cluster)
    assert told.code == 2
    assert "is in the source" in told.err
    assert digest(pictures) == before


def test_an_export_does_not_replace_the_original_of_another_item(
    pictures: Path,
    tmp_path: Path,
    upres: Command,
    cluster: tuple[str, str],
    save: SavePicture,
    photo: TakePhoto,
    digest: Digest,
) -> None:
    save(pictures / "a.jpg", photo(40, 40))
    (pictures / "a.png").write_bytes(b"a picture of which only this much is left")
    assert upres("upscale", pictures, tmp_path / "job", *WORDS, *cluster).code == 3
    before = digest(pictures)
    told = upres("export", tmp_path / "job", pictures, "--format", "png", *cluster)
    assert told.code == 2
    assert digest(pictures) == before


def test_an_export_into_the_source_is_refused_before_anything_is_computed(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    told = upres(
        "upscale", pictures, tmp_path / "job", *WORDS, "--export", pictures / "up", *cluster
    )
    assert told.code == 2
    assert "is in the source" in told.err
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("below", ["", "sub", "sub/new"])
def test_the_source_under_another_name_is_refused_before_anything_is_computed(
    below: str, pictures: Path, tmp_path: Path, upres: Command, digest: Digest
) -> None:
    alias = tmp_path / "alias"
    alias.mkdir()
    mount = ["mount", "--bind", str(pictures / "sub" if below else pictures), str(alias)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount here: {done.stderr.strip()}")
    before = digest(pictures)
    try:
        out = alias / "new" if below.endswith("new") else alias
        told = upres("upscale", pictures, tmp_path / "job", *WORDS, "--export", out)
    finally:
        subprocess.run(["umount", "--lazy", str(alias)], check=False)
    assert told.code == 2
    (line,) = told.err.splitlines()
    assert f"cannot export into {out}: it is in the source {pictures}" in line
    assert not (tmp_path / "job").exists()
    assert digest(pictures) == before


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_of_a_folder_that_is_exported_into_it_leaves_the_originals(
    kind: str,
    pictures: Path,
    tmp_path: Path,
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
) -> None:
    source = shutil.make_archive(str(tmp_path / "pictures"), kind, pictures)
    before = digest(pictures)
    words = ("upscale", source, tmp_path / "job", *WORDS, *cluster, "--export", pictures)
    for _ in range(2):
        told = upres(*words, "--json")
        assert told.code == 3
        assert told.document["export"] == {
            "written": 0, "unchanged": 0, "pruned": 0, "let_go": 0,
            "gone": 0, "gone_files": [], "notes": [],
        }  # fmt: skip
        assert [f["error"] for f in told.document["failures"]] == ["OccupiedError"] * 3
        assert digest(pictures) == before


@pytest.mark.parametrize("part", ["sub", "sub/deep"])
def test_a_folder_that_cannot_be_looked_into_keeps_what_was_made_of_its_pictures(
    part: str,
    pictures: Path,
    tmp_path: Path,
    upres: Command,
    cluster: tuple[str, str],
    save: SavePicture,
    photo: TakePhoto,
    digest: Digest,
) -> None:
    save(pictures / "sub" / "deep" / "9.png", photo(40, 70, at=160))
    (tmp_path / "elsewhere").mkdir()
    disk = (pictures / part).rename(tmp_path / "elsewhere" / "disk")
    (pictures / part).symlink_to(disk)
    save(pictures / "here.png", photo(40, 70, at=200))
    out = tmp_path / "out"
    words = ("upscale", pictures, tmp_path / "job", *WORDS, *cluster, "--export", out, "--prune")
    assert upres(*words).code == 0
    before = digest(out)
    disk.rename(tmp_path / "unplugged")
    told = upres(*words, "--json")
    assert told.code == 3
    assert [f["item"] for f in told.document["failures"]] == [part]
    assert "cannot be opened" in told.document["failures"][0]["message"]
    export = told.document["export"]
    assert (export["pruned"], export["gone"], export["unchanged"]) == (0, 0, len(before))
    assert digest(out) == before
    (pictures / "here.png").unlink()
    assert upres(*words).code == 3, "all that is left is out of sight, and not gone"
    (tmp_path / "unplugged").rename(disk)
    again = upres(*words, "--json")
    assert (again.code, again.document["computed_units"]) == (0, 0)
    assert len(digest(out)) == len(before) - 1


def test_the_flow_refuses_the_source_too(pictures: Path, tmp_path: Path) -> None:
    from flows.upscale import upscale_archive

    state = upscale_archive.fn(
        src=str(pictures), job_dir=tmp_path / "job", export_dir=pictures / "up"
    )
    assert state.is_failed()
    assert "is in the source" in state.message
    assert isinstance(state.data, UsageError)
    assert not (tmp_path / "job").exists()


def test_a_lock_and_a_ledger_of_somebody_else_stay_as_they_are(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str], digest: Digest
) -> None:
    (tmp_path / "a.zarr.lock").write_text("keys of the archive room")
    told = upres("ingest", pictures, tmp_path / "a.zarr", *cluster)
    assert told.code == 1
    assert "a.zarr.lock exists and was not written by upres" in told.err
    with closing(sqlite3.connect(tmp_path / "b.zarr.ledger.sqlite")) as database:
        database.execute("CREATE TABLE invoices (sum)")
        database.commit()
    before = digest(tmp_path)
    told = upres("ingest", pictures, tmp_path / "b.zarr", *cluster)
    assert told.code == 1
    assert "is a database of another program (it holds invoices)" in told.err
    after = digest(tmp_path)
    assert {name: after[name] for name in before} == before


def test_an_archive_is_not_made_of_the_folder_that_it_is_in_itself(
    pictures: Path, upres: Command, digest: Digest
) -> None:
    before = digest(pictures.parent)
    told = upres("ingest", pictures, pictures)
    assert told.code == 2
    assert digest(pictures.parent) == before, "not even a lock beside it"


def test_a_report_and_a_preview_of_somebody_else_stay_as_they_are(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job = tmp_path / "job"
    upres("upscale", pictures, job, *WORDS, *cluster)
    assert upres("report", job).code == 0
    assert upres("report", job).code == 0
    (job / "report.html").write_text("<title>Annual report</title>")
    told = upres("report", job)
    assert (told.code, "was not written by upres" in told.err) == (1, True)
    assert (job / "report.html").read_text() == "<title>Annual report</title>"
    preview = ("prepare", pictures, tmp_path / "set", "--recipe", "srcnn-x4", "--preview")
    (tmp_path / "set.preview.png").write_bytes(b"mine")
    told = upres(*preview)
    assert (told.code, "was not written by upres" in told.err) == (1, True)
    assert (tmp_path / "set.preview.png").read_bytes() == b"mine"


def test_a_recipe_by_hand_is_not_replaced_by_the_training_of_it(
    pictures: Path, tmp_path: Path, upres: Command
) -> None:
    recipe = tmp_path / "out" / "recipe.toml"
    recipe.parent.mkdir()
    recipe.write_text("# mine\n" + (RECIPES_DIR / "srcnn-x4.toml").read_text())
    before = recipe.read_bytes()
    told = upres("train", pictures, "--recipe", recipe, "--out", recipe.parent)
    assert (told.code, "was not written by a training" in told.err) == (2, True)
    assert recipe.read_bytes() == before
    assert [path.name for path in recipe.parent.iterdir()] == ["recipe.toml"]


def test_a_demonstration_replaces_no_picture(tmp_path: Path, digest: Digest) -> None:
    from flows.demo.demo import make_small

    make_small(tmp_path / "originals", tmp_path / "small")
    before = digest(tmp_path)
    make_small(tmp_path / "originals", tmp_path / "small")
    assert digest(tmp_path) == before
    for folder in ("originals", "small"):
        path = next(path for path in (tmp_path / folder).rglob("*") if path.is_file())
        own = path.read_bytes()
        path.write_bytes(b"mine")
        with pytest.raises(OccupiedError, match="is not of the demonstration"):
            make_small(tmp_path / "originals", tmp_path / "small")
        assert path.read_bytes() == b"mine"
        path.write_bytes(own)


def test_options_of_an_export_go_with_one(pictures: Path, tmp_path: Path, upres: Command) -> None:
    for option in ("--overwrite", "--prune"):
        told = upres("upscale", pictures, tmp_path / "job", *WORDS, option)
        assert (told.code, f"{option} goes with --export DIR" in told.err) == (2, True)
    assert not (tmp_path / "job").exists()


@pytest.mark.slow
def test_what_became_of_exported_files_is_said(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job, out = tmp_path / "job", tmp_path / "out"
    words = ("upscale", pictures, job, *WORDS, *cluster, "--export", out)
    assert "3 pictures written below" in upres(*words).out
    (pictures / "sub" / "1.png").unlink()
    told = upres(*words)
    assert told.code == 0
    assert f"0 pictures written below {out}, 2 unchanged" in told.out
    assert f"gone from the source, still in {out}: 1 file (--prune removes" in told.err
    told = upres("export", job, out, "--json")
    assert told.document == {
        "job": str(job), "dir": str(out), "written": 0, "unchanged": 2, "pruned": 0, "let_go": 0,
        "gone": 1,
        "gone_files": [str(out / "sub" / "1.png")], "failures": [], "notes": [],
    }  # fmt: skip
    told = upres(*words, "--prune")
    assert "2 unchanged, 1 pruned" in told.out
    (out / "sub" / "2.png").write_bytes(b"retouched")
    told = upres("export", job, out, *cluster)
    assert (told.code, "changed since this job wrote it" in told.err) == (3, True)
    assert upres("export", job, out, "--overwrite", *cluster).code == 0
    assert (out / "sub" / "2.png").read_bytes() != b"retouched"


def test_a_job_beside_its_pictures_is_not_taken_for_pictures(
    pictures: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job = pictures / "job"
    words = ("upscale", pictures, job, *WORDS, "--export", job / "images", "--json", *cluster)
    assert upres(*words).code == 0
    again = upres(*words)
    assert again.code == 0
    assert again.document["items"]["done"] == 3
    assert again.document["computed_units"] == 0


@pytest.mark.slow
def test_a_job_is_not_made_in_another_one_nor_of_its_own_pictures(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str], digest: Digest
) -> None:
    job, images = tmp_path / "job", tmp_path / "job" / "images"
    words = (*WORDS, *cluster)
    assert upres("upscale", pictures, job, *words, "--export", images).code == 0
    before = digest(tmp_path)
    for place, says in (
        ((pictures, job / "inner"), f"would be a job in the job {job}; name a folder outside"),
        ((pictures, job / "a" / "b"), f"would be a job in the job {job}; name a folder outside"),
        ((pictures, job / "sr.zarr" / "x"), f"in the Zarr store {job}/sr.zarr; name a folder"),
        ((images, job), f"the source {images} is in the job {job}, which would upscale its own"),
        ((images / "*.png", job), f"*.png is in the job {job}, which would upscale its own"),
        ((pictures, job, "--export", job), f"cannot export into {job}: it is the job itself"),
    ):
        for command in (("upscale", *place), ("schedule", *place, "--at", "02:00")):
            said = upres(*command, *words)
            assert said.code == 2, said
            (line,) = said.err.splitlines()
            assert says in line
            assert digest(tmp_path) == before
    # What it exported may be the source of another job.
    assert upres("upscale", images, tmp_path / "again", *words).code == 0


def test_the_jobs_own_archive_is_refused_as_its_source(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    upres("upscale", pictures, tmp_path / "job", *WORDS, *cluster)
    told = upres("upscale", tmp_path / "job" / "source.zarr", tmp_path / "job", *WORDS, *cluster)
    assert told.code == 2
    assert upres("status", tmp_path / "job", "--json").document["items"]["vanished"] == 0


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:////no/such/folder/l"])
def test_a_ledger_that_cannot_be_leaves_no_spoilt_job_behind(
    url: str, pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    words = ("upscale", pictures, tmp_path / "job", *WORDS, *cluster)
    assert upres(*words, "--ledger", url).code == 2
    assert upres(*words).code == 0


def test_a_source_that_is_not_there_leaves_no_job_behind(
    tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    told = upres("upscale", tmp_path / "picturse", tmp_path / "job", *WORDS, *cluster)
    assert told.code == 2
    assert "does not exist" in told.err
    assert not (tmp_path / "job").exists()


def test_a_deleted_shard_is_computed_again(
    pictures: Path,
    tmp_path: Path,
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
) -> None:
    words = ("upscale", pictures, tmp_path / "job", *WORDS, "--json", *cluster)
    upres(*words)
    whole = digest(tmp_path / "job" / "sr.zarr")
    (tmp_path / "job" / "sr.zarr" / "sub" / "1.png" / "0" / "c" / "0" / "1" / "2").unlink()
    assert upres(*words).document["computed_units"] == 1
    assert digest(tmp_path / "job" / "sr.zarr") == whole


def test_a_damaged_shard_is_found_by_the_export_and_mended_by_the_rerun(
    pictures: Path,
    tmp_path: Path,
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
) -> None:
    job = tmp_path / "job"
    upres("upscale", pictures, job, *WORDS, *cluster)
    whole = digest(job / "sr.zarr")
    shard = job / "sr.zarr" / "sub" / "2.png" / "0" / "c" / "0" / "0" / "1"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    told = upres("export", job, tmp_path / "out", "--json", *cluster)
    assert (told.code, told.document["written"]) == (3, 2)
    assert upres("status", job, "--json").document["units"]["failed"] == 1
    again = upres("rerun", job, "--json", *cluster)
    assert (again.code, again.document["computed_units"]) == (0, 1)
    assert digest(job / "sr.zarr") == whole


@pytest.mark.slow
def test_a_source_archive_that_changed_is_noticed_by_the_rerun(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str], save: SavePicture,
    photo: TakePhoto,
) -> None:  # fmt: skip
    archive, job = tmp_path / "a.zarr", tmp_path / "job"
    upres("ingest", pictures, archive, *cluster)
    upres("upscale", archive, job, *WORDS, *cluster)
    save(pictures / "sub" / "1.png", photo(40, 70, at=200))
    upres("ingest", pictures, archive, *cluster)
    upres("rerun", job, *cluster)
    assert upres("status", job, "--json").document["items"]["pending"] == 1
    told = upres("upscale", archive, job, *WORDS, "--json", *cluster)
    assert told.document["computed_units"] == 6


def test_a_demonstration_takes_no_folder_of_other_things(tmp_path: Path, upres: Command) -> None:
    (tmp_path / "holiday.png").write_bytes(b"mine")
    told = upres("demo", tmp_path)
    assert (told.code, "holds holiday.png" in told.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.png"]


def test_what_is_not_a_job_is_called_what_it_is(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    archive, job = tmp_path / "a.zarr", tmp_path / "of" / "job"
    assert upres("ingest", pictures, archive, *cluster).code == 0
    assert "is an archive, expected a job" in upres("status", archive).err
    assert upres("upscale", pictures, job, *WORDS, *cluster).code == 0
    assert f"did you mean {job}?" in upres("status", job.parent).err
    assert "does not exist" in upres("status", tmp_path / "nowhere").err
    training = tmp_path / "trained"
    training.mkdir()
    for name in ("recipe.toml", "metrics.csv"):
        (training / name).touch()
    said = upres("status", training)
    assert (said.code, "is a training, expected a job" in said.err) == (2, True)


def test_a_rerun_with_nothing_to_redo_says_why(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job = tmp_path / "job"
    assert upres("upscale", pictures, job, *WORDS, *cluster).code == 0
    told = upres("rerun", job, "--item", "nothing/*")
    assert (told.code, "no item matches --item nothing/*" in told.err) == (0, True)


def test_a_job_prunes_nothing_that_another_job_wrote(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(pictures, other)
    assert upres("upscale", pictures, tmp_path / "j1", *WORDS, *cluster, "--export", out).code == 0
    words = ("upscale", other, tmp_path / "j2", *WORDS, *cluster, "--export", out)
    assert upres(*words, "--json").document["export"]["unchanged"] == 3
    (other / "sub" / "1.png").unlink()
    told = upres(*words, "--prune", "--json").document["export"]
    assert (told["pruned"], told["gone_files"]) == (0, [str(out / "sub" / "1.png")])
    assert (out / "sub" / "1.png").exists()


def test_originals_that_were_moved_are_not_overwritten(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str], digest: Digest
) -> None:
    job, moved = tmp_path / "job", tmp_path / "moved"
    assert upres("upscale", pictures, job, *WORDS, *cluster).code == 0
    pictures.rename(moved)
    before = digest(moved)
    told = upres("export", job, moved, "--overwrite", *cluster)
    assert (told.code, "is the original of this picture" in told.err) == (3, True)
    assert digest(moved) == before


def test_patches_that_were_edited_are_not_replaced(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    dataset, files = tmp_path / "ds", tmp_path / "files"
    recipe = ("--recipe", "srgan-x4", "--set", "count=2", "--set", "patch_hr_px=16")
    assert upres("prepare", pictures, dataset, *recipe, *cluster).code == 0
    assert upres("export", dataset, files, *cluster).code == 0
    path = next(files.rglob("hr/*.png"))
    before = path.read_bytes()
    path.write_bytes(b"mine")
    told = upres("export", dataset, files, *cluster)
    assert (told.code, "differs from its patch" in told.err) == (3, True)
    assert path.read_bytes() == b"mine"
    assert upres("export", dataset, files, "--overwrite", *cluster).code == 0
    assert path.read_bytes() == before
    picture = next(pictures.rglob("*.png"))
    whole = picture.read_bytes()
    assert upres("report", dataset, "--out", picture).code == 1
    assert picture.read_bytes() == whole
    train = upres("train", dataset, "--recipe", "srgan-x4", "--out", picture.parent)
    assert (train.code, "holds pictures" in train.err) == (2, True)
