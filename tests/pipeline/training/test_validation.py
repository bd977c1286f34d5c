"""Validation: of which patches, and what its figures say."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from models import checkpoint
from pipeline.training.objective import FeatureFiles
from pipeline.training.validation import Validator
from tests.pipeline.training.small_trainings import PLAIN, held_out, logged, make, run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.dataset import Dataset
    from tests.conftest import TakePhoto


def test_lr_versions_take_turns_in_validation(tmp_path: Path, photo: TakePhoto) -> None:
    dataset = make(tmp_path / "d", photo, versions=("bicubic", "noise", "box"))
    rows = dataset.rows("validation")
    for chosen, versions in (([], ("bicubic", "noise", "box")), (["box"], ("box",))):
        recipe = replace(PLAIN, validation_patches=6, lr_versions=chosen)
        validator = Validator.of(dataset, recipe, FeatureFiles(), device=torch.device("cpu"))
        assert validator is not None
        for n, row in enumerate(rows):
            wanted = dataset.read(f"lr_{versions[n % len(versions)]}", np.array([row]))
            assert np.array_equal(validator.lr[n], wanted[0])


def test_without_a_patch_held_out_it_is_told_that_nothing_is_validated(
    tmp_path: Path, photo: TakePhoto, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make(tmp_path / "d", photo, validation=0)
    run(dataset, replace(PLAIN, validation_patches=0), tmp_path / "unasked")
    assert not logged(caplog)
    run(dataset, PLAIN, tmp_path / "out")
    (told,) = logged(caplog)
    assert told.startswith("nothing is validated")
    assert "split = { validation = 0.1 }" in told


def test_without_validation_the_last_is_the_best(tmp_path: Path, photo: TakePhoto) -> None:
    dataset = make(tmp_path / "d", photo, validation=0)
    best = run(dataset, PLAIN, tmp_path / "out")
    assert best.read_bytes() == (tmp_path / "out" / "last.safetensors").read_bytes()


def test_the_validation_loss_is_that_of_a_step_on_those_patches(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Of the output as it is: not rounded, and not clipped to what a picture can hold."""
    run(dataset, replace(PLAIN, losses={"l1": 1.0, "mse": 0.5}), tmp_path)
    network = checkpoint.load(str(tmp_path / "last.safetensors")).network
    lr, hr = held_out(dataset)
    with torch.no_grad():
        apart = network(lr) - hr
    expected = float(apart.abs().mean() + 0.5 * apart.square().mean())
    with (tmp_path / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["validation_loss"]) == pytest.approx(expected, rel=1e-4)
