"""Runs that Prefect believes are going on although their process is gone: found, and marked so.

A process that is killed reports nothing. That it is gone is seen on its own machine, which has no
such process; of another machine it is believed once the run gave no sign of life for `SILENT_S`,
and nobody holds its job. The lock of the job alone says too little: a run that wrote its last tile
lets go of it, and then writes the report.
Prefect's own automations for this are left alone: they have marked runs that had completed.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled, Crashed

from flows.services.deployments import POOL
from flows.services.event_order import send_event
from flows.services.heartbeat import SILENT_S, place_of
from flows.services.notifications import tell
from pipeline.constants import JOB_LOCK
from pipeline.errors import JobBusyError
from pipeline.storage.locks import hold_to_read

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

    from pipeline.storage.store import Place

_LOG = logging.getLogger("upres.serve")
_UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_PAGE = 200
_LATE = timedelta(minutes=1)


def mark_dead_runs(client: SyncPrefectClient, *, alone: bool) -> list[str]:
    """Mark the runs that are dead; return their names.

    `alone` says that nobody else takes runs from the server, so that one without a process has
    lost whoever was to start it.
    """
    now = _now(client)

    def is_dead(run: FlowRun) -> bool:
        place = place_of(run)
        if place is None:
            return alone
        if place.is_here or (alone and not place.host):
            return not place.lives()
        # After the server was away, runs of others need a moment to say that they live: see Watch.
        return alone and _is_silent(run, now) and _is_free(run)

    dead = [run for run in _under_way(client) if is_dead(run)]
    for run in dead:
        if run.state is not None:  # A server that was just started has not seen its event.
            send_event(run.id, run.state)
    return _marked(client, dead)


class Watch:
    """Looks for dead runs now and then, those of other machines among them."""

    def __init__(self) -> None:
        self._silent: set[UUID] = set()

    def look(self, client: SyncPrefectClient) -> list[str]:
        """Mark the runs that are silent, and were so at the look before; return their names.

        Between two looks, a run that lives gives a sign of it, even if the server was away before.
        """
        before, self._silent = self._silent, set()  # A look that fails says nothing of the next.
        now = _now(client)
        silent = [run for run in _under_way(client) if _is_lost(run, now)]
        self._silent = {run.id for run in silent}
        return _marked(client, [run for run in silent if run.id in before])


def mark_dead_runs_of(job_dir: Place) -> list[str]:
    """Mark the dead runs on a job that the run of this process holds; return their names.

    Whether a worker or a script began them. One that lives, or whose machine may only be slow to
    say so, is left to find the job held, or to write the report that it was about to write.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return []
    own, folder = context.flow_run.id, os.path.realpath(str(job_dir))

    def is_dead(run: FlowRun) -> bool:
        asked, place = run.parameters.get("job_dir"), place_of(run)
        if run.id == own or not asked or os.path.realpath(str(asked)) != folder:
            return False
        return not place.lives() if place and place.is_here else _is_silent(run, now)

    with get_client(sync_client=True) as client:
        now = _now(client)
        going = _runs(client, [StateType.RUNNING, StateType.CANCELLING], pool="")
        return _marked(client, [run for run in going if is_dead(run)])


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


def _marked(client: SyncPrefectClient, runs: list[FlowRun]) -> list[str]:
    """Mark runs; return the names of those whose change the server accepts.

    It refuses some for minutes, such as a run whose deployment was deleted on its pages: that must
    not hold back the others, nor `upres serve`.
    """
    names = []
    for run in runs:
        try:
            names.append(_mark(client, run))
        except PrefectHTTPStatusError as error:
            said = f"{error.response.status_code} {error.response.reason_phrase}"
            _LOG.warning(
                "run %s is dead, but cannot be marked so at the moment: %s", run.name, said
            )
    return names


def _mark(client: SyncPrefectClient, run: FlowRun) -> str:
    message = "its process is gone, killed or with its machine; the next run goes on from there"
    cancelling = run.state_type == StateType.CANCELLING
    state: State[Any] = Cancelled(message=message) if cancelling else Crashed(message=message)
    client.set_flow_run_state(run.id, state, force=True)
    tell(client.read_flow(run.flow_id), run, state)
    return run.name


def _is_silent(run: FlowRun, now: datetime) -> bool:
    """Return whether a run gave no sign of life, nor was changed in any other way, for long."""
    return run.updated is None or now - run.updated > timedelta(seconds=SILENT_S)


def _is_lost(run: FlowRun, now: datetime) -> bool:
    """Return whether a run that had a process is silent, and nothing shows that it lives."""
    place = place_of(run)
    if place is None or not _is_silent(run, now):
        return False
    return not (place.is_here and place.lives()) and _is_free(run)


def _is_free(run: FlowRun) -> bool:
    """Return whether no run holds the job of this one, as far as this machine sees its folder."""
    lock = Path(str(run.parameters.get("job_dir") or "")) / JOB_LOCK
    if not lock.is_file():
        return True
    try:
        with hold_to_read(lock, lock.parent, "a look at who lives"):
            return True
    except JobBusyError:
        return False


def _now(client: SyncPrefectClient) -> datetime:
    """Return what the clock of the server shows, by which it says when a run was changed."""
    said = client.hello().headers.get("date", "")
    with suppress(ValueError):
        return parsedate_to_datetime(said)
    return datetime.now(UTC)


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
            sys.stderr.write(f"run {name} had lost its process, now marked as crashed\n")


if __name__ == "__main__":
    main()
