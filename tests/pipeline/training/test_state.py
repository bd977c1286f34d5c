"""The state of a training: what is not that of its networks is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.errors import UsageError
from tests.pipeline.training.small_trainings import PLAIN, interrupted, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.dataset import Dataset


def forgets(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.endswith("exp_avg_sq")]:
        del tensors[name]


def forgets_all(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("generator.optimiser.0.0.")]:
        del tensors[name]


def forgets_everything(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("generator.optimiser.")]:
        del tensors[name]


def misremembers(tensors: dict[str, Tensor]) -> None:
    tensors["generator.optimiser.0.0.exp_avg"] = torch.zeros(1)


def counts_halves(tensors: dict[str, Tensor]) -> None:
    tensors["numbers"][0] = 1.5


def counts_nothing(tensors: dict[str, Tensor]) -> None:
    tensors["numbers"] = torch.tensor(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [forgets, forgets_all, forgets_everything, misremembers, counts_halves, counts_nothing],
)
def test_a_state_that_is_not_that_of_its_networks_is_refused(
    damage: Callable[[dict[str, Tensor]], None],
    dataset: Dataset,
    tmp_path: Path,
    undisturbed: Callable[[TrainRecipe], Path],
) -> None:
    recipe = replace(PLAIN, optimiser="adam")
    shutil.copytree(undisturbed(replace(recipe, steps=2)), tmp_path, dirs_exist_ok=True)
    path = tmp_path / "state.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(UsageError, match="cannot be resumed"):
        run(dataset, recipe, tmp_path, resume=True)


@pytest.mark.slow
def test_a_state_of_before_there_were_guards_goes_on_to_the_same_bytes(
    dataset: Dataset, tmp_path: Path, undisturbed: Callable[[TrainRecipe], Path]
) -> None:
    whole, parts = undisturbed(PLAIN), tmp_path
    with pytest.raises(KeyboardInterrupt):
        run(dataset, PLAIN, parts, tick=interrupted(3))
    file = parts / "state.safetensors"
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        about = opened.metadata()
    del tensors["guard"]
    save_file(tensors, file, about)
    last = run(dataset, PLAIN, parts, resume=True).read_bytes()
    assert last == (whole / "best.safetensors").read_bytes()
