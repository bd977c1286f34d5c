"""How runs are called in Prefect's lists: by flow, by what they work on, and by when."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

from flows.terminal.printing import visible
from pipeline.errors import UsageError
from pipeline.jobs.budget import zone_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.client.schemas.objects import FlowRun

_MADE_UP = re.compile(r"[A-Za-z0-9']+(-[A-Za-z0-9']+)+")
"""How Prefect names a run for which nobody typed a name: ``singing-dove`` where a command begins
it, and what its forms are filled in with, ``alpha2-yoshida-g`` or ``Practical-Pug``."""

_FOLDERS = ("job_dir", "dataset_dir", "out_dir")


def name_of_run() -> str:
    """Return what to call the flow run of this process: ``nightly photos 2026-11-28 02:00``.

    The time is the one at which it was due, as the clocks in the time zone of its schedule show it.
    A name that a person typed stays, unless it looks like one that Prefect makes up.
    """
    context = FlowRunContext.get()
    if context is None or context.flow is None or context.flow_run is None:
        return "run"
    name = context.flow_run.name
    if name and not context.flow_run.auto_scheduled and _MADE_UP.fullmatch(name) is None:
        return name
    return name_of(context.flow.name, context.parameters or {}, _due(context.flow_run), _zone)


def name_of(flow: str, parameters: dict[str, Any], due: datetime, zone: Callable[[], str]) -> str:
    """Return what to call a run of `flow`; `zone` is asked where no parameter names a time zone.

    Parameters may be anything that a person typed. The flow refuses what is wrong, not its name.
    """
    folder = str(next((parameters[one] for one in _FOLDERS if parameters.get(one)), ""))
    clocks = due
    with suppress(UsageError):
        clocks = due.astimezone(zone_of(str(parameters.get("timezone") or zone())))
    return visible(
        " ".join(filter(None, [flow, PurePath(folder).name, f"{clocks:%Y-%m-%d %H:%M}"]))
    )


def _due(run: FlowRun) -> datetime:
    return run.expected_start_time or datetime.now(UTC)


def _zone() -> str:
    """Return the time zone of the schedule that made the run; "" for that of this machine."""
    context = FlowRunContext.get()
    run = context and context.flow_run
    if not run or not run.auto_scheduled or run.deployment_id is None:
        return ""
    try:
        with get_client(sync_client=True) as client:
            schedules = client.read_deployment(run.deployment_id).schedules
    except (httpx.HTTPError, PrefectException):
        return ""  # A name is worth no night: the schedule may have been removed meanwhile.
    zones = [one.schedule.timezone for one in schedules if isinstance(one.schedule, CronSchedule)]
    return str(zones[0] or "") if zones else ""
