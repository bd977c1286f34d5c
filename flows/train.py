"""What `upres train` starts: pictures in, checkpoints out, progress on the terminal."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from flows.progress import counted
from pipeline.config import load_recipe
from pipeline.train import TrainProgress, load_pictures, train

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def run_training(
    src: str,
    recipe_name: str,
    settings: Iterable[str],
    *,
    out_dir: Path,
    validation: str | None,
    resume: bool,
) -> dict[str, Any]:
    """Train by a recipe; return where the best checkpoint lies and what it was trained on."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    recipe = load_recipe(recipe_name, settings=settings)
    pictures = load_pictures(src, recipe=recipe, validation_source=validation)

    def tell(progress: TrainProgress) -> None:
        click.echo(
            f"step {progress.step} of {progress.steps}: loss {progress.loss:.5f}, "
            f"PSNR-Y {progress.psnr_y:.2f} dB, SSIM-Y {progress.ssim_y:.4f}, "
            f"waited for data {progress.waiting_share:.1%} of the time",
            err=True,
        )

    with counted("train", "steps") as tick:
        best = train(
            pictures, recipe=recipe, out_dir=out_dir, resume=resume, tick=tick, report=tell
        )
    return {
        "model": str(best),
        "pictures": len(pictures.pairs),
        "validation": len(pictures.validation),
        "rejected": len(pictures.rejected),
    }
