"""What the tests of training share: patches to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pipeline.training.small_trainings import make, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.dataset import Dataset
    from tests.conftest import TakePhoto


@pytest.fixture(scope="session", autouse=True)
def _few_curves(curves_drawn_once: None) -> None:
    """Take `curves_drawn_once`: nearly every test here trains."""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto) -> Dataset:
    return make(tmp_path_factory.mktemp("patches") / "d", photo)


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, dataset: Dataset
) -> Callable[[TrainRecipe], Path]:
    """Return the folder of a training that nothing disturbed; of each recipe it is made once.

    It is to be read, or copied.
    """
    folders: dict[str, Path] = {}

    def train(recipe: TrainRecipe) -> Path:
        key = recipe.to_toml()
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("undisturbed")
            run(dataset, recipe, folders[key])
        return folders[key]

    return train
