"""The flow that computes failed tiles again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.commands.jobs import rerun as command
from flows.endings import Ending, ended, ending_of_job
from flows.parameters import filled_from
from flows.patience import patient
from flows.run_names import name_of_run
from flows.services.notifications import notified
from pipeline.jobs.request import RerunRequest

if TYPE_CHECKING:
    from pipeline.jobs.results import JobResult


@patient
def rerun_tiles(request: RerunRequest) -> JobResult:
    """Compute the units that failed, and are asked for, again."""
    from flows.tasks import listener_of
    from pipeline.jobs.perform import rerun_job

    return rerun_job(request, listener_of(request.job_dir, "rerun"))


@flow(name="rerun-failed", flow_run_name=name_of_run, **notified)
@filled_from(RerunRequest, command=command)
def rerun_failed(**asked: Any) -> State[Any]:
    """Compute the failed tiles of a job again, and no others, and write its report."""
    return ended(lambda: _rerun(RerunRequest(**asked)))


def _rerun(request: RerunRequest) -> Ending:
    from flows.tasks import report_job

    result = rerun_tiles(request)
    document = result.to_json() | {"report": report_job(request.job_dir)}
    return ending_of_job(result, document, job_dir=request.job_dir)
