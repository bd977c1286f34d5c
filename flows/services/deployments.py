"""What can be started and scheduled at a Prefect server: deployments of the six flows.

Each flow has one deployment, from which a person starts it with parameters of their own. A job that
is scheduled has one of its own beside them, of the flow `nightly`. All are for one work pool, whose
runs `upres serve` carries out, or any worker of Prefect's. No two runs of a deployment go on at
once; what keeps two runs from one job is the lock of the job.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib import import_module
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    StateType,
    WorkerStatus,
)
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from pipeline.errors import UsageError
from pipeline.jobs.budget import next_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from uuid import UUID

    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

    from flows.services.scheduling import ScheduledJob

POOL = "upres"
"""The work pool, of the type process."""

NIGHTS = "nights"
"""The queue of the pool that scheduled jobs wait in: as many of them go on at once as its limit
says, for each takes the whole machine. What a person starts waits for none of them."""

BY_HAND = "upres"
"""Name of the deployments that a person starts."""

NIGHTLY = "flows.nightly:nightly"

ENTRYPOINTS = {
    "upscale-archive": "flows.upscale:upscale_archive",
    "nightly": NIGHTLY,
    "rerun-failed": "flows.rerun:rerun_failed",
    "score-archive": "flows.score:score_archive",
    "prepare-dataset": "flows.prepare:prepare_dataset",
    "train-model": "flows.train:train_model",
}

TAG = "upres"
JOB_TAG = "upres-job"
FILE_TAG = "upres-job-config"
ENDED_TAG = "upres-ended"
"""Tags of all deployments, of scheduled jobs, of those that a file of jobs names, and of jobs that
are scheduled no more but whose run goes on."""

MADE_S = 60.0
"""Seconds until a server has made the runs of a new schedule; it looks for such every 5 s."""

_ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A scheduled job as the server knows it."""

    name: str
    at: str
    timezone: str
    until: str
    src: str
    job_dir: str
    next_start: datetime | None
    last_state: str

    def to_json(self) -> dict[str, Any]:
        """Return the same for `--json`."""
        start = self.next_start
        return {
            "name": self.name,
            "at": self.at,
            "timezone": self.timezone,
            "until": self.until,
            "src": self.src,
            "job": self.job_dir,
            "next": start and start.isoformat(),
            "last": self.last_state,
        }


@contextmanager
def client_of_server() -> Iterator[SyncPrefectClient]:
    """Yield a client of the server that the settings name."""
    with get_client(sync_client=True) as client:
        yield client


def register_flows(client: SyncPrefectClient) -> None:
    """Make the work pool and a deployment of each flow, or bring them up to date."""
    make_pool(client)
    cluster = os.environ.get("UPRES_CLUSTER", "")
    for entrypoint in ENTRYPOINTS.values():
        flow = _flow(entrypoint)
        computes_there = cluster and "cluster" in flow.parameters.properties
        asked = {"cluster": cluster} if computes_there else {}
        _apply(flow, name=BY_HAND, tags=[TAG], parameters=asked)


def make_pool(client: SyncPrefectClient) -> None:
    """Make the work pool and the queue of the nights, unless they are there."""
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template)
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)
    with suppress(ObjectAlreadyExists):
        client.create_work_queue(NIGHTS, concurrency_limit=1, work_pool_name=POOL)


def let_nights_take_turns(client: SyncPrefectClient, at_once: int | None) -> None:
    """Let so many scheduled jobs go on at once; None leaves the limit that the server has.

    Those that were scheduled before there was a queue for them are brought into it.
    """
    queue = client.read_work_queue_by_name(NIGHTS, work_pool_name=POOL)
    if at_once is not None:
        client.update_work_queue(queue.id, concurrency_limit=at_once)
    for deployment in _deployments(client):
        if deployment.work_queue_name != NIGHTS:
            moved = DeploymentUpdate(work_pool_name=POOL, work_queue_name=NIGHTS)
            client.update_deployment(deployment.id, moved)


def has_worker(client: SyncPrefectClient) -> bool:
    """Return whether somebody carries out what is scheduled."""
    return any(
        worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(POOL)
    )


def schedule_job(client: SyncPrefectClient, job: ScheduledJob, *, tags: Iterable[str] = ()) -> str:
    """Let a job run every night, from now on as `job` says; return the name of its deployment."""
    make_pool(client)
    name = _name_of(job, _deployments(client))
    schedule = CronSchedule(cron=job.cron, timezone=job.timezone)
    _apply(
        _flow(NIGHTLY),
        name=name,
        tags=[TAG, JOB_TAG, *tags],
        parameters=job.parameters,
        work_queue_name=NIGHTS,
        schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
        description=f"Every night at {job.at} ({job.timezone}): {job.request.job_dir}",
    )
    return name


def scheduled_jobs(client: SyncPrefectClient) -> list[Listed]:
    """Return the scheduled jobs, by name."""
    jobs = sorted(_deployments(client), key=lambda one: one.name)
    return [_listed(client, deployment) for deployment in jobs]


def await_runs(client: SyncPrefectClient, name: str) -> None:
    """Wait until the server made the runs of a schedule, for at most `MADE_S`.

    It makes them some seconds after it heard of the schedule, and none for a time that passed
    meanwhile. Only then is it known when the first one begins.
    """
    deployment = client.read_deployment_by_name(f"nightly/{name}")
    deadline = time.monotonic() + MADE_S
    while _next_start(client, deployment.id) is None and time.monotonic() < deadline:
        time.sleep(0.25)


