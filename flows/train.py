"""The flow that trains a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.client.schemas.objects import State

from flows.commands.training import train as command
from flows.endings import Ending, ended
from flows.parameters import filled_from
from flows.run_listening import FlowListener
from flows.run_names import name_of_run
from flows.services.notifications import notified
from pipeline.compute.submission import Stop
from pipeline.reports.dataset_report import write_dataset_report
from pipeline.training import run
from pipeline.training.request import TrainRequest
from pipeline.training.run import TrainListener, TrainResult

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


@task
def train_network(request: TrainRequest) -> TrainResult:
    """Train by the recipe."""
    return run.run_training(
        request,
        stop=Stop(),
        write_report=write_dataset_report,
        listener=TrainFlowListener(f"training {request.out_dir.name}", request.out_dir),
    )


@flow(name="train-model", flow_run_name=name_of_run, **notified)
@filled_from(TrainRequest, command=command)
def train_model(**asked: Any) -> State[Any]:
    """Train a network by a recipe, on a dataset or on pictures; with `resume`, go on with it."""
    return ended(lambda: _train(TrainRequest(**asked)))


def _train(request: TrainRequest) -> Ending:
    return Ending(document=train_network(request).to_json())
