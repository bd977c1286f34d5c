"""What people do to jobs and archives: nothing of theirs is lost, and nothing is told wrongly."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

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
    assert upres(*words, "--ledger", url).code in (1, 2)
    assert upres(*words).code == 0


def test_a_source_that_is_not_there_leaves_no_job_behind(
    tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    told = upres("upscale", tmp_path / "picturse", tmp_path / "job", *WORDS, *cluster)
    assert told.code == 1
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
