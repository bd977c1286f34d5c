"""What a training needs for its losses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from models.lpips import load_lpips
from models.vgg import vgg
from pipeline.errors import RecipeError
from pipeline.training.objective import FeatureFiles, Objective
from tests.pipeline.training.small_trainings import PLAIN, run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.dataset import Dataset


def test_a_loss_without_its_features_says_how_to_get_them(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"content.*vgg19.*--features"):
        run(dataset, replace(PLAIN, losses={"content": 1.0}), tmp_path)


def test_lpips_as_a_loss_looks_through_vgg16(dataset: Dataset, tmp_path: Path) -> None:
    recipe = replace(PLAIN, losses={"l1": 1.0, "lpips_vgg": 2.0})
    with pytest.raises(RecipeError, match=r"lpips_vgg.*vgg16.*--features"):
        run(dataset, recipe, tmp_path)

    torch.manual_seed(0)
    file = tmp_path / "vgg16_features.safetensors"
    save_file(vgg("vgg16").state_dict(), file)
    objective = Objective.of(recipe, FeatureFiles((file,)), device=torch.device("cpu"))
    sr, hr = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    losses = objective.of_generator(sr, hr, step=0, discriminator=None)
    assert losses.keys() == {"l1", "lpips_vgg"}
    assert torch.allclose(losses["lpips_vgg"], 2 * load_lpips(file, net="vgg")(sr, hr).mean())
