"""The flow of a schedule: every night what is new, until the time is up."""

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


@flow(name="nightly", flow_run_name=name_of_run, **notified)
@filled_from(UpscaleRequest, command=command)
def nightly(**asked: Any) -> State[Any]:
    """Ingest what is new at `src`, upscale, score and export it, and write the report.

    Each night continues where the night before ended. It stops by itself at `until`, or after
    `budget`. What is left then is done in the next night.
    """
    return ended(lambda: _upscale(UpscaleRequest(**asked)))


def _upscale(request: UpscaleRequest) -> Ending:
    from flows.main_job import carry_out

    return carry_out(request, name="nightly")
