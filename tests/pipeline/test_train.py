"""Training: exact resume, and what is left behind."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models import checkpoint
from pipeline.config import load_recipe
from pipeline.errors import RecipeError, SourceError, TrainingError, UsageError
from pipeline.train import TrainingSet, TrainProgress, load_pictures, train

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import TrainRecipe
    from tests.conftest import SavePicture, TakePhoto


@pytest.fixture(scope="module")
def recipe() -> TrainRecipe:
    """A training of seconds, with a network of the default's kind."""
    return load_recipe(
        "span-x4",
        settings=(
            "steps=6",
            "batch=2",
            "patch_hr_px=32",
            "arguments={features=4}",
            "validation_pictures=1",
            "validate_every=3",
            "checkpoint_every=2",
            "warmup_steps=2",
            "precision=fp32",
        ),
    )


@pytest.fixture(scope="module")
def pictures(
    recipe: TrainRecipe,
    tmp_path_factory: pytest.TempPathFactory,
    photo: TakePhoto,
    save: SavePicture,
) -> TrainingSet:
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(4):
        save(folder / f"{n}.png", photo(90, 100, at=n * 90))
    save(folder / "small.png", photo(20, 20))
    (folder / "text.png").write_text("no picture")
    return load_pictures(str(folder), recipe=recipe)


def _interrupted(after: int) -> object:
    def tick(step: int, _of: int) -> None:
        if step == after:
            raise KeyboardInterrupt

    return tick


def test_pictures_that_cannot_be_used_are_left_out_with_their_reason(
    pictures: TrainingSet,
) -> None:
    assert len(pictures.pairs) == 3
    assert len(pictures.validation) == 1
    assert [name for name, _ in pictures.rejected] == ["small.png", "text.png"]
    assert all(reason for _, reason in pictures.rejected)


@pytest.mark.parametrize("killed_after", [1, 2, 3, 5])
def test_a_training_that_was_killed_and_resumed_ends_with_the_same_bytes(
    killed_after: int, pictures: TrainingSet, recipe: TrainRecipe, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(pictures, recipe=recipe, out_dir=whole, resume=False)
    tick = _interrupted(killed_after)
    with pytest.raises(KeyboardInterrupt):
        train(pictures, recipe=recipe, out_dir=parts, resume=False, tick=tick)  # type: ignore[arg-type]
    resumed = (parts / "state.safetensors").exists()
    train(pictures, recipe=recipe, out_dir=parts, resume=resumed)
    for name in ("last.safetensors", "best.safetensors"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_another_seed_gives_other_weights(
    pictures: TrainingSet, recipe: TrainRecipe, tmp_path: Path
) -> None:
    one = train(pictures, recipe=recipe, out_dir=tmp_path / "1", resume=False)
    two = train(pictures, recipe=replace(recipe, seed=2), out_dir=tmp_path / "2", resume=False)
    assert one.read_bytes() != two.read_bytes()


def test_it_leaves_a_model_a_recipe_and_figures(
    pictures: TrainingSet, recipe: TrainRecipe, tmp_path: Path
) -> None:
    heard: list[TrainProgress] = []
    best = train(pictures, recipe=recipe, out_dir=tmp_path, resume=False, report=heard.append)
    model = checkpoint.load_file(best)
    assert (model.spec.scale, model.spec.arguments) == (4, {"features": 4})
    assert "3 pictures" in model.spec.training_data
    assert load_recipe(str(tmp_path / "recipe.toml")) == recipe
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [p.step for p in heard] == [3, 6]
    assert all(np.isfinite(float(row["psnr_y"])) for row in rows)


def test_training_learns(pictures: TrainingSet, recipe: TrainRecipe, tmp_path: Path) -> None:
    heard: list[TrainProgress] = []
    longer = replace(recipe, steps=60, validate_every=5, checkpoint_every=60)
    train(pictures, recipe=longer, out_dir=tmp_path, resume=False, report=heard.append)
    assert heard[-1].loss < heard[0].loss


def test_a_folder_that_holds_a_training_is_not_overwritten_without_asking(
    pictures: TrainingSet, recipe: TrainRecipe, tmp_path: Path
) -> None:
    train(pictures, recipe=recipe, out_dir=tmp_path, resume=False)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--resume"):
        train(pictures, recipe=replace(recipe, seed=9), out_dir=tmp_path, resume=False)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_resuming_what_is_not_there_is_an_error(
    pictures: TrainingSet, recipe: TrainRecipe, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot be resumed"):
        train(pictures, recipe=recipe, out_dir=tmp_path, resume=True)


def test_an_unknown_architecture_is_named(
    pictures: TrainingSet, recipe: TrainRecipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="spam"):
        train(pictures, recipe=replace(recipe, architecture="spam"), out_dir=tmp_path, resume=False)


def test_a_folder_without_pictures_is_an_error(recipe: TrainRecipe, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(SourceError, match="no picture to train on"):
        load_pictures(str(tmp_path), recipe=recipe)


def test_a_loss_that_stays_nan_ends_the_training(
    pictures: TrainingSet, recipe: TrainRecipe, tmp_path: Path
) -> None:
    broken = replace(recipe, learning_rate=1e30, steps=40, validate_every=40, warmup_steps=0)
    with pytest.raises(TrainingError, match="lower learning_rate"):
        train(pictures, recipe=broken, out_dir=tmp_path, resume=False)
