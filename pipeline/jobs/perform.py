"""From a request to its result: what commands, tests and benchmarks call.

Each function opens what its request names, does the work, closes it again, and returns a value.
Nothing is printed: a `JobListener` gets the progress.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from pipeline.compute.cluster import connect
from pipeline.compute.status import read_status
from pipeline.compute.workers import Workers
from pipeline.jobs import stages
from pipeline.jobs.ingest.stage import run_ingest
from pipeline.jobs.instructions import hold_as_before
from pipeline.jobs.job import open_job
from pipeline.jobs.keep import words
from pipeline.jobs.keep.beside import check_not_let_go
from pipeline.jobs.listener import JobListener
from pipeline.jobs.results import JobResult, ScoreResult
from pipeline.jobs.run import run_on
from pipeline.storage.archive_group import is_archive
from pipeline.storage.ledger import Ledger
from pipeline.storage.locks import hold, hold_by_ledger, lock_and_ledger_beside
from pipeline.storage.store import BucketPlace, local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.compute.cluster import ClusterSettings
    from pipeline.jobs.export.request import ExportRequest
    from pipeline.jobs.export.stage import ExportResult
    from pipeline.jobs.request import IngestRequest, RerunRequest, ScoreRequest, UpscaleRequest
    from pipeline.jobs.run import Run
    from pipeline.jobs.upscaling import Upscaling
    from pipeline.storage.store import Place

_SILENT = JobListener()


def ingest_archive(request: IngestRequest, listener: JobListener = _SILENT) -> JobResult:
    """Bring pictures into an archive outside any job; its lock and ledger are next to it.

    Raises:
        UsageError: if the request cannot be.
        JobBusyError: if another run writes the archive.
    """
    settings = request.cluster_settings()
    request.check()
    check_not_let_go(request.archive)
    with listener.stopping() as stop, _held_archive(request) as ledger:
        with (
            Workers(lambda: connect(settings)) as workers,
            listener.counting("ingest", "files") as report,
        ):
            # A cluster that cannot be had is to leave no archive behind.
            workers.client_if(not is_archive(request.archive))
            ingestion = run_ingest(
                request.src,
                archive_dir=request.archive,
                ledger=ledger,
                workers=workers,
                names=request.names or "",
                codec=request.codec,
                stop=stop,
                report=report,
            )
        status = read_status(request.archive, ledger, upscales=False)
    return JobResult(status=status, ingestion=ingestion, stopped=stop.requested)


@contextmanager
def _held_archive(request: IngestRequest) -> Iterator[Ledger]:
    """Hold an archive that is to be written, and open its ledger: beside it, or where asked for."""
    archive, url, command = request.archive.resolve(), request.ledger, "upres ingest"
    # One database may have the ledgers of many archives.
    job = f"ingest {archive}"
    if isinstance(archive, BucketPlace):
        with (
            hold_by_ledger(url or "", job=job, what=archive, command=command),
            closing(Ledger.open(url or "", job=job)) as ledger,
        ):
            yield ledger
        return
    lock, path = lock_and_ledger_beside(local(request.archive, "ARCHIVE"))
    with (
        hold(lock, archive, command),
        closing(
            Ledger.open(url, job=job) if url else Ledger.open_file(path, job="ingest")
        ) as ledger,
    ):
        yield ledger


def upscale_job(request: UpscaleRequest, listener: JobListener = _SILENT) -> JobResult:
    """Do the main job: ingest, upscale, and where asked for score and export.

    Raises:
        UsageError, ModelError: if the request cannot be; nothing is made or computed then, unless
            only the listed pictures show that an export would overwrite some of them.
        JobBusyError: if another run holds the job.
    """
    computed, scored, exported, let_go = 0, None, None, None
    with stages.open_stages(request, listener, command="upres upscale") as opened:
        stop = opened.stop
        ingestion = opened.ingest()
        opened.check_export()
        if not stop.requested:
            computed = opened.upscale()
        # Score and export stop later: when time is up, they still handle what is finished.
        if request.scores and not stop.asked.requested:
            scored = opened.score()
        if not stop.asked.requested:
            exported = opened.export()
        if not stop.asked.requested:
            let_go = opened.let_go()
        status = opened.run.status()
    return JobResult(
        status=status,
        computed_units=computed,
        ingestion=ingestion,
        unscored=() if scored is None else scored.failures,
        exported=exported,
        let_go=let_go,
        stopped=stop.asked.requested,
        time_is_up=stop.out_of_time,
        unfinished=any(one is not None and one.stopped for one in (scored, exported)),
    )


def rerun_job(request: RerunRequest, listener: JobListener = _SILENT) -> JobResult:
    """Compute the failed units of a job again, and no others, with its last settings.

    Raises:
        UsageError: if the request cannot be, or the job was never upscaled.
        JobBusyError: if another run holds the job.
    """
    request.check()
    job = open_job(request.job_dir)
    computed = 0
    with listener.stopping() as stop, run_on(job, "upres rerun", stop=stop) as run:
        listener.holds_job()
        upscaling = _upscaling_again(run, request)
        plan = run.plan_rerun(
            upscaling, item=request.item, error=request.error, stale=request.stale
        )
        units, items = plan.size
        if lacking := len(plan.lacking()):
            listener.remark(words.not_rerun(lacking, job.folder))
        listener.reruns(units, items)
        if units:
            settings = request.cluster_settings(device=upscaling.model.device)
            listener.connects(settings)
            with connect(settings) as client:
                hold_as_before(upscaling, client)
                computed = stages.compute(
                    plan, upscaling, run=run, client=client, listener=listener
                )
        status = run.status()
    return JobResult(
        status=status,
        computed_units=computed,
        planned_units=units,
        lacking=lacking,
        stopped=stop.requested,
    )


def _upscaling_again(run: Run, request: RerunRequest) -> Upscaling:
    """Return how a rerun upscales: as before, unless another model or backend is asked for."""
    last = run.last_upscaling()
    if request.stale:
        return last.renewed(request.model, backend=request.backend)
    return last if request.backend is None else last.asked_for(request.backend)


def score_job(request: ScoreRequest, listener: JobListener = _SILENT) -> ScoreResult:
    """Score every tile of a job.

    Raises:
        UsageError: if the request cannot be.
        JobBusyError: if another run holds the job.
    """
    job = open_job(request.job_dir)
    with listener.stopping() as stop, run_on(job, "upres score", stop=stop) as run:
        listener.holds_job()
        settings = request.cluster_settings()
        plan = run.plan_score(request.reference, names=request.names or "")
        if plan.let_go:
            listener.remark(words.not_scored(plan.let_go))
        if not plan.tasks:
            return stages.score(plan, run=run, client=None, listener=listener)
        listener.connects(settings)
        with connect(settings) as client:
            return stages.score(plan, run=run, client=client, listener=listener)


def export_job(
    job_dir: Place,
    request: ExportRequest,
    settings: ClusterSettings,
    listener: JobListener = _SILENT,
) -> ExportResult:
    """Write the finished pictures of a job as files; workers start only if there is work.

    Raises:
        UsageError: if the folder is where the job reads.
        JobBusyError: if another run holds the job.
    """
    job = open_job(job_dir)
    with listener.stopping() as stop, run_on(job, "upres export", stop=stop) as run:
        listener.holds_job()
        plan = run.plan_export(request)
        if not plan.tasks:
            return stages.export(plan, run=run, client=None, listener=listener)
        listener.connects(settings)
        with connect(settings) as client:
            return stages.export(plan, run=run, client=client, listener=listener)
