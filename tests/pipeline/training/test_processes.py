"""Several processes share one training."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline.training.small_trainings import GAN, NORMED, PLAIN, run, told

if TYPE_CHECKING:
    from pipeline.recipes.training import TrainRecipe
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

dataset, recipe, out = sys.argv[1:]
with joined("cpu") as processes:
    train(
        Dataset.open(Path(dataset)), load_recipe(recipe),
        TrainSettings(out_dir=Path(out), memory="ram"),
        files=FeatureFiles(), processes=processes,
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [PLAIN, GAN, NORMED], ids=["plain", "gan", "normed"])
def test_two_processes_train_as_one_with_the_doubled_batch(
    recipe: TrainRecipe, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "recipe.toml").write_text(replace(recipe, optimiser="adam").to_toml())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(tmp_path / "script.py"), str(dataset.path), str(tmp_path / "recipe.toml")]
    root = Path(__file__).parents[3]
    shared = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen([sys.executable, *words, str(tmp_path / "two")], env=env)
        for env in ({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    run(dataset, replace(recipe, optimiser="adam", batch=8), tmp_path / "one")
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-4, rtol=1e-2)
    found = [told(tmp_path / name)[-1] for name in ("one", "two")]
    for column, within in (("loss", 0.003), ("discriminator", 0.003), ("accuracy", 0.2)):
        a, b = (float(row[column] or "nan") for row in found)
        assert b == pytest.approx(a, rel=within, nan_ok=True), column
