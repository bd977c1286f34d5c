"""The flow that scores a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.commands.results import score as command
from flows.endings import Ending, ended
from flows.parameters import filled_from
from flows.patience import patient
from flows.run_names import name_of_run
from flows.services.notifications import notified
from flows.terminal.printing import number_of
from pipeline.jobs.request import ScoreRequest

if TYPE_CHECKING:
    from flows.tasks import Scored


@patient
def score_all(request: ScoreRequest) -> Scored:
    """Score every tile of a job."""
    from flows.tasks import Scored, listener_of
    from pipeline.jobs.perform import score_job

    result = score_job(request, listener_of(request.job_dir, "score"))
    return Scored(document=result.to_json(), stopped=result.stopped)


@flow(name="score-archive", flow_run_name=name_of_run, **notified)
@filled_from(ScoreRequest, command=command)
def score_archive(**asked: Any) -> State[Any]:
    """Score every tile of a job: against `reference`, or against its own LR; write its report."""
    return ended(lambda: _score(ScoreRequest(**asked)))


def _score(request: ScoreRequest) -> Ending:
    from flows.tasks import report_job

    document = score_all(request).document
    document["report"] = report_job(request.job_dir)
    unscored = number_of(len(document["failures"]), "item")
    trouble = f"{unscored} could not be scored; the report says why" if document["failures"] else ""
    return Ending(document=document, trouble=trouble)
