"""What `upres train` starts: a dataset or pictures in, checkpoints out, progress told."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.prepare import PrepareOptions, PrepareRequest, run_prepare
from flows.progress import counted
from pipeline.cluster import ClusterSettings
from pipeline.config import PREPARE, recipe_names
from pipeline.errors import SourceError, UsageError
from pipeline.inference import resolve_device
from pipeline.storage.dataset import Dataset, is_dataset
from pipeline.training.loop import (
    BEST,
    RECIPE,
    TrainProgress,
    TrainSettings,
    check_folder,
    train,
)
from pipeline.training.objective import FeatureFiles
from pipeline.training.processes import Processes, joined
from pipeline.training.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.cluster import Stop
    from pipeline.training.recipe import TrainRecipe

PATCHES = "patches"
"""Where below the output the dataset lies that pictures were prepared into."""


def run_training(
    src: str,
    recipe_name: str | None,
    settings: Sequence[str],
    *,
    out_dir: Path,
    features: Sequence[Path],
    device: str,
    workers: int,
    memory: str,
    resume: bool,
    stop: Stop,
) -> dict[str, Any]:
    """Train by a recipe; return where the best checkpoint lies and what it was trained on."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    start = f"{PREPARE}."
    own = [setting for setting in settings if not setting.startswith(start)]
    prepared = [s.removeprefix(start) for s in settings if s.startswith(start)]
    # Before pictures are prepared for nothing.
    check_folder(out_dir, resume=resume)
    recipe = _recipe(recipe_name, own, out_dir=out_dir, resume=resume)
    with joined(resolve_device(device)) as processes:
        path, rejected = _dataset(
            src,
            recipe_name if prepared or not resume else None,
            prepared,
            out_dir=out_dir,
            processes=processes,
            stop=stop,
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
            end = train(
                dataset,
                recipe,
                wanted,
                files=FeatureFiles(tuple(features)),
                processes=processes,
                tick=tick if processes.leads else lambda _step, _of: None,
                report=_tell,
                stop=stop,
            )
    best = out_dir / BEST
    return {
        "model": str(best) if best.exists() else None,
        "steps": end.step,
        "of_steps": end.steps,
        "dataset": str(path),
        "patches": patches,
        "rejected": rejected,
    }


def _recipe(
    name: str | None, settings: Sequence[str], *, out_dir: Path, resume: bool
) -> TrainRecipe:
    """Return the recipe of that name, or the one that the training in `out_dir` was begun with.

    Raises:
        UsageError: if there is none, or the training was begun with another.
    """
    if not resume:
        if name is None:
            raise UsageError(f"--recipe is missing; recipes are {', '.join(recipe_names())}")
        return load_recipe(name, settings=settings)
    begun = load_recipe(str(out_dir / RECIPE), settings=settings)
    if name is not None:
        given = load_recipe(name, settings=settings)
        if given.name != begun.name:
            raise UsageError(
                f"{out_dir} was begun with recipe {begun.name}, not {given.name}; leave --recipe "
                "out, or name another folder"
            )
        _tell_differences(begun, given)
    return begun


def _tell_differences(begun: TrainRecipe, given: TrainRecipe) -> None:
    """Say where a training goes on as it was begun, and not as its recipe has it."""
    kept = {k: v for k, v in asdict(begun).items() if v != getattr(given, k)}
    if kept:
        told = ", ".join(f"{key} = {value}" for key, value in kept.items())
        click.echo(f"goes on as it was begun: {told}; --set changes that", err=True)


def _dataset(
    src: str,
    recipe_name: str | None,
    settings: Sequence[str],
    *,
    out_dir: Path,
    processes: Processes,
    stop: Stop,
) -> tuple[Path, int]:
    """Return the dataset at `src`, or the one that its pictures are prepared into first.

    Without the name of a recipe it is prepared as it was before.

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
        document, text, _ = run_prepare(request, ClusterSettings(), stop=stop, how=PrepareOptions())
        if stop.requested:
            raise KeyboardInterrupt
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
