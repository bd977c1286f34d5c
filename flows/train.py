"""What `upres train` starts: a dataset or pictures in, checkpoints out, progress told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.prepare import PrepareOptions, PrepareRequest, run_prepare
from flows.progress import counted
from pipeline.cluster import ClusterSettings, Stop
from pipeline.config import PREPARE
from pipeline.errors import SourceError
from pipeline.inference import resolve_device
from pipeline.storage.dataset import Dataset, is_dataset
from pipeline.training.loop import TrainProgress, TrainSettings, check_folder, train
from pipeline.training.objective import FeatureFiles
from pipeline.training.processes import Processes, joined
from pipeline.training.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

PATCHES = "patches"
"""Where below the output the dataset lies that pictures were prepared into."""


def run_training(
    src: str,
    recipe_name: str,
    settings: Sequence[str],
    *,
    out_dir: Path,
    features: Sequence[Path],
    device: str,
    workers: int,
    memory: str,
    resume: bool,
) -> dict[str, Any]:
    """Train by a recipe; return where the best checkpoint lies and what it was trained on."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    start = f"{PREPARE}."
    own = [setting for setting in settings if not setting.startswith(start)]
    recipe = load_recipe(recipe_name, settings=own)
    # Before pictures are prepared for nothing.
    check_folder(out_dir, resume=resume)
    with joined(resolve_device(device)) as processes:
        path, rejected = _dataset(
            src,
            recipe_name,
            [setting.removeprefix(start) for setting in settings if setting.startswith(start)],
            out_dir=out_dir,
            processes=processes,
        )
        dataset = Dataset.open(path)
        statistics = dataset.statistics()
        patches = {name: found["patches"] for name, found in statistics.items()}
        pictures = len({o.item for m in dataset.manifests() for o in m.origins if o.split})
        wanted = TrainSettings(
            out_dir=out_dir,
            resume=resume,
            workers=workers,
            memory=memory,
            data=f"{patches['train']} patches, with validation and test of {pictures} pictures",
        )
        with counted("train", "steps") as tick:
            best = train(
                dataset,
                recipe,
                wanted,
                files=FeatureFiles(tuple(features)),
                processes=processes,
                tick=tick if processes.leads else lambda _step, _of: None,
                report=_tell,
            )
    return {"model": str(best), "dataset": str(path), "patches": patches, "rejected": rejected}


def _dataset(
    src: str,
    recipe_name: str,
    settings: Sequence[str],
    *,
    out_dir: Path,
    processes: Processes,
) -> tuple[Path, int]:
    """Return the dataset at `src`, or the one that its pictures are prepared into first.

    Raises:
        SourceError: if no patch can be made of the pictures.
    """
    if is_dataset(Path(src)):
        return Path(src), 0
    path = out_dir / PATCHES
    rejected = 0
    if processes.leads:
        request = PrepareRequest.of(
            src, path, recipe=recipe_name, settings=settings, lr_sources=(), licence=None
        )
        document, text, _ = run_prepare(
            request, ClusterSettings(), stop=Stop(), how=PrepareOptions()
        )
        click.echo(text, err=True)
        rejected = document["items"]["rejected"]
        if not document["patches"]["train"]:
            raise SourceError(
                f"{src} gives no patch to train on; {rejected} pictures were rejected"
            )
    processes.mean(0.0)  # The others wait here until the patches are there.
    return path, rejected


def _tell(progress: TrainProgress) -> None:
    found = progress.validation
    scores = ""
    if found is not None:
        ssim = "" if found.ssim_y is None else f", SSIM-Y {found.ssim_y:.4f}"
        lpips = "" if found.lpips is None else f", LPIPS {found.lpips:.4f}"
        scores = f"PSNR-Y {found.psnr_y:.2f} dB{ssim}{lpips}, "
    click.echo(
        f"step {progress.step} of {progress.steps}: loss {progress.loss:.5f}, {scores}"
        f"waited for data {progress.waiting_share:.1%} of the time",
        err=True,
    )
