"""Another account of the machine reads nothing that is made of a picture it may not read."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Command, SavePicture, TakePhoto

NOBODY = 65534
TELLS_NOTHING = {"job.json", "lock"}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can look into, with the usual umask."""
    folder = Path(tempfile.mkdtemp(prefix="upres-test-"))
    folder.chmod(0o755)
    before = os.umask(0o022)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


def read_by_another_account(folder: Path) -> set[str]:
    """Return the files below `folder` that another account can open, by their paths there."""
    if os.geteuid() != 0:
        pytest.skip("only root may act as another account")
    done = subprocess.run(
        ["find", ".", "-type", "f", "-readable"],
        cwd=folder,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    found = {line.removeprefix("./") for line in done.stdout.splitlines()}
    return {name for name in found if Path(name).name not in TELLS_NOTHING}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def picture(open_folder: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """A picture that its owner alone may read, in a folder that is open to all."""
    path = save(open_folder / "in" / "private.png", photo(32, 40))
    path.chmod(0o600)
    assert read_by_another_account(open_folder) == set()
    return path


WORDS = ("--model", "nearest-x2")


def test_nothing_of_a_private_picture_can_be_read_from_job_export_and_report(
    open_folder: Path, picture: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job, out = open_folder / "job", open_folder / "out"
    assert upres("upscale", picture.parent, job, *WORDS, "--export", out, *cluster).code == 0
    assert upres("report", job).code == 0
    assert upres("score", job, *cluster).code == 0
    assert (job / "report.html").stat().st_size > 1000
    assert mode(out / "private.png") == 0o600
    assert read_by_another_account(open_folder) == set()


def test_a_job_folder_that_the_user_made_stays_as_it_is_and_lets_nothing_out(
    open_folder: Path, picture: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job = open_folder / "job"
    job.mkdir(mode=0o755)
    assert upres("upscale", picture.parent, job, *WORDS, *cluster).code == 0
    assert upres("report", job).code == 0
    assert mode(job) == 0o755
    assert read_by_another_account(open_folder) == set()


def test_a_picture_that_becomes_private_is_closed_by_the_next_run(
    open_folder: Path, picture: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job, out = open_folder / "job", open_folder / "out"
    picture.chmod(0o644)
    words = ["upscale", picture.parent, job, *WORDS, "--export", out, *cluster]
    assert upres(*words).code == 0
    assert upres("report", job).code == 0
    assert {"job/report.html", "out/private.png"} < read_by_another_account(open_folder)
    picture.chmod(0o600)
    assert upres(*words).code == 0
    assert upres("report", job).code == 0
    assert read_by_another_account(open_folder) == set()


def test_an_open_picture_beside_a_private_one_is_exported_for_all(
    open_folder: Path,
    picture: Path,
    photo: TakePhoto,
    save: SavePicture,
    upres: Command,
    cluster: tuple[str, str],
) -> None:
    save(picture.with_name("public.png"), photo(32, 40))
    job, out = open_folder / "job", open_folder / "out"
    assert upres("upscale", picture.parent, job, *WORDS, "--export", out, *cluster).code == 0
    assert read_by_another_account(open_folder) == {"in/public.png", "out/public.png"}


def test_a_folder_that_is_closed_around_open_pictures_closes_what_is_made_of_them(
    open_folder: Path, picture: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    picture.chmod(0o644)
    picture.parent.chmod(0o700)
    job, out = open_folder / "job", open_folder / "out"
    assert upres("upscale", picture.parent, job, *WORDS, "--export", out, *cluster).code == 0
    assert (mode(job), mode(out)) == (0o700, 0o700)
    assert read_by_another_account(open_folder) == set()


def test_nothing_of_a_private_picture_can_be_read_from_an_archive_and_what_is_made_of_it(
    open_folder: Path, picture: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    archive, job, out = (open_folder / name for name in ("a.zarr", "job", "out"))
    assert upres("ingest", picture.parent, archive, *cluster).code == 0
    assert read_by_another_account(open_folder) == {"a.zarr.lock"}
    picture.unlink()
    assert upres("upscale", archive, job, *WORDS, "--export", out, *cluster).code == 0
    assert upres("report", job).code == 0
    assert read_by_another_account(open_folder) == {"a.zarr.lock"}
    assert mode(out / "private.png") == 0o600


@pytest.mark.slow
def test_nothing_of_a_private_picture_can_be_read_from_a_dataset_and_its_files(
    open_folder: Path,
    photo: TakePhoto,
    save: SavePicture,
    upres: Command,
    cluster: tuple[str, str],
) -> None:
    for n in range(4):
        save(open_folder / "in" / f"{n}.png", photo(120, 120, at=30 * n)).chmod(0o600)
    dataset, out = open_folder / "dataset", open_folder / "out"
    recipe = ["--recipe", "photographs-x4", "--set", "patch_hr_px=48"]
    assert upres("prepare", open_folder / "in", dataset, *recipe, *cluster).code == 0
    assert upres("report", dataset).code == 0
    assert upres("export", dataset, out, *cluster).code == 0
    assert any(out.rglob("*.png"))
    # Of what is in the export's own folder, statistics and list hold figures, no pixels.
    figures = {"out/manifest.csv", "out/statistics.json"}
    assert read_by_another_account(open_folder) <= {"dataset.lock", *figures}


def test_samples_of_a_training_are_as_private_as_its_dataset(open_folder: Path) -> None:
    from pipeline.training.run import close_samples

    dataset, out = open_folder / "dataset", open_folder / "training"
    dataset.mkdir(mode=0o755)
    close_samples(out, dataset)
    assert not out.exists()
    dataset.chmod(0o700)
    (out / "samples").mkdir(parents=True)
    close_samples(out, dataset)
    assert mode(out / "samples") == 0o700
