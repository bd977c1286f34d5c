"""One run on a job, stage by stage: what the command line and the flows both start."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.cluster import Stop
from pipeline.ingest import adopt_archive, run_ingest
from pipeline.job import Job, held
from pipeline.status import JobStatus, read_status
from pipeline.upscale import ModelAddress, UpscaleProgress, UpscaleSpec, run_upscale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.cluster import Client
    from pipeline.storage.ledger import Ledger


def _silent(_done: int, _of: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """An execution on a job that holds its lock, with the ledger open."""

    job: Job
    ledger: Ledger
    id: str
    stop: Stop = field(default_factory=Stop)

    def status(self) -> JobStatus:
        """Return how far the job is now."""
        return read_status(self.job.folder, self.ledger)

    def ingest(
        self, source: str, client: Client, report: Callable[[int, int], None] = _silent
    ) -> None:
        """Bring `source` into the job's LR archive, or look through it where it is one."""
        if self.job.source_dir.parent != self.job.folder:
            adopt_archive(self.job.open_source(), self.ledger)
            return
        run_ingest(
            source,
            archive_dir=self.job.source_dir,
            ledger=self.ledger,
            client=client,
            stop=self.stop,
            report=report,
        )

    def upscale(
        self,
        spec: UpscaleSpec,
        model: ModelAddress,
        client: Client,
        report: Callable[[UpscaleProgress], None] = lambda _: None,
    ) -> int:
        """Compute every unit that is not done; return how many were."""
        return run_upscale(
            self.job,
            spec=spec,
            model=model,
            ledger=self.ledger,
            client=client,
            run=self.id,
            stop=self.stop,
            report=report,
        )


@contextmanager
def part_of(job: Job, run_id: str) -> Iterator[Run]:
    """Join a run that holds `job` already: for a stage that is started apart from the others."""
    ledger = job.open_ledger()
    try:
        yield Run(job, ledger, run_id)
    finally:
        ledger.close()


@contextmanager
def run_on(job: Job, command: str, *, stop: Stop | None = None) -> Iterator[Run]:
    """Hold `job` for one run and record how it ended.

    Raises:
        JobBusyError: if another run holds it.
    """
    with held(job, command):
        ledger = job.open_ledger()
        run = Run(job, ledger, uuid.uuid4().hex[:12], stop or Stop())
        ledger.start_run(run.id, command)
        outcome = "crashed"
        try:
            yield run
            outcome = "stopped" if run.stop.requested else "finished"
        except KeyboardInterrupt:
            outcome = "stopped"
            raise
        finally:
            ledger.finish_run(run.id, outcome)
            ledger.close()
