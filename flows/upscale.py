"""The flow of the main job: ingest, upscale, score, export, report.

Prefect carries the stages, Dask carries the tiles. Each task joins the run, calls its stage, and
returns a small result, never pixels.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow, task

from flows.terminal.progress import counted, tiles
from pipeline.compute.cluster import ClusterSettings, address_of, connect
from pipeline.compute.inference import gpus_of
from pipeline.jobs.export_plan import ExportRequest
from pipeline.jobs.job import create_job, open_job
from pipeline.jobs.run import Upscaling, part_of, run_on
from pipeline.jobs.score import read_scores, scores_to_json
from pipeline.jobs.spec import make_spec
from pipeline.jobs.worker import ModelAddress
from pipeline.reports.job_report import write_report
from pipeline.sources.listing import check_source
from pipeline.sources.overlap import check_export_folder


@task
def ingest_pictures(
    job_dir: Path,
    run_id: str,
    src: str,
    scheduler: str,
    names: str = "",
    skip: Path | None = None,
) -> dict[str, Any]:
    """Bring the source into the job's LR archive; return what was left out, and remarks."""
    with (
        part_of(open_job(job_dir), run_id) as run,
        connect(ClusterSettings(address=scheduler)) as client,
        counted("ingest", "files") as report,
    ):
        ingestion = run.ingest(src, client, report, names=names, skip=skip)
        return {
            "left_out": ingestion.left_out.to_json(),
            "remarks": list(ingestion.remarks),
        }


@task
def upscale_tiles(job_dir: Path, run_id: str, upscaling: Upscaling, scheduler: str) -> int:
    """Compute every unit that is not done; return how many were."""
    with (
        part_of(open_job(job_dir), run_id) as run,
        connect(ClusterSettings(address=scheduler)) as client,
        tiles() as report,
    ):
        return run.upscale(upscaling, run.plan(upscaling), client, report)


@task
def score_tiles(
    job_dir: Path, run_id: str, reference: str | None, scheduler: str, names: str = ""
) -> dict[str, Any]:
    """Score every tile; return the figures and what could not be scored."""
    with (
        part_of(open_job(job_dir), run_id) as run,
        connect(ClusterSettings(address=scheduler)) as client,
        counted("score", "items") as report,
    ):
        failures = run.score(reference, client, report, names=names)
        scores = scores_to_json(read_scores(run.ledger))
        return scores | {"failures": [asdict(failure) for failure in failures]}


@task
def export_pictures(
    job_dir: Path, run_id: str, request: ExportRequest, scheduler: str
) -> dict[str, Any]:
    """Write the finished pictures as files; return how many, and what was not written."""
    with (
        part_of(open_job(job_dir), run_id) as run,
        connect(ClusterSettings(address=scheduler)) as client,
        counted("export", "items") as report,
    ):
        result = run.export(run.plan_export(request), client, report)
        return result.to_json() | {"failures": [asdict(failure) for failure in result.failures]}


@task
def report_job(job_dir: Path) -> str:
    """Write the job's report; return where it lies."""
    return str(write_report(open_job(job_dir)))


@flow(name="upscale-archive")
def upscale_archive(
    src: str,
    job_dir: Path,
    model: str = "span-x4",
    tile_px: int = 512,
    halo: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    reference: str | None = None,
    export_dir: Path | None = None,
    file_format: str = "same",
    cluster: str = "local",
    workers: int | None = None,
    names: str = "",
    overwrite: bool = False,
    prune: bool = False,
) -> dict[str, Any]:
    """Upscale everything at `src` into the job, score it, export it, and write the report.

    `names` is the encoding of names in a zip or tar that do not say theirs.

    Returns what ``upres upscale --json`` prints, with ``scores``, ``report`` and (where pictures
    were exported) ``export`` beside it. `overwrite` and `prune` are those of ``upres export``.
    """
    request = None
    if export_dir is not None:
        check_export_folder(export_dir, src=src, job_dir=job_dir, reference=reference)
        request = ExportRequest(
            out_dir=export_dir, format=file_format, overwrite=overwrite, prune=prune
        )
        request.check()
    spec = make_spec(
        model, tile_px=tile_px, halo=halo, precision=precision, device=device, backend=backend
    )
    address = ModelAddress(name_or_file=model, device=device)
    upscaling = Upscaling(spec=spec, model=address, halo=halo, backend=backend)
    settings = ClusterSettings(address=cluster, workers=workers, gpus=gpus_of(device))
    check_source(src)
    if reference is not None:
        check_source(reference)
    job = create_job(job_dir, source=src)
    with (
        run_on(job, "upscale-archive flow") as run,
        connect(settings) as client,
    ):
        scheduler = address_of(client)
        listed = ingest_pictures(job_dir, run.id, src, scheduler, names, export_dir)
        if request is not None:
            run.check_export(request)
        computed = upscale_tiles(job_dir, run.id, upscaling, scheduler)
        result = run.status().to_json(computed_units=computed) | listed
        result["scores"] = score_tiles(job_dir, run.id, reference, scheduler, names)
        if request is not None:
            result["export"] = export_pictures(job_dir, run.id, request, scheduler)
    result["report"] = report_job(job_dir)
    return result