def remove_job(client: SyncPrefectClient, name: str) -> None:
    """Let a job run no more; the job itself stays as it is.

    Raises:
        UsageError: if no scheduled job has that name.
    """
    jobs = {deployment.name: deployment for deployment in _deployments(client)}
    if name not in jobs:
        known = ", ".join(sorted(jobs)) or "none"
        raise UsageError(f"no scheduled job is called {name!r}; there are: {known}")
    _remove(client, jobs[name])
    forget_ended_jobs(client)


def forget_ended_jobs(client: SyncPrefectClient) -> None:
    """Delete what is left of jobs that were removed while they ran, once their runs ended."""
    for deployment in _deployments(client, tag=ENDED_TAG):
        if not _is_under_way(client, deployment.id):
            client.delete_deployment(deployment.id)


def jobs_of_file(client: SyncPrefectClient, jobs: Iterable[ScheduledJob]) -> list[str]:
    """Schedule the jobs of a file, and no others of a file of before; return their names."""
    names = [schedule_job(client, job, tags=[FILE_TAG]) for job in jobs]
    for deployment in _deployments(client):
        if FILE_TAG in deployment.tags and deployment.name not in names:
            _remove(client, deployment)
    return names


def _remove(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Delete a deployment; one whose run goes on is taken off the schedule first of all.

    Prefect 3.9.1 cannot end a run of a deployment that is gone: the slot of the run cannot be given
    back, so the run would stay Running, and hold back the nights of all jobs.
    """
    if not _is_under_way(client, deployment.id):
        client.delete_deployment(deployment.id)
        return
    for schedule in deployment.schedules:
        client.delete_deployment_schedule(deployment.id, schedule.id)
    client.update_deployment(deployment.id, DeploymentUpdate(tags=[TAG, ENDED_TAG]))


def _is_under_way(client: SyncPrefectClient, deployment: UUID) -> bool:
    states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    return bool(client.read_flow_runs(flow_run_filter=_runs_of(deployment, states), limit=1))


def _flow(entrypoint: str) -> Flow[..., Any]:
    module, name = entrypoint.split(":")
    flow: Flow[..., Any] = getattr(import_module(module), name)
    return flow


def _apply(flow: Flow[..., Any], *, name: str, tags: list[str], **more: Any) -> None:
    deployment = RunnerDeployment.from_flow(
        flow,
        name,
        tags=tags,
        work_pool_name=POOL,
        concurrency_limit=_ONE,
        entrypoint_type=EntrypointType.MODULE_PATH,
        **more,
    )
    deployment.apply()


def _deployments(client: SyncPrefectClient, *, tag: str = JOB_TAG) -> list[DeploymentResponse]:
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[tag]))
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=tagged, limit=200, offset=len(found)):
        found += page
    return found


def _name_of(job: ScheduledJob, others: list[DeploymentResponse]) -> str:
    """Return the name of a job: that which it has, or else the one it asks for, if that is free."""
    names = {deployment.name for deployment in others} | {BY_HAND}
    place = os.path.realpath(str(job.request.job_dir))
    for deployment in others:
        if os.path.realpath(str(deployment.parameters.get("job_dir"))) == place:
            return deployment.name
    name = re.sub(r"[/%&<>\s]+", "-", job.name or job.request.job_dir.name) or "job"
    return name if name not in names else f"{name}-{sha256(place.encode()).hexdigest()[:6]}"


def _listed(client: SyncPrefectClient, deployment: DeploymentResponse) -> Listed:
    schedules = [one.schedule for one in deployment.schedules if one.active]
    schedule = next((one for one in schedules if isinstance(one, CronSchedule)), None)
    minute, hour = (schedule.cron.split() if schedule else ["0", "0"])[:2]
    asked = deployment.parameters
    at = f"{int(hour):02}:{int(minute):02}" if schedule else ""
    zone = (schedule.timezone if schedule else None) or "UTC"
    # The server makes its runs some seconds after it heard of a schedule.
    soon = next_time(at, datetime.now(UTC), zone) if at else None
    return Listed(
        name=deployment.name,
        at=at,
        timezone=zone,
        until=str(asked.get("until", "")),
        src=str(asked.get("src", "")),
        job_dir=str(asked.get("job_dir", "")),
        next_start=_next_start(client, deployment.id) or soon,
        last_state=_last_state(client, deployment.id),
    )


def _next_start(client: SyncPrefectClient, deployment: UUID) -> datetime | None:
    runs = client.read_flow_runs(
        flow_run_filter=_runs_of(deployment, [StateType.SCHEDULED]),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=1,
    )
    start = runs[0].expected_start_time if runs else None
    return start and start.astimezone(UTC)


def _last_state(client: SyncPrefectClient, deployment: UUID) -> str:
    other: list[StateType] = [one for one in StateType if one is not StateType.SCHEDULED]
    runs = client.read_flow_runs(
        flow_run_filter=_runs_of(deployment, other),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    return str(runs[0].state_name or "") if runs else ""


def _runs_of(deployment: UUID, states: list[StateType]) -> FlowRunFilter:
    return FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
    )
