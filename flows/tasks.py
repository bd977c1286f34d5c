"""The tasks of the flows: the stages of a run on a job, each one joined to its run.

Prefect carries the stages, Dask carries the tiles. A task returns a small value, never pixels.
Units that failed are in the ledger; `rerun-failed` computes them again.

What computes is imported with this module, so a flow imports it where it begins to work: whoever
only schedules the flow needs none of it.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flows.artifacts import MOST_ROWS, show_looks, show_pictures
from flows.patience import patient
from flows.run_listening import FlowListener
from pipeline.compute.outcomes import Failure
from pipeline.compute.status import read_status
from pipeline.jobs.job import open_job
from pipeline.reports.job_report import write_report
from pipeline.reports.night import Speed, pictures_of, worth_a_look
from pipeline.storage.ledger import REJECTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.jobs.export.stage import ExportResult
    from pipeline.jobs.ingest.stage import Ingestion
    from pipeline.jobs.keep.stage import LetGoResult
    from pipeline.jobs.stages import RunAddress, Stages
    from pipeline.storage.store import Place

_ATTEMPTS: dict[str, Speed] = {}
"""The sums over all attempts at upscaling, by run. Prefect itself keeps only the last result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The result of scoring: what `upres score` prints, and whether it was stopped early."""

    document: dict[str, Any]
    stopped: bool


def listener_of(job_dir: Place, run_id: str) -> FlowListener:
    """Return the listener that logs a run on a job."""
    return FlowListener(f"job {job_dir.name} run {run_id}", job_dir)


@contextmanager
def joined(run: RunAddress) -> Iterator[tuple[Stages, FlowListener]]:
    """Join a run, and log its progress."""
    listener = listener_of(run.request.job_dir, run.run_id)
    with run.join(listener) as stages:
        yield stages, listener


@patient
def ingest_pictures(run: RunAddress) -> Ingestion:
    """Bring the source into the job's LR archive; return what was left out, and remarks."""
    with joined(run) as (stages, listener):
        ingestion = stages.ingest()
        rejected = (row for row in ingestion.rows if row.state == REJECTED)
        listener.failed(tuple(Failure(r.item, None, r.error, r.message) for r in rejected))
        # There is a row for each picture, so rows are not returned.
        return replace(ingestion, rows=[])


@patient
def upscale_tiles(run: RunAddress) -> Speed:
    """Compute every unit that is not done; return how many were, in all attempts together."""
    began = time.monotonic()
    with joined(run) as (stages, listener):
        try:
            stages.upscale()
        finally:
            now = Speed(
                units=listener.units,
                megapixels=listener.megapixels,
                seconds=time.monotonic() - began,
            )
            _ATTEMPTS[run.run_id] = _ATTEMPTS.get(run.run_id, Speed()) + now
    return _ATTEMPTS.pop(run.run_id)


@patient
def score_tiles(run: RunAddress) -> Scored:
    """Score every tile; return the figures and what could not be scored."""
    with joined(run) as (stages, listener):
        result = stages.score()
        listener.failed(tuple(f for f in result.failures if f.error != "NotDone"))
        return Scored(document=result.to_json(), stopped=result.stopped)


@patient
def export_pictures(run: RunAddress) -> ExportResult | None:
    """Write the finished pictures as files, where that is asked for; return how many."""
    with joined(run) as (stages, listener):
        exported = stages.export()
        if exported is not None:
            listener.failed(tuple(f for f in exported.failures if f.error != "NotDone"))
        return exported


@patient
def let_pixels_go(run: RunAddress) -> LetGoResult:
    """Delete the pixels that need not be kept; return of how many pictures."""
    with joined(run) as (stages, listener):
        let_go = stages.let_go()
        listener.failed(let_go.failures)
        return let_go


@patient
def report_job(job_dir: Place) -> str:
    """Write the job's report, and show what is worth a look; return the report's path."""
    job = open_job(job_dir)
    written = str(write_report(job))
    with closing(job.open_ledger_to_read()) as ledger:
        failures = read_status(job.folder, ledger).failures
    show_looks(job_dir, worth_a_look(job, failures, most=MOST_ROWS))
    show_pictures(job_dir, pictures_of(job))
    return written
