"""The flow that trains a network."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State

from flows.commands.training import train as command
from flows.endings import Ending, ended
from flows.parameters import filled_from
from flows.run_names import name_of_run
from flows.services.notifications import notified
from pipeline.training.request import TrainRequest


@task
def train_network(request: TrainRequest) -> dict[str, Any]:
    """Train by the recipe; return the result as JSON."""
    from flows.train_listening import TrainFlowListener
    from pipeline.compute.stop import Stop
    from pipeline.reports.dataset_report import write_dataset_report
    from pipeline.training import run

    result = run.run_training(
        request,
        stop=Stop(),
        write_report=write_dataset_report,
        listener=TrainFlowListener(f"training {request.out_dir.name}", request.out_dir),
    )
    return result.to_json()


@flow(name="train-model", flow_run_name=name_of_run, **notified)
@filled_from(TrainRequest, command=command)
def train_model(**asked: Any) -> State[Any]:
    """Train a network by a recipe, on a dataset or on pictures; with `resume`, go on with it."""
    return ended(lambda: _train(TrainRequest(**asked)))


def _train(request: TrainRequest) -> Ending:
    return Ending(document=train_network(request))
