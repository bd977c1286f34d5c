"""The flow of the main job: ingest, upscale, score, export, report.

Prefect carries the stages, Dask carries the tiles. Each task joins the run, calls its stage, and
returns a small result, never pixels.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefect import flow, task

from flows.terminal.job_listening import JobTerminal
from pipeline.compute.outcomes import Failure
from pipeline.jobs.export import ExportResult
from pipeline.jobs.ingest import Ingestion
from pipeline.jobs.job import open_job
from pipeline.jobs.request import UpscaleRequest
from pipeline.jobs.results import JobResult
from pipeline.jobs.stages import RunAddress, open_stages
from pipeline.reports.job_report import write_report


@task
def ingest_pictures(run: RunAddress) -> Ingestion:
    """Bring the source into the job's LR archive; return what was left out, and remarks."""
    with run.join(JobTerminal()) as stages:
        # Rows are as many as pictures.
        return replace(stages.ingest(), rows=[])


@task
def upscale_tiles(run: RunAddress) -> int:
    """Compute every unit that is not done; return how many were."""
    with run.join(JobTerminal()) as stages:
        return stages.upscale()


@task
def score_tiles(run: RunAddress) -> dict[str, Any]:
    """Score every tile; return the figures and what could not be scored."""
    with run.join(JobTerminal()) as stages:
        return stages.score().to_json()


@task
def export_pictures(run: RunAddress) -> ExportResult | None:
    """Write the finished pictures as files, where that is asked for; return how many."""
    with run.join(JobTerminal()) as stages:
        return stages.export()


@task
def report_job(job_dir: Path) -> str:
    """Write the job's report; return its path."""
    return str(write_report(open_job(job_dir)))


@flow(name="upscale-archive")
def upscale_archive(
    src: str,
    job_dir: Path,
    model: str = UpscaleRequest.model,
    restore: float | None = UpscaleRequest.restore,
    tile_px: int = UpscaleRequest.tile_px,
    halo: str | int = UpscaleRequest.halo,
    device: str = UpscaleRequest.device,
    precision: str = UpscaleRequest.precision,
    backend: str = UpscaleRequest.backend,
    reference: str | None = UpscaleRequest.reference,
    export_dir: Path | None = UpscaleRequest.export_dir,
    file_format: str = UpscaleRequest.file_format,
    cluster: str = UpscaleRequest.cluster,
    workers: int | None = UpscaleRequest.workers,
    names: str | None = UpscaleRequest.names,
    overwrite: bool = UpscaleRequest.overwrite,
    prune: bool = UpscaleRequest.prune,
    limit_s: float = UpscaleRequest.limit_s,
    ledger: str | None = UpscaleRequest.ledger,
) -> dict[str, Any]:
    """Upscale everything at `src` into the job, score it, export it, and write the report.

    The parameters are the fields of `UpscaleRequest`, which are the options of ``upres upscale``.

    Returns what ``upres upscale --json`` prints, with ``scores`` and ``report`` beside it.
    """
    request = UpscaleRequest(**locals())  # All parameters, and nothing else yet.
    with open_stages(request, JobTerminal(), command="upscale-archive flow") as stages:
        run = stages.address()
        ingestion = ingest_pictures(run)
        stages.check_export()
        computed = upscale_tiles(run)
        scores = score_tiles(run)
        exported = export_pictures(run) if request.export else None
        result = JobResult(
            status=stages.run.status(),
            computed_units=computed,
            ingestion=ingestion,
            unscored=tuple(Failure(**failure) for failure in scores["failures"]),
            exported=exported,
        )
    document = result.to_json() | {"scores": scores, "report": report_job(job_dir)}
    if exported is not None:
        document["export"]["failures"] = [asdict(failure) for failure in exported.failures]
    return document
