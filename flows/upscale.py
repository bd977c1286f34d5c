"""The flow of the main job: ingest, upscale, score, export, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.commands.jobs import upscale as command
from flows.endings import ended
from flows.parameters import filled_from
from flows.run_names import name_of_run
from flows.services.notifications import notified
from pipeline.jobs.request import UpscaleRequest

if TYPE_CHECKING:
    from flows.endings import Ending


@flow(name="upscale-archive", flow_run_name=name_of_run, **notified)
@filled_from(UpscaleRequest, command=command)
def upscale_archive(**asked: Any) -> State[Any]:
    """Upscale everything at `src` into the job, score it, export it, and write the report.

    The result is what ``upres upscale --json`` prints, and also ``scores`` and ``report``.
    """
    return ended(lambda: _upscale(UpscaleRequest(**asked)))


def _upscale(request: UpscaleRequest) -> Ending:
    from flows.main_job import carry_out

    return carry_out(request, name="upscale-archive")
