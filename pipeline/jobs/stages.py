"""The stages of the main job as a request asks for them: ingest, upscale, score, export.

What belongs here: which options of a request go into which stage of a run, and what is reported.
The stages themselves are in `run`; their order is in `perform` and in the Prefect flow.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.compute.cluster import connect, join
from pipeline.compute.workers import Workers
from pipeline.jobs.budget import EXPORT_GRACE_S, SCORE_GRACE_S, TimedStop
from pipeline.jobs.disk_use import check_room
from pipeline.jobs.export.limits import remarks_on
from pipeline.jobs.export.stage import ExportResult
from pipeline.jobs.instructions import settled
from pipeline.jobs.job import open_job, started_job
from pipeline.jobs.keep import words
from pipeline.jobs.results import ScoreResult
from pipeline.jobs.run import Run, part_of, run_on
from pipeline.jobs.scores import read_scores
from pipeline.storage.archive_group import is_archive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from pipeline.compute.cluster import Client
    from pipeline.jobs.export.export_plan import ExportPlan
    from pipeline.jobs.ingest.stage import Ingestion
    from pipeline.jobs.keep.stage import LetGoResult
    from pipeline.jobs.listener import JobListener
    from pipeline.jobs.request import UpscaleRequest
    from pipeline.jobs.score import ScorePlan
    from pipeline.jobs.upscale.plan import Plan
    from pipeline.jobs.upscaling import Upscaling


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of the main job as one request asks for them, each within a run on its job."""

    request: UpscaleRequest
    upscaling: Upscaling
    run: Run
    workers: Workers
    listener: JobListener
    stop: TimedStop
    """Ends ingesting and upscaling. Score and export may run a little longer.
    """

    def address(self) -> RunAddress:
        """Return where other threads of this process find this run."""
        return RunAddress(self.request, self.upscaling, self.run.id, self.stop.ends)

    def ingest(self, *, again: Iterable[str] = ()) -> Ingestion:
        """Bring the source into the job's LR archive; the items `again` as if they were new."""
        request = self.request
        with self.listener.counting("ingest", "files") as report:
            return self.run.ingest(
                request.src,
                self.workers,
                report,
                names=request.names or "",
                skip=request.export_dir,
                codec=request.codec,
                again=again,
            )

    def check_export(self) -> None:
        """Make sure that the export will not get in the way of the source, once that is known.

        Pictures that it will not be able to write are remarked on.

        Raises:
            UsageError: if it would.
        """
        export = self.request.export
        if export is None:
            return
        self.run.check_export(export)
        for line in remarks_on(self.run.unwritable(export, scale=self.upscaling.spec.scale)):
            self.listener.remark(line)

    def upscale(self) -> int:
        """Compute every unit that is not done; return how many were.

        Raises:
            DiskError: if the disk has no room for them; nothing is computed then.
        """
        computed = self._computed(self._plan())
        # A new picture may share the name of an exported file, and then each gets one of its own.
        if computed and not self.stop.requested and self._lost():
            computed += self._computed(self._plan())
        return computed

    def _computed(self, plan: Plan) -> int:
        spec = self.upscaling.spec
        if len(plan) and (line := check_room(self.run.job, self.run.ledger, scale=spec.scale)):
            self.listener.remark(line)
        return compute(
            plan,
            self.upscaling,
            run=self.run,
            client=self.workers.client_if(plan.units),
            listener=self.listener,
        )

    def _plan(self) -> Plan:
        """Return what is to be computed, once what was let go and is needed is read again.

        That is where the model changed, or an exported file is not as it was.
        """
        run = self.run
        if lost := self._lost():
            self.listener.remark(words.lost(len(lost), self.request.export_dir))
            run.make_again(lost)
        plan = run.plan(self.upscaling, codec=self.request.codec)
        if not (lacking := plan.lacking()):
            return plan
        self.listener.remark(words.read_again(len(lacking)))
        run.ledger.put_items(lacking)
        self.ingest(again=[row.item for row in lacking])
        return run.plan(self.upscaling, codec=self.request.codec)

    def _lost(self) -> list[str]:
        """Return the items whose pixels were let go and whose exported files are not there."""
        export = self.request.export
        return [] if export is None else self.run.lost_files(export)

    def score(self) -> ScoreResult:
        """Score every tile: against the reference, or else against the LR input.

        Nothing where time was up before the first tile.
        """
        request = self.request
        if not is_archive(self.run.job.sr_dir):
            return ScoreResult(scores=(), failures=())
        plan = self.run.plan_score(request.reference, names=request.names or "")
        run = replace(self.run, stop=self.stop.later(SCORE_GRACE_S))
        client = self.workers.client_if(plan.tasks)
        return score(plan, run=run, client=client, listener=self.listener)

    def export(self) -> ExportResult | None:
        """Write the finished pictures as files, where that is asked for."""
        if self.request.export is None:
            return None
        if not is_archive(self.run.job.sr_dir):
            return ExportResult()  # Time was up before the first tile.
        plan = self.run.plan_export(self.request.export)
        run = replace(self.run, stop=self.stop.later(EXPORT_GRACE_S))
        client = self.workers.client_if(plan.tasks)
        return export(plan, run=run, client=client, listener=self.listener)

    def let_go(self) -> LetGoResult:
        """Let the pixels of finished items go, where that is asked for."""
        parts = self.run.leaving(self.request.keep, self.request.export)
        run = replace(self.run, stop=self.stop.later(EXPORT_GRACE_S))
        client = self.workers.client_if(parts)
        with self.listener.counting("let go", "items") as report:
            return run.let_go(parts, client, report)


