"""One run on a job, stage by stage: what the command line and the flows both start."""

from __future__ import annotations

import os
import uuid
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from pipeline.compute.metrics import count_units
from pipeline.compute.status import read_status
from pipeline.compute.stop import Stop
from pipeline.errors import UsageError
from pipeline.jobs.choice import Choice, look_at_new
from pipeline.jobs.export.export_plan import plan_export
from pipeline.jobs.export.in_place import exported_files
from pipeline.jobs.export.limits import unwritable
from pipeline.jobs.export.stage import run_export
from pipeline.jobs.export.targets import check_targets
from pipeline.jobs.ingest.adopt import adopt_archive
from pipeline.jobs.ingest.stage import Ingestion, run_ingest
from pipeline.jobs.job import hold_job
from pipeline.jobs.keep import beside
from pipeline.jobs.keep.candidates import finished
from pipeline.jobs.keep.stage import finish_letting_go, run_letting_go
from pipeline.jobs.score import plan_score, run_score
from pipeline.jobs.spec import UpscaleSpec
from pipeline.jobs.upscale.plan import plan_job
from pipeline.jobs.upscale.rerun import Rerun
from pipeline.jobs.upscale.stage import (
    adopt_shards,
    mark_damaged,
    run_upscale,
)
from pipeline.jobs.upscale.worker import ModelAddress
from pipeline.jobs.upscaling import Upscaling
from pipeline.storage.access import close_to
from pipeline.storage.archive_group import is_archive
from pipeline.storage.ledger import INGESTED, SR
from pipeline.storage.store import is_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.compute.cluster import Client
    from pipeline.compute.outcomes import Failure
    from pipeline.compute.status import JobStatus
    from pipeline.compute.workers import Workers
    from pipeline.jobs.export.export_plan import ExportPlan
    from pipeline.jobs.export.request import ExportRequest
    from pipeline.jobs.export.stage import ExportResult
    from pipeline.jobs.job import Job
    from pipeline.jobs.keep.candidates import Finished
    from pipeline.jobs.keep.stage import LetGoResult
    from pipeline.jobs.score import ScorePlan
    from pipeline.jobs.upscale.plan import Plan
    from pipeline.jobs.upscale.stage import UpscaleProgress
    from pipeline.jobs.upscale.units import UnitPlan
    from pipeline.storage.ledger import ExportRow, ItemRow, Ledger
    from pipeline.storage.store import Place


