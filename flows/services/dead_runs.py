"""Runs that Prefect believes are going on although their process is gone: found, and marked so.

A process that is killed reports nothing. That it is gone is seen from this machine (no such
process), or from the lock of its job (who holds that knows that no other run goes on there).
Prefect's own automations for this are left alone: they have marked runs that had completed.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Crashed

from flows.services.deployments import POOL
from flows.services.notifications import tell

if TYPE_CHECKING:
    from pathlib import Path

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

_UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_PAGE = 200
_LATE = timedelta(minutes=1)


def mark_dead_runs(client: SyncPrefectClient, *, alone: bool) -> list[str]:
    """Mark the runs whose process was on this machine and is gone; return their names.

    `alone` says that nobody else takes runs from the server, so that one without a process has
    lost whoever was to start it.
    """
    return [_mark(client, run) for run in _under_way(client) if _is_dead(run, alone=alone)]


def mark_dead_runs_of(job_dir: Path) -> list[str]:
    """Mark all other runs on a job whose lock the run of this process holds; return their names.

    Whichever machine they were on, and whether a worker or a script began them: the lock says that
    they are gone. One with a living process here, or without one that is known of and begun later
    than this, is left to find the job held.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return []
    own, place = context.flow_run.id, os.path.realpath(job_dir)

    def is_dead(run: FlowRun) -> bool:
        asked = run.parameters.get("job_dir")
        return bool(
            asked
            and run.id != own
            and run.state_type in (StateType.RUNNING, StateType.CANCELLING)
            and os.path.realpath(str(asked)) == place
            and (_process_of(run) is not None or _began_before(run, context.start_time))
            and not _lives_here(run)
        )

    with get_client(sync_client=True) as client:
        return [_mark(client, run) for run in _runs(client, _UNDER_WAY, pool="") if is_dead(run)]


def cancel_missed_runs(client: SyncPrefectClient) -> int:
    """Cancel what was due while nobody served, but for the last run of each job; return how many.

    The last one still begins: what three nights missed, one run does.
    """
    before = FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC) - _LATE})
    late = [
        run
        for run in _runs(client, [StateType.SCHEDULED], expected_start_time=before)
        if run.auto_scheduled
    ]
    newest = {run.deployment_id: run.id for run in late}
    missed = [run for run in late if newest[run.deployment_id] != run.id]
    for run in missed:
        state: State[Any] = Cancelled(
            message="missed: `upres serve` did not run; a later run does its work"
        )
        client.set_flow_run_state(run.id, state, force=True)
    return len(missed)


def _mark(client: SyncPrefectClient, run: FlowRun) -> str:
    message = "its process is gone, killed or with its machine; the next run goes on from there"
    cancelling = run.state_type == StateType.CANCELLING
    state: State[Any] = Cancelled(message=message) if cancelling else Crashed(message=message)
    client.set_flow_run_state(run.id, state, force=True)
    tell(client.read_flow(run.flow_id), run, state)
    return run.name


def _is_dead(run: FlowRun, *, alone: bool) -> bool:
    pid = _process_of(run)
    if pid is None:
        return alone
    return _is_of_here(run, alone=alone) and not _lives_here(run)


def _is_of_here(run: FlowRun, *, alone: bool) -> bool:
    """Return whether a run's process is, or was, on this machine: workers say it, or nobody."""
    host = (run.infrastructure_pid or "").rpartition(":")[0]
    return alone if not host else host == socket.gethostname()


def _lives_here(run: FlowRun) -> bool:
    """Return whether its process is on this machine, and not another one with its number."""
    pid = _process_of(run)
    if pid is None:
        return False
    began = run.start_time.timestamp() if run.start_time else time.time()
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return not dead and bool(process.create_time() <= began + 5.0)
    return False


def _began_before(run: FlowRun, moment: datetime) -> bool:
    return run.start_time is not None and run.start_time < moment


def _process_of(run: FlowRun) -> int | None:
    """Return the number of a run's process; None where it has none yet."""
    pid = (run.infrastructure_pid or "").rpartition(":")[2]
    return int(pid) if pid.isdecimal() else None


def _under_way(client: SyncPrefectClient) -> list[FlowRun]:
    return _runs(client, _UNDER_WAY)


def _runs(
    client: SyncPrefectClient,
    states: list[StateType],
    expected_start_time: FlowRunFilterExpectedStartTime | None = None,
    *,
    pool: str = POOL,
) -> list[FlowRun]:
    """Return the runs of a pool, or of all and none where it is "", by when they were due."""
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
        expected_start_time=expected_start_time,
    )
    of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])) if pool else None
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(
        flow_run_filter=wanted,
        work_pool_filter=of_pool,
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=_PAGE,
        offset=len(runs),
    ):
        runs += page
    return runs


def main() -> None:
    """Mark the runs that are dead, before the only worker of the pool is started."""
    with get_client(sync_client=True) as client:
        for name in mark_dead_runs(client, alone=True):
            sys.stderr.write(f"run {name} had lost its process, now marked crashed\n")


if __name__ == "__main__":
    main()