@contextmanager
def open_stages(
    request: UpscaleRequest, listener: JobListener, *, command: str, due: datetime | None = None
) -> Iterator[Stages]:
    """Check a request, create or continue its job, and hold it.

    Its workers are started when they are needed: for a new job at once, for another once something
    is to be computed.

    `command` is what the ledger and the lock call the run; `due` is when it was to begin, where
    that is not now.

    Raises:
        UsageError, ModelError: if the request cannot be; nothing is made or computed then.
        JobBusyError: if another run holds the job.
    """
    began = datetime.now(UTC)
    request.check()
    ends = request.time_budget.ends(began, due=due)
    upscaling = request.upscaling()
    settings = request.cluster_settings(device=request.device)
    with (
        listener.stopping() as asked,
        started_job(request.job_dir, source=request.src, ledger_url=request.ledger) as job,
        run_on(job, command, stop=(stop := TimedStop(ends, asked=asked))) as run,
    ):
        listener.holds_job()

        def opened() -> AbstractContextManager[Client]:
            listener.connects(settings)
            return connect(settings)

        with Workers(opened) as workers, _findable(run, workers):
            # A cluster that cannot be had is to leave no job behind.
            workers.client_if(not is_archive(job.sr_dir))
            upscaling = settled(
                upscaling,
                run=run,
                workers=workers,
                instructions=request.instructions,
                precision=request.precision,
            )
            yield Stages(request, upscaling, run, workers, listener, stop)


_WORKERS: dict[str, Workers] = {}
"""The workers of the runs of this process."""


@contextmanager
def _findable(run: Run, workers: Workers) -> Iterator[None]:
    """Let stages that are started separately find the workers of a run within the block."""
    _WORKERS[run.id] = workers
    try:
        yield
    finally:
        del _WORKERS[run.id]


@dataclass(frozen=True, slots=True)
class RunAddress:
    """The address at which a separately started stage finds its run, within this process."""

    request: UpscaleRequest
    upscaling: Upscaling
    run_id: str
    ends: datetime | None = None
    """When the time of the run is up; None for never."""

    @contextmanager
    def join(self, listener: JobListener) -> Iterator[Stages]:
        """Join the run, which holds the job already, and its workers when one is needed.

        A stage that needs them raises ClusterError if their scheduler is gone.
        """
        stop = TimedStop(self.ends)
        with ExitStack() as opened:
            job = open_job(self.request.job_dir, ledger_url=self.request.ledger)
            run = opened.enter_context(part_of(job, self.run_id, stop=stop))
            own = _WORKERS[self.run_id]
            workers = opened.enter_context(Workers(lambda: join(own.address)))
            yield Stages(self.request, self.upscaling, run, workers, listener, stop)


def compute(
    plan: Plan, upscaling: Upscaling, *, run: Run, client: Client | None, listener: JobListener
) -> int:
    """Compute every unit of `plan`; return how many were. Without one, no client is needed."""
    replaced = run.replaced(plan)
    if replaced:
        listener.replaces(replaced)
    with listener.upscaling() as report:
        return run.upscale(upscaling, plan, client, report)


def score(
    plan: ScorePlan, *, run: Run, client: Client | None, listener: JobListener
) -> ScoreResult:
    """Score every tile of `plan`; return all scores of the job."""
    with listener.counting("score", "items") as report:
        failures = tuple(run.score(plan, client, report))
    scores, stopped = tuple(read_scores(run.ledger)), run.stop.requested
    return ScoreResult(scores=scores, failures=failures, stopped=stopped, let_go=plan.let_go)


def export(
    plan: ExportPlan, *, run: Run, client: Client | None, listener: JobListener
) -> ExportResult:
    """Write the files of `plan`."""
    with listener.counting("export", "items") as report:
        result = run.export(plan, client, report)
    if result.let_go:
        out_dir = plan.request.out_dir
        listener.remark(words.not_exported(result.let_go, run.job.folder, out_dir))
    return result
