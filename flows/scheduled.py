"""When the running flow should have begun, by its schedule, and whether a later run replaces it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


def due() -> datetime | None:
    """Return when the running flow should have begun; None means now.

    A run that a person starts again begins now, whatever its schedule was.
    """
    run = _own_run()
    return None if run is None or run.run_count > 1 else run.expected_start_time


def later_run_due() -> datetime | None:
    """Return when a later run of the same schedule was due, if one waits to begin already.

    So it is where a machine slept through several nights, or no worker ran: the last of these runs
    does the work of all.
    """
    run, own = _own_run(), due()
    if run is None or own is None or not run.auto_scheduled or run.deployment_id is None:
        return None
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING])
        ),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate(
            {"after_": own, "before_": datetime.now(UTC)}
        ),
    )
    with get_client(sync_client=True) as client:
        waiting = client.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1
        )
    last = waiting[0].expected_start_time if waiting else None
    return last if last is not None and last > own else None


def _own_run() -> FlowRun | None:
    context = FlowRunContext.get()
    return None if context is None else context.flow_run
