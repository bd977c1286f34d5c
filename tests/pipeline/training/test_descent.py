"""A step: of which patches it is made, and in how many parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from tests.pipeline.training.small_trainings import PLAIN, run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.dataset import Dataset


def test_accumulated_batches_move_as_one_of_their_size(dataset: Dataset, tmp_path: Path) -> None:
    plain = replace(PLAIN, optimiser="adam", steps=2)
    run(dataset, replace(plain, batch=8), tmp_path / "one")
    run(dataset, replace(plain, batch=4, accumulate=2), tmp_path / "two")
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)


def test_fresh_degradations_need_no_lr_version(dataset: Dataset, tmp_path: Path) -> None:
    recipe = replace(PLAIN, fresh_degradations=[{"name": "noise"}, {"name": "blur"}])
    assert run(dataset, recipe, tmp_path).exists()
