"""The flow that prepares a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.commands.datasets import prepare as command
from flows.endings import Ending, ended
from flows.parameters import filled_from
from flows.patience import patient
from flows.run_names import name_of_run
from flows.services.notifications import notified
from flows.terminal.datasets import NO_PATCH
from pipeline.dataset.request import PrepareRequest

if TYPE_CHECKING:
    from pipeline.dataset.run import PrepareResult


@patient
def prepare_patches(request: PrepareRequest) -> PrepareResult:
    """Make the patches that are missing."""
    from flows.run_listening import FlowListener
    from pipeline.compute.stop import Stop
    from pipeline.dataset import run
    from pipeline.reports.dataset_report import write_dataset_report

    listener = FlowListener(f"dataset {request.dataset_dir.name}", request.dataset_dir)
    listener.connects(request.cluster_settings())
    result = run.prepare_dataset(
        request, stop=Stop(), write_report=write_dataset_report, listener=listener
    )
    listener.failed(tuple(result.status.failures))
    return result


@flow(name="prepare-dataset", flow_run_name=name_of_run, **notified)
@filled_from(PrepareRequest, command=command)
def prepare_dataset(**asked: Any) -> State[Any]:
    """Prepare a dataset of training patches, or go on with it, and write its report."""
    return ended(lambda: _prepare(PrepareRequest(**asked)))


def _prepare(request: PrepareRequest) -> Ending:
    result = prepare_patches(request)
    return Ending(document=result.to_json(), trouble=_trouble(result))


def _trouble(result: PrepareResult) -> str:
    status = result.status
    if not result.has_patches:
        return NO_PATCH
    if status.complete:
        return ""
    pictures, chunks = status.pictures.items, status.chunks.units
    parts = [
        *(
            [f"{pictures['rejected']:,} of {sum(pictures.values()):,} pictures were rejected"]
            if pictures["rejected"]
            else []
        ),
        *(
            [f"{chunks['failed']:,} of {sum(chunks.values()):,} chunks failed"]
            if chunks["failed"]
            else []
        ),
    ]
    return f"{', '.join(parts) or 'chunks are missing'}; run the same flow again to continue"
