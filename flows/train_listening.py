"""Progress of a training, as lines in the log that Prefect keeps of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.run_listening import FlowListener
from pipeline.training.run import TrainListener

if TYPE_CHECKING:
    from pipeline.dataset.run import PrepareResult
    from pipeline.training.review import TrainProgress


class TrainFlowListener(FlowListener, TrainListener):
    """Logs how far a training is."""

    def prepared(self, result: PrepareResult) -> None:
        """Log what became of the pictures."""
        self.failed(tuple(result.status.failures))

    def validated(self, progress: TrainProgress) -> None:
        """Log the figures of a validation."""
        psnr = "" if progress.validation is None else f", PSNR-Y {progress.validation.psnr_y:.2f}"
        self.log(f"step {progress.step} of {progress.steps}: loss {progress.loss:.5f}{psnr}")
