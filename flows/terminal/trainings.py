"""Trainings as text: the figures of a validation, and the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.terminal.datasets import result_text as prepared_text
from flows.terminal.datasets import show_failures
from flows.terminal.listening import Terminal
from flows.terminal.printing import number_of, visible
from pipeline.training.run import TrainListener

if TYPE_CHECKING:
    from pipeline.dataset.run import PrepareResult
    from pipeline.training.review import TrainProgress
    from pipeline.training.run import TrainResult
    from pipeline.training.validation import Validation


class TrainTerminal(Terminal, TrainListener):
    """Shows the progress of a training and remarks on stderr."""

    def prepared(self, result: PrepareResult) -> None:
        """Show what became of the pictures."""
        show_failures(result.status, result.remarks)
        click.echo(prepared_text(result), err=True)

    def validated(self, progress: TrainProgress) -> None:
        """Show a line of figures."""
        click.echo(
            f"step {progress.step} of {progress.steps}: loss {progress.loss:.5f}, "
            f"{_scores(progress.validation)}"
            f"waited for data {progress.waiting_share:.1%} of the time",
            err=True,
        )


def result_text(result: TrainResult) -> str:
    """Return the result of a training as text."""
    shown = {
        "model": result.model or "none yet, as nothing was validated",
        "steps": f"{result.steps} of {result.of_steps}",
        "dataset": result.dataset,
        "patches": ", ".join(f"{count} {split}" for split, count in result.patches.items()),
        "LR": ", ".join(result.lr_versions),
    }
    if result.rejected is not None:
        shown["rejected"] = number_of(result.rejected, "picture")
    return "\n".join(f"{key:18} {visible(str(value))}" for key, value in shown.items())


def _scores(validation: Validation | None) -> str:
    if validation is None:
        return ""
    scores = [f"PSNR-Y {validation.psnr_y:.2f} dB"]
    if validation.ssim_y is not None:
        scores.append(f"SSIM-Y {validation.ssim_y:.4f}")
    if validation.lpips is not None:
        scores.append(f"LPIPS {validation.lpips:.4f}")
    return "".join(f"{score}, " for score in scores)
