"""What a training needs for its losses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import RecipeError
from tests.pipeline.training.small_trainings import PLAIN, run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.dataset import Dataset


def test_a_loss_without_its_features_says_how_to_get_them(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"content.*vgg19.*--features"):
        run(dataset, replace(PLAIN, losses={"content": 1.0}), tmp_path)
