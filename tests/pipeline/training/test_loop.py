"""Training: what it leaves, and that a killed one ends as an undisturbed one does."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models import checkpoint
from pipeline.compute.stop import Stop
from pipeline.pictures.files import read_picture
from pipeline.recipes.training import TrainRecipe, load_recipe
from tests.pipeline.training.small_trainings import GAN, PLAIN, interrupted, run, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.storage.dataset import Dataset
    from pipeline.training.review import TrainProgress


@pytest.mark.parametrize(
    ("recipe", "killed_after"),
    [
        pytest.param(PLAIN, 3, id="plain-3"),
        pytest.param(GAN, 3, id="gan-3", marks=pytest.mark.slow),
        *(
            pytest.param(recipe, after, id=f"{name}-{after}", marks=pytest.mark.slow)
            for name, recipe in (("plain", PLAIN), ("gan", GAN))
            for after in (1, 2, 5)
        ),
    ],
)
def test_a_training_that_was_killed_and_resumed_ends_with_the_same_bytes(
    killed_after: int,
    recipe: TrainRecipe,
    dataset: Dataset,
    tmp_path: Path,
    undisturbed: Callable[[TrainRecipe], Path],
) -> None:
    whole, parts = undisturbed(recipe), tmp_path
    with pytest.raises(KeyboardInterrupt):
        run(dataset, recipe, parts, tick=interrupted(killed_after))
    run(dataset, recipe, parts, resume=(parts / "state.safetensors").exists())
    for name in ("last.safetensors", "best.safetensors"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    one, two = (load_file(folder / "state.safetensors") for folder in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one if name != "numbers")
    assert told(parts) == told(whole)


@pytest.mark.slow
def test_a_training_that_is_asked_to_stop_keeps_the_step_it_ends_after(
    dataset: Dataset, tmp_path: Path, undisturbed: Callable[[TrainRecipe], Path]
) -> None:
    whole, parts = undisturbed(PLAIN), tmp_path
    stop, made = Stop(), []

    def ask(step: int, _of: int) -> None:
        made.append(step)
        if step == 3:
            stop.request()

    run(dataset, PLAIN, parts, tick=ask, stop=stop)
    assert made == [1, 2, 3]
    run(dataset, PLAIN, parts, tick=lambda step, _of: made.append(step), resume=True)
    assert made == [1, 2, 3, 3, 4, 5, 6]
    assert (parts / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()


@pytest.mark.slow
def test_another_seed_gives_other_weights(undisturbed: Callable[[TrainRecipe], Path]) -> None:
    seeds = (PLAIN, replace(PLAIN, seed=2))
    one, two = (undisturbed(recipe) / "best.safetensors" for recipe in seeds)
    assert one.read_bytes() != two.read_bytes()


def test_it_leaves_models_a_recipe_figures_curves_and_pictures(
    dataset: Dataset, tmp_path: Path
) -> None:
    heard: list[TrainProgress] = []
    best = run(dataset, GAN, tmp_path, heard=heard)
    model = checkpoint.load_file(best)
    assert (model.spec.scale, model.spec.arguments) == (2, {"features": 4})
    assert "24 patches" in model.spec.training_data
    assert load_recipe(str(tmp_path / "recipe.toml")) == GAN
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [p.step for p in heard] == [2, 3, 6]
    assert [row["stage"] for row in rows] == ["alone", "gan", "gan"]
    assert rows[0]["discriminator"] == ""
    assert 0 <= float(rows[2]["accuracy"]) <= 1
    assert all(np.isfinite(float(row["psnr_y"])) for row in rows)
    assert rows[0]["validation_discriminator"] == ""
    assert all(float(row["validation_discriminator"]) > 0 for row in rows[1:])
    # Alone, the loss is the mean absolute error, also of what is held out.
    assert 0 < float(rows[0]["validation_loss"]) < 0.5
    assert len({row["bicubic_psnr_y"] for row in rows}) == 1
    for name in ("curves.png", "samples/00000006.png"):
        pixels = read_picture((tmp_path / name).read_bytes(), name=name).pixels
        assert min(pixels.shape[1:]) > 200
    assert list((tmp_path / "events").iterdir())
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["00000002.safetensors", "00000004.safetensors", "00000006.safetensors"]


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_training_learns(optimiser: str, dataset: Dataset, tmp_path: Path) -> None:
    heard: list[TrainProgress] = []
    longer = replace(PLAIN, optimiser=optimiser, steps=30, validate_every=15, checkpoint_every=30)
    run(dataset, longer, tmp_path, heard=heard)
    assert heard[-1].loss < heard[0].loss
