"""The flow of a schedule: every night what is new, until the time is up."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.commands.jobs import upscale as command
from flows.endings import ended
from flows.parameters import filled_from
from flows.run_names import name_of_run
from flows.services.notifications import notified
from flows.upscale import carry_out
from pipeline.jobs.request import UpscaleRequest


@flow(name="nightly", flow_run_name=name_of_run, **notified)
@filled_from(UpscaleRequest, command=command)
def nightly(**asked: Any) -> State[Any]:
    """Ingest what is new at `src`, upscale, score and export it, and write the report.

    Each night continues where the night before ended. It stops by itself at `until`, or after
    `budget`. What is left then is done in the next night.
    """
    return ended(lambda: carry_out(UpscaleRequest(**asked), name="nightly"))
