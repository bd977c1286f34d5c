"""Several processes share one training."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline.training.small_trainings import GAN, NORMED, PLAIN, run, told
from tests.ports import free_port

if TYPE_CHECKING:
    from pipeline.storage.dataset import Dataset

SCRIPT = """
import sys
from pathlib import Path
from pipeline.storage.dataset import Dataset
from pipeline.training.loop import train
from pipeline.training.session import TrainSettings
from pipeline.training.objective import FeatureFiles
from pipeline.training.processes import joined
from pipeline.recipes.training import load_recipe

dataset, *recipes = sys.argv[1:]
with joined("cpu") as processes:
    for recipe in recipes:
        train(
            Dataset.open(Path(dataset)), load_recipe(recipe),
            TrainSettings(out_dir=Path(recipe).with_suffix(""), memory="ram"),
            files=FeatureFiles(), processes=processes,
        )
"""
"""Two of these train by one recipe after the other: to start them takes longer than to train."""

RECIPES = {
    name: replace(recipe, optimiser="adam")
    for name, recipe in {"plain": PLAIN, "gan": GAN, "normed": NORMED}.items()
}


@pytest.fixture(scope="module")
def trained_by_two(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with a result folder of two processes for each recipe."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    for name, recipe in RECIPES.items():
        (folder / f"{name}.toml").write_text(recipe.to_toml())
    recipes = [str(folder / f"{name}.toml") for name in RECIPES]
    words = [sys.executable, str(folder / "script.py"), str(dataset.path), *recipes]
    root = Path(__file__).parents[3]
    shared = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(words, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=600) for process in started] == [0, 0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_train_as_one_with_the_doubled_batch(
    name: str, trained_by_two: Path, dataset: Dataset, tmp_path: Path
) -> None:
    run(dataset, replace(RECIPES[name], batch=8), tmp_path)
    results = (tmp_path, trained_by_two / name)
    one, two = (load_file(folder / "last.safetensors") for folder in results)
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=2e-4, rtol=1e-2)
    found = [told(folder)[-1] for folder in results]
    for column, within in (("loss", 0.003), ("discriminator", 0.003), ("accuracy", 0.2)):
        a, b = (float(row[column] or "nan") for row in found)
        assert b == pytest.approx(a, rel=within, nan_ok=True), column
