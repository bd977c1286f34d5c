"""Beginning and resuming: what a training keeps to that was begun."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.lpips import alexnet
from pipeline.errors import SourceError, UsageError
from pipeline.recipes.training import load_recipe
from pipeline.training.objective import FeatureFiles
from tests.pipeline.training.small_trainings import PLAIN, logged, make, run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.dataset import Dataset
    from tests.conftest import TakePhoto


@pytest.mark.slow
def test_a_training_measures_to_its_end_what_it_measured_as_it_was_begun(
    tmp_path: Path, photo: TakePhoto, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make(tmp_path / "d", photo, side=64)
    torch.manual_seed(0)
    save_file(alexnet().state_dict(), tmp_path / "alexnet.safetensors")
    files = FeatureFiles.named([tmp_path / "alexnet.safetensors"])
    short = replace(PLAIN, steps=2, validate_every=2)
    run(dataset, short, tmp_path / "with", files=files)
    with pytest.raises(UsageError, match="was begun with LPIPS"):
        run(dataset, PLAIN, tmp_path / "with", resume=True)
    run(dataset, PLAIN, tmp_path / "with", resume=True, files=files)
    assert not logged(caplog)
    run(dataset, short, tmp_path / "without")
    run(dataset, PLAIN, tmp_path / "without", resume=True, files=files)
    assert "LPIPS is left out, as the training was begun without it" in caplog.messages
    for folder, measured in (("with", True), ("without", False)):
        with (tmp_path / folder / "metrics.csv").open() as file:
            assert {bool(row["lpips"]) for row in csv.DictReader(file)} == {measured}


@pytest.mark.slow
def test_the_arithmetic_that_the_device_is_fast_in_is_chosen_once(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that goes on elsewhere computes as it was begun."""
    wanted = replace(PLAIN, precision="auto")
    for found in ("bf16", "fp32"):
        monkeypatch.setattr(
            "pipeline.training.loop.resolve_precision", lambda _, *, device, found=found: found
        )
        run(dataset, wanted, tmp_path / found)
        begun = load_recipe(str(tmp_path / found / "recipe.toml"))
        assert begun == replace(wanted, precision=found)
    one, two = (load_file(tmp_path / n / "last.safetensors") for n in ("bf16", "fp32"))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_folder_that_holds_a_training_is_not_overwritten_without_asking(
    dataset: Dataset, tmp_path: Path
) -> None:
    run(dataset, PLAIN, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--resume"):
        run(dataset, replace(PLAIN, seed=9), tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_resuming_what_is_not_there_or_of_another_recipe_is_an_error(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot be resumed"):
        run(dataset, PLAIN, tmp_path, resume=True)
    run(dataset, PLAIN, tmp_path)
    with pytest.raises(UsageError, match="cannot be resumed"):
        run(dataset, replace(PLAIN, arguments={"features": 5}), tmp_path, resume=True)


def test_a_dataset_without_patches_is_an_error(tmp_path: Path, photo: TakePhoto) -> None:
    dataset = make(tmp_path / "d", photo, train=0)
    with pytest.raises(SourceError, match="no patch to train on"):
        run(dataset, PLAIN, tmp_path / "out")


def test_a_dataset_whose_only_patch_validates_says_so(tmp_path: Path, photo: TakePhoto) -> None:
    only = make(tmp_path / "d", photo, train=0, validation=1)
    with pytest.raises(SourceError, match="no patch to train on: all 1 are held out for validatio"):
        run(only, PLAIN, tmp_path / "out")
