"""The main job as a flow does it: each stage a task, and what of it is shown on the pages."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from flows.artifacts import show_links, show_night
from flows.endings import ending_of_job
from flows.scheduled import due
from flows.tasks import (
    export_pictures,
    ingest_pictures,
    let_pixels_go,
    listener_of,
    report_job,
    score_tiles,
    upscale_tiles,
)
from pipeline.compute.outcomes import Failure
from pipeline.jobs.results import JobResult
from pipeline.jobs.stages import open_stages
from pipeline.reports.night import Speed

if TYPE_CHECKING:
    from flows.endings import Ending
    from pipeline.jobs.request import UpscaleRequest
    from pipeline.jobs.stages import Stages


def carry_out(request: UpscaleRequest, *, name: str) -> Ending:
    """Do the main job, each stage a task of the flow `name`; return how that ends."""
    listener = listener_of(request.job_dir, "begins")
    with open_stages(request, listener, command=f"{name} flow", due=due()) as stages:
        run = stages.address()
        _show_links(stages)
        ingestion = ingest_pictures(run)
        stages.check_export()
        speed = Speed() if stages.stop.requested else upscale_tiles(run)
        scored = score_tiles(run)
        exported = export_pictures(run) if request.export else None
        let_go = let_pixels_go(run)
        result = JobResult(
            status=stages.run.status(),
            computed_units=speed.units,
            ingestion=ingestion,
            unscored=tuple(Failure(**failure) for failure in scored.document["failures"]),
            exported=exported,
            let_go=let_go,
            time_is_up=stages.stop.out_of_time,
            unfinished=scored.stopped or (exported is not None and exported.stopped),
        )
        show_night(request, result, speed=speed, scores=scored.document, left_s=stages.stop.left_s)
    report = report_job(request.job_dir)
    document = result.to_json() | {"scores": scored.document, "report": report}
    if exported is not None:
        document["export"]["failures"] = [asdict(failure) for failure in exported.failures]
    return ending_of_job(result, document, job_dir=request.job_dir)


def _show_links(stages: Stages) -> None:
    """Show where the report will be and, as soon as there are workers, where they are watched."""
    workers, job = stages.workers, stages.run.job
    shown = partial(show_links, job.folder, report=job.report_path)
    if workers.dashboard is None:
        shown(dashboard=None)
    workers.when_connected(lambda _: shown(dashboard=workers.dashboard))
