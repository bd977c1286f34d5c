"""Small trainings: a recipe of each kind, patches to train on, and how one is run."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.dataset.prepare import dataset_spec
from pipeline.degradation.apply import degrade_patches
from pipeline.degradation.chain import Degradation
from pipeline.recipes.preparing import PrepareRecipe
from pipeline.recipes.training import TrainRecipe
from pipeline.storage.dataset import Dataset
from pipeline.storage.manifest import Manifest, Origin
from pipeline.training.loop import train
from pipeline.training.objective import FeatureFiles
from pipeline.training.processes import Processes
from pipeline.training.session import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from torch import Tensor

    from pipeline.compute.stop import Stop
    from pipeline.training.review import TrainProgress
    from tests.conftest import TakePhoto

PLAIN = TrainRecipe(
    name="small",
    architecture="span",
    scale=2,
    arguments={"features": 4},
    batch=4,
    steps=6,
    optimiser="muon",
    learning_rate=1e-3,
    schedule="linear",
    warmup_share=1 / 3,
    validate_every=3,
    checkpoint_every=2,
    validation_patches=2,
    precision="fp32",
)
GAN = replace(
    PLAIN,
    discriminator="unet",
    discriminator_arguments={"features": 4},
    losses={"l1": 1.0, "adversarial": 0.1},
    pretrain_share=1 / 3,
    optimiser="adam",
    schedule="plateau",
    patience=0,
)


# All that they have in common with the others is the loop: BatchNorm sees whole batches.
NORMED = replace(
    GAN,
    architecture="srresnet",
    arguments={"features": 4, "blocks": 2},
    discriminator="srgan",
)


def make(
    path: Path,
    photo: TakePhoto,
    *,
    train: int = 24,
    validation: int = 6,
    side: int = 32,
    versions: tuple[str, ...] = ("bicubic",),
) -> Dataset:
    """Return a dataset of square patches cut from a photograph."""
    recipe = PrepareRecipe(
        name="d",
        scale=2,
        extract="random",
        patch_hr_px=side,
        duplicate_bits=-1,
        degradations=[{"name": name} for name in versions],
    )
    dataset = Dataset.open_or_create(path, dataset_spec(recipe))
    many = train + validation
    corners = np.random.default_rng(0).integers(0, min(200, 240 - side), (many, 2))
    picture = photo(240, 240)
    hr = np.stack([picture[:, t : t + side, x : x + side] for t, x in corners])
    seeds = np.arange(many)
    origins = [Origin(item=f"{n}.png", sha256="00", split=n) for n in ("train", "validation")]
    pictures = (seeds >= train).astype(np.int64)
    none = np.array([], dtype=np.uint64)
    dataset.put_manifest(0, Manifest(tuple(origins), seeds, pictures, corners, seeds, none))
    dataset.grow(many)
    arrays = {"hr": hr}
    for name in versions:
        degradation = Degradation.from_table({"name": name}, scale=2)
        arrays[f"lr_{name}"] = degrade_patches(hr, seeds.tolist(), degradation, scale=2)
    dataset.write(0, arrays)
    return dataset


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what upres logged; on a busy machine, Dask's workers of other tests log too."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("pipeline.")]


def run(
    dataset: Dataset,
    recipe: TrainRecipe,
    out: Path,
    *,
    resume: bool = False,
    tick: Callable[[int, int], None] = lambda _step, _of: None,
    heard: list[TrainProgress] | None = None,
    stop: Stop | None = None,
    files: FeatureFiles | None = None,
) -> Path:
    train(
        dataset,
        recipe,
        TrainSettings(out_dir=out, resume=resume, memory="ram", data="24 patches"),
        files=files or FeatureFiles(),
        processes=Processes(torch.device("cpu")),
        tick=tick,
        report=(heard if heard is not None else []).append,
        stop=stop,
    )
    return out / "best.safetensors"


def held_out(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return LR and HR, in 0..1, of the patches that are validated."""
    rows = dataset.rows("validation")
    rows = rows[np.linspace(0, len(rows) - 1, PLAIN.validation_patches).round().astype(int)]
    lr, hr = (torch.from_numpy(dataset.read(n, rows)).float() / 255 for n in ("lr_bicubic", "hr"))
    return lr, hr


def interrupted(after: int) -> Callable[[int, int], None]:
    def tick(step: int, _of: int) -> None:
        if step == after:
            raise KeyboardInterrupt

    return tick


def told(out: Path) -> list[dict[str, str]]:
    """Return the figures of a training, without those that a clock made."""
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "waiting_s")} for row in rows]