def _silent(_done: int, _of: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution on a job. It has the lock of the job, and its ledger is open."""

    job: Job
    ledger: Ledger
    id: str
    stop: Stop = field(default_factory=Stop)

    def status(self) -> JobStatus:
        """Return how far the job is now."""
        return read_status(self.job.folder, self.ledger)

    def _recheck(self, failures: Sequence[Failure], client: Client | None) -> None:
        """Mark damaged shards of items that could not be read as failed units.

        So that a rerun computes them again.
        """
        damaged = {f.item for f in failures if f.error == "ArchiveError"}
        failed = sum(mark_damaged(self.job, item, self.ledger) for item in sorted(damaged))
        if client is not None:
            count_units(client, failed=failed)

    def ingest(
        self,
        source: str,
        workers: Workers,
        report: Callable[[int, int], None] = _silent,
        *,
        names: str = "",
        skip: Place | None = None,
        codec: str | None = None,
        again: Iterable[str] = (),
    ) -> Ingestion:
        """Bring `source` into the job's LR archive, or look through it where it is one.

        `names` and `skip` are as for `list_source`, `codec` as for ``Archive.open_or_create``. The
        items `again` are stored again, as their pixels were let go.
        """
        # Not resolved: the user chose the name of the link.
        kept = source if is_address(source) else os.path.abspath(source)  # noqa: PTH100
        self.ledger.keep_source(kept)
        if not self.job.owns_source:
            adopt_archive(self.job.open_source(), self.ledger)
            self.ledger.close_to(self.job.readers)
            return Ingestion([], remarks=beside.remarks_on(self.job.source_dir))
        return run_ingest(
            source,
            archive_dir=self.job.source_dir,
            ledger=self.ledger,
            workers=workers,
            names=names,
            skip=skip,
            codec=codec,
            again=frozenset(again),
            stop=self.stop,
            report=report,
        )

    def plan(self, upscaling: Upscaling, *, codec: str | None = None) -> Plan:
        """Return what upscaling the whole job would compute now: all that is not done.

        If there is an SR archive but the ledger has no unit, the ledger was lost: it is rebuilt
        from the archive first.
        """
        spec, choice = upscaling.spec, upscaling.choice
        if choice is not None:
            look_at_new(self.job, self.ledger)
        if is_archive(self.job.sr_dir) and not self.ledger.knows_units():
            adopt_shards(self.job, spec=spec, ledger=self.ledger, choice=choice)
        plan = plan_job(self.job, spec=spec, ledger=self.ledger, choice=choice, codec=codec)
        close_to(self.job.sr_dir, self.job.readers)
        return plan

    def replaced(self, plans: Plan | Sequence[UnitPlan]) -> int:
        """Return how many items of `plans` have pixels that will be deleted and made again."""
        if not is_archive(self.job.sr_dir):
            return 0
        sr = self.job.open_sr()
        return sum(plan.replaced_items(sr) for plan in plans)

    def plan_rerun(
        self, upscaling: Upscaling, *, item: str = "*", error: str = "", stale: bool = False
    ) -> Plan:
        """Return the units that failed, narrowed to items that match and errors that contain.

        With `stale`, all units of items whose pixels are of another spec (or gone) as well.
        """
        if not self.job.owns_source:
            adopt_archive(self.job.open_source(), self.ledger)
        rerun = Rerun.of(self.ledger, item=item, error=error, stale=stale)
        return rerun.narrow(self.plan(upscaling))

    def upscale(
        self,
        upscaling: Upscaling,
        plans: Plan | Sequence[UnitPlan],
        client: Client | None,
        report: Callable[[UpscaleProgress], None] = lambda _: None,
    ) -> int:
        """Compute every unit of `plans`; return how many were. Without one, no client is needed."""
        choice = upscaling.choice
        self.ledger.keep_upscaling(
            {
                **({} if choice is None else {"choice": choice.to_json()}),
                "spec": upscaling.spec.to_json(),
                "model": asdict(upscaling.model),
                "limit_s": upscaling.limit_s,
                "halo": upscaling.halo,
                "backend": upscaling.backend,
            }
        )
        return run_upscale(
            self.job,
            plans,
            spec=upscaling.spec,
            model=upscaling.model,
            choice=upscaling.choice,
            ledger=self.ledger,
            client=client,
            run=self.id,
            limit_s=upscaling.limit_s,
            stop=self.stop,
            report=report,
        )

    def plan_score(self, reference: str | None, *, names: str = "") -> ScorePlan:
        """Return which items are to be scored, as `plan_score`."""
        return plan_score(self.job, reference=reference, ledger=self.ledger, names=names)

    def score(
        self,
        plan: ScorePlan,
        client: Client | None,
        report: Callable[[int, int], None] = _silent,
    ) -> list[Failure]:
        """Score every tile, as `run_score`; damaged shards become failed units."""
        failures = run_score(plan, ledger=self.ledger, client=client, stop=self.stop, report=report)
        self._recheck(failures, client)
        return failures

    def check_export(self, request: ExportRequest) -> None:
        """Make sure that an export will not get in the way of the source, before pixels are made.

        Raises:
            UsageError: if it would.
        """
        check_targets(self.job, self.ledger.items(), source=self.ledger.source(), request=request)

    def unwritable(self, request: ExportRequest, *, scale: int) -> Iterator[Failure]:
        """Yield a failure for each picture that the export will not be able to write."""
        rows = self.ledger.items(INGESTED)
        return unwritable(self.job, rows, scale=scale, format=request.format)

    def plan_export(self, request: ExportRequest) -> ExportPlan:
        """Return which finished pictures are to be written, as `plan_export`."""
        return plan_export(self.job, self.status(), ledger=self.ledger, request=request)

    def export(
        self,
        plan: ExportPlan,
        client: Client | None,
        report: Callable[[int, int], None] = _silent,
    ) -> ExportResult:
        """Write the finished pictures, as `run_export`; damaged shards become failed units."""
        result = run_export(plan, ledger=self.ledger, client=client, stop=self.stop, report=report)
        self._recheck(result.failures, client)
        return result

    def lost_files(self, request: ExportRequest) -> list[str]:
        """Return the items whose pixels were let go and whose exported files are not there."""
        if not self.ledger.count_let_go().get(SR):
            return []
        return list(self.plan_export(request).let_go)

    def make_again(self, items: Iterable[str]) -> None:
        """Forget that items are done and let go: the next plan has all their tiles."""
        rows = list(self.ledger.items_named(items))
        self.ledger.forget_units(row.item for row in rows)
        self.ledger.forget_let_go(SR, (row.item for row in rows))

    def leaving(self, keep: str, export: ExportRequest | None) -> list[list[Finished]]:
        """Return the items that may let pixels go, once what an earlier run let go is deleted."""
        finish_letting_go(self.job, self.ledger)

        def exported(rows: Iterable[ItemRow]) -> dict[str, ExportRow]:
            return exported_files(rows, ledger=self.ledger, request=export) if export else {}

        return finished(self.job, self.status, keep=keep, ledger=self.ledger, exported=exported)

    def let_go(
        self,
        parts: Sequence[Sequence[Finished]],
        client: Client | None,
        report: Callable[[int, int], None] = _silent,
    ) -> LetGoResult:
        """Let the pixels of items go, as `run_letting_go`; damaged shards become failed units."""
        result = run_letting_go(
            self.job, parts, ledger=self.ledger, client=client, stop=self.stop, report=report
        )
        self._recheck(result.failures, client)
        return result

    def last_upscaling(self) -> Upscaling:
        """Return how the job was upscaled last.

        Raises:
            UsageError: if it never was.
        """
        values = self.ledger.upscaling()
        if values is None:
            raise UsageError(
                f"{self.job.folder} was never upscaled; run `upres upscale SRC {self.job.folder}`"
            )
        return Upscaling(
            spec=UpscaleSpec.from_json(values["spec"]),
            model=ModelAddress(**values["model"]),
            limit_s=values["limit_s"],
            halo=values["halo"],
            backend=values["backend"],
            choice=Choice.from_json(values["choice"]) if "choice" in values else None,
        )


@contextmanager
def part_of(job: Job, run_id: str, *, stop: Stop | None = None) -> Iterator[Run]:
    """Join a run that has the lock of `job` already, for a stage that is started separately."""
    with closing(job.open_ledger()) as ledger:
        yield Run(job, ledger, run_id, stop or Stop())


@contextmanager
def run_on(job: Job, command: str, *, stop: Stop | None = None) -> Iterator[Run]:
    """Hold `job` for one run and record how it ended.

    Raises:
        JobBusyError: if another run holds it.
    """
    with hold_job(job, command), closing(job.open_ledger()) as ledger:
        run = Run(job, ledger, uuid.uuid4().hex[:12], stop or Stop())
        ledger.start_run(run.id, command)
        outcome = "crashed"
        try:
            yield run
            outcome = "stopped" if run.stop.requested else "finished"
        except BaseException as error:
            # Ctrl-C, or whatever else ends a process on purpose, such as the signal of a scheduler.
            outcome = "crashed" if isinstance(error, Exception) else "stopped"
            raise
        finally:
            ledger.finish_run(run.id, outcome)
