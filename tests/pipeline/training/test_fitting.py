"""Whether a recipe fits the patches of a dataset, and what is fitted to their number."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import RecipeError
from pipeline.recipes.training import load_recipe
from tests.pipeline.training.small_trainings import PLAIN, make, run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.dataset import Dataset
    from tests.conftest import TakePhoto


@pytest.mark.slow
def test_epochs_are_steps_of_the_patches_that_there_are(dataset: Dataset, tmp_path: Path) -> None:
    """24 patches to train on: two passes in batches of 5 are 9.6 steps."""
    made: list[int] = []
    recipe = replace(PLAIN, epochs=2, batch=5)
    run(dataset, recipe, tmp_path, tick=lambda step, of: made.append(of))
    assert made == [10] * 10
    begun = load_recipe(str(tmp_path / "recipe.toml"))
    assert (begun.epochs, begun.steps) == (0, 10)
    assert recipe.of_patches(24, processes=2).steps == 5


@pytest.mark.slow
def test_a_batch_is_no_larger_than_all_patches_and_that_is_told_and_kept(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = run(dataset, replace(PLAIN, batch=64), tmp_path / "64")
    assert "batch is 24 instead of 64: there are 24 patches to train on" in caplog.messages
    assert load_recipe(str(tmp_path / "64" / "recipe.toml")).batch == 24
    two = run(dataset, replace(PLAIN, batch=24), tmp_path / "24")
    assert one.read_bytes() == two.read_bytes()
    assert replace(PLAIN, batch=64).of_patches(24, processes=5).batch == 4
    assert replace(PLAIN, batch=4).of_patches(24, processes=6) == replace(PLAIN, batch=4)


def test_patches_that_leave_nothing_to_score_are_refused(photo: TakePhoto, tmp_path: Path) -> None:
    small = make(tmp_path / "d", photo, side=4)
    with pytest.raises(RecipeError, match="are 4x4 px, of which a border of 2 is not scored"):
        run(small, PLAIN, tmp_path / "out")
    run(small, replace(PLAIN, validation_patches=0, steps=1), tmp_path / "out")


def test_a_rate_that_falls_by_validation_needs_some(dataset: Dataset, tmp_path: Path) -> None:
    blind = replace(PLAIN, schedule="plateau", validation_patches=0)
    with pytest.raises(RecipeError, match="nothing is validated"):
        run(dataset, blind, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "spam"}, "spam"),
        ({"scale": 4}, "has scale 2"),
        ({"channels": 1}, "3 channels"),
        ({"lr_versions": ["bicubix"]}, "bicubix"),
        ({"arguments": {"feature": 4}}, "feature"),
    ],
)
def test_what_does_not_fit_is_told(
    change: dict[str, object], words: str, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=words):
        run(dataset, replace(PLAIN, **change), tmp_path)  # type: ignore[arg-type]
