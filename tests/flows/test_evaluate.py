"""`upres evaluate` on datasets: the patches that they hold out, by each LR version."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from skimage.metrics import peak_signal_noise_ratio

from pipeline.pictures.metrics import luma
from pipeline.storage.dataset import Dataset

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command, SavePicture, TakePhoto


pytestmark = pytest.mark.usefixtures("shared_workers")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto, save: SavePicture) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "pictures"
    for n in range(4):
        save(folder / f"{n}.png", photo(120, 120, at=90 * n))
    return folder


def prepare(upres: Command, pictures: Path, dataset: Path, recipe: str, *settings: str) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    said = upres("prepare", pictures, dataset, "--recipe", recipe, *words)
    assert said.code == 0, said.err


def test_a_dataset_scores_as_the_pictures_that_it_holds_out(
    pictures: Path, tmp_path: Path, upres: Command
) -> None:
    """LR that the dataset made is LR that the protocol makes."""
    dataset, exported = tmp_path / "faces", tmp_path / "exported"
    prepare(upres, pictures, dataset, "srgan-faces-64", "split={ test = ['[12].png'] }")
    assert upres("export", dataset, exported).code == 0
    said = upres("evaluate", "bicubic-x4", dataset, exported / "test" / "hr", "--json")
    assert said.code == 0, said.err
    of_patches, of_pictures = said.document["sets"]
    assert of_patches["name"] == "faces test, LR bicubic"
    assert of_patches["images"] == of_pictures["images"] == 2
    assert of_patches["psnr_y"] == pytest.approx(of_pictures["psnr_y"])
    assert of_patches["ssim_y"] == pytest.approx(of_pictures["ssim_y"])
    assert [score["name"] for score in of_patches["per_image"]] == ["1.png at 0,0", "2.png at 0,0"]


def test_every_lr_version_is_a_set_and_validation_stands_in_for_a_missing_test(
    pictures: Path, tmp_path: Path, upres: Command
) -> None:
    dataset = tmp_path / "noisy"
    prepare(
        upres,
        pictures,
        dataset,
        "dcgan-denoise",
        "degradations=[{ name = 'noise' }, { name = 'jpeg' }]",
        "split={ validation = 2 }",
    )
    said = upres("evaluate", "nearest-x1", dataset, "--json")
    assert said.code == 0, said.err
    noise, jpeg = said.document["sets"]
    assert noise["name"] == "noisy validation, LR noise"
    assert jpeg["name"] == "noisy validation, LR jpeg"
    opened = Dataset.open(dataset)
    rows = opened.rows("validation")
    expected = fmean(
        peak_signal_noise_ratio(*(luma(p, data_range=255) for p in (hr, lr)), data_range=255)
        for hr, lr in zip(opened.read("hr", rows), opened.read("lr_noise", rows), strict=True)
    )
    assert noise["psnr_y"] == pytest.approx(expected, abs=0.05)


def test_what_is_met_exactly_is_left_out_of_psnr_and_told(
    pictures: Path, tmp_path: Path, upres: Command
) -> None:
    said = upres("evaluate", "nearest-x1", pictures, "--json")
    assert said.code == 0, said.err
    (found,) = said.document["sets"]
    assert (found["psnr_y"], found["equal"]) == (None, found["images"])
    assert "PSNR-Y infinite" in upres("evaluate", "nearest-x1", pictures).out


def test_what_does_not_fit_is_one_clear_line(
    pictures: Path, tmp_path: Path, upres: Command
) -> None:
    dataset = tmp_path / "all"
    prepare(upres, pictures, dataset, "srgan-faces-64", "split={}")
    said = upres("evaluate", "bicubic-x2", dataset)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "has scale 2" in said.err
    said = upres("evaluate", "bicubic-x4", dataset)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "holds out no patches" in said.err


def test_damaged_pictures_score_worse_and_the_document_says_what_was_done(
    pictures: Path, upres: Command
) -> None:
    clean, stored = (
        upres("evaluate", "bicubic-x4", pictures, "--json", *words).document
        for words in ((), ("--degradation", "jpeg-40"))
    )
    assert (clean["degradation"], stored["degradation"]) == ("bicubic", "jpeg-40")
    assert stored["sets"][0]["psnr_y"] < clean["sets"][0]["psnr_y"]


def test_a_degradation_that_does_not_exist_is_refused_with_the_nearest(
    pictures: Path, upres: Command
) -> None:
    said = upres("evaluate", "bicubic-x4", pictures, "--degradation", "jpg-75")
    assert said.code != 0
    assert "no degradation is called 'jpg-75'" in said.err
    assert "jpeg-75" in said.err


def test_a_dataset_has_its_own_lr_so_another_degradation_is_refused(
    pictures: Path, tmp_path: Path, upres: Command
) -> None:
    dataset = tmp_path / "dataset"
    prepare(upres, pictures, dataset, "srgan-faces-64", "split={ test = ['[12].png'] }")
    said = upres("evaluate", "bicubic-x4", dataset, "--degradation", "jpeg-75")
    assert said.code == 2
    assert "is a dataset, which holds its own LR versions; leave the option out" in said.err
