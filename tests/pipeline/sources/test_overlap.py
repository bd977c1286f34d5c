"""Apart: what is written is never where the next run reads, whatever the places are called."""

from __future__ import annotations

import os
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import UsageError
from pipeline.sources.overlap import (
    check_export_folder,
    check_not_own_source,
    check_outside_source,
    reads,
)
from pipeline.storage.archive import Archive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "trips/b.JPG", "trips/far/c.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "photos"


def refused(out: Path, src: object, job: Path | None = None, reference: str | None = None) -> bool:
    try:
        check_export_folder(
            out, src=str(src), job_dir=job or out.parent / "the job", reference=reference
        )
    except UsageError:
        return True
    return False


@pytest.mark.parametrize(
    "out", ["photos", "photos/up", "photos/trips/new/deep", "photos/../photos"]
)
def test_an_export_into_the_source_is_refused(out: str, photos: Path) -> None:
    assert refused(photos.parent / out, photos)


def test_an_export_beside_or_around_the_source_is_right(photos: Path) -> None:
    assert not refused(photos.parent / "out", photos)
    assert not refused(photos.parent, photos)
    assert not refused(photos.parent / "photos-2", photos)


@pytest.mark.parametrize(
    ("pattern", "out", "bad"),
    [
        ("**/*.jpg", "up", True),
        ("**/*.jpg", "../out", False),
        ("*.jpg", "up", False),
        ("*.jpg", ".", True),
        ("tr*", "trips/up", True),
        ("TR*", "trips/up", True),
        ("tr*/*.jpg", "trips", True),
        ("tr*/*.jpg", "trips/up", False),
        ("*/far/*.png", "trips/far", True),
        ("[!t]*", "trips", False),
    ],
)
def test_an_export_to_where_a_glob_may_match_is_refused(
    pattern: str, out: str, bad: bool, photos: Path
) -> None:
    assert refused(photos / out, photos / pattern) is bad


def test_other_files_beside_a_single_picture_or_archive_are_not_its_source(photos: Path) -> None:
    with zipfile.ZipFile(photos / "all.zip", "w") as archive:
        archive.write(photos / "a.jpg", "a.jpg")
    assert not refused(photos / "out", photos / "a.jpg")
    assert not refused(photos / "out", photos / "all.zip")
    assert refused(photos, photos / "a.jpg"), "the picture itself would be replaced"


def test_a_job_in_the_source_may_hold_the_export(photos: Path) -> None:
    job = photos / "job"
    assert not refused(job / "images", photos, job)
    job.mkdir()
    assert not refused(job / "images", photos, job)
    (photos.parent / "link").symlink_to(photos)
    assert not refused(photos.parent / "link" / "job" / "images", photos, job)


def test_the_exports_of_a_job_as_its_source_are_not_exported_over(photos: Path) -> None:
    job = photos.parent / "job"
    (job / "images").mkdir(parents=True)
    assert refused(job / "images", job / "images", job)


def test_an_export_among_the_files_of_the_job_itself_is_refused(photos: Path) -> None:
    job = photos.parent / "job"
    assert refused(job, photos, job)
    assert refused(photos.parent / "photos" / ".." / "job", photos, job)
    assert not refused(job / "images", photos, job)


def test_an_export_into_the_originals_for_scores_is_refused(photos: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    assert refused(photos / "x", small, reference=str(photos))
    assert not refused(tmp_path / "out", small, reference=str(photos))


def test_an_export_into_an_archive_is_refused(photos: Path, tmp_path: Path) -> None:
    Archive.open_or_create(tmp_path / "a.zarr")
    assert refused(tmp_path / "a.zarr" / "images", photos)
    assert refused(tmp_path / "a.zarr", tmp_path / "a.zarr")


def test_an_export_over_a_file_is_refused(photos: Path, tmp_path: Path) -> None:
    assert refused(photos / "a.jpg", tmp_path)


def test_hard_links_of_the_originals_are_refused(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "trips").mkdir(parents=True)
    (out / "a.jpg").write_bytes(b"another file")
    assert not refused(out, photos)
    os.link(photos / "trips" / "b.JPG", out / "trips" / "b.JPG")
    assert refused(out, photos)
    assert refused(out, photos / "**" / "*.jpg")


def bound(folder: Path, at: Path, check: Callable[[], bool]) -> bool:
    """Return what `check` says while `folder` is mounted at `at` as well."""
    at.mkdir()
    words = ["mount", "--bind", str(folder), str(at)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount here: {done.stderr.strip()}")
    try:
        return check()
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=False)


@pytest.mark.parametrize("src", ["photos", "photos/**/*.jpg"])
@pytest.mark.parametrize("mounted", ["photos", "photos/trips", "photos/trips/far"])
def test_the_source_under_another_name_is_refused(
    src: str, mounted: str, photos: Path, tmp_path: Path
) -> None:
    alias = tmp_path / "alias"
    assert bound(tmp_path / mounted, alias, lambda: refused(alias, tmp_path / src))
    alias.rmdir()
    assert bound(tmp_path / mounted, alias, lambda: refused(alias / "new", tmp_path / src))


def test_another_folder_of_the_same_disk_is_right(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    alias = tmp_path / "alias"
    assert not bound(tmp_path / "elsewhere", alias, lambda: refused(alias, photos))


def test_a_folder_that_the_source_links_to_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    assert refused(tmp_path / "elsewhere" / "up", photos)


def test_a_dataset_is_not_made_among_its_pictures(photos: Path, tmp_path: Path) -> None:
    for place in (photos / "set", photos):
        with pytest.raises(UsageError, match="is in the source"):
            check_outside_source(place, src=str(photos), what="dataset")
    check_outside_source(tmp_path / "set", src=str(photos), what="dataset")
    check_outside_source(tmp_path, src=str(photos), what="dataset")
    (tmp_path / "alias").symlink_to(photos)
    with pytest.raises(UsageError, match="is in the source"):
        check_outside_source(tmp_path / "alias" / "set", src=str(photos), what="dataset")


def test_an_archive_is_not_made_of_what_is_in_it(photos: Path, tmp_path: Path) -> None:
    Archive.open_or_create(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "x").mkdir()
    with pytest.raises(UsageError, match="is in it"):
        check_not_own_source(
            tmp_path / "a.zarr", src=str(tmp_path / "a.zarr" / "x"), what="archive"
        )
    with pytest.raises(UsageError, match="is the archive"):
        check_not_own_source(photos, src=str(photos), what="archive")
    check_not_own_source(tmp_path / "new.zarr", src=str(photos), what="archive")
    check_not_own_source(photos / "new.zarr", src=str(photos), what="archive")


def test_a_source_that_is_not_there_reads_nothing(tmp_path: Path) -> None:
    assert not reads(str(tmp_path / "missing"), tmp_path / "missing" / "x")
    assert not reads(str(tmp_path / "missing" / "*.png"), tmp_path / "out")
