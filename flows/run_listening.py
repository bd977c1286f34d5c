"""Progress and failures of a run, as lines in the log that Prefect keeps of it."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.artifacts import moving
from flows.job_remarks import JobRemarks
from flows.run_log import run_logger
from flows.services.dead_runs import mark_dead_runs_of
from flows.terminal.printing import visible
from pipeline.compute.awaiting import await_scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.compute.cluster import ClusterSettings
    from pipeline.compute.outcomes import Failure
    from pipeline.jobs.upscale.stage import UpscaleProgress
    from pipeline.storage.store import Place

MOST_LINES = 200
"""How many failures of one stage are logged, one line each."""

_SCHEDULER_S = 60.0


@dataclass
class FlowListener(JobRemarks):
    """Logs when stages begin and end, and what fails. Each line begins with `about`."""

    about: str
    folder: Place
    """What is worked on; its name is in the keys of artifacts."""
    megapixels: float = 0.0
    """Megapixels of SR that were written while this listened."""
    units: int = 0
    """Tiles that were done in the same time."""

    def log(self, line: str, *, level: int = logging.INFO) -> None:
        """Log a line."""
        run_logger().log(level, "%s", visible(f"{self.about}: {line}"))

    def holds_job(self) -> None:
        """Mark as crashed the other runs on this job that Prefect believes are still running."""
        mark_dead_runs_of(self.folder)

    def connects(self, settings: ClusterSettings) -> None:
        """Wait for a scheduler that may be starting: nobody is there at night to try again."""
        line = f"no scheduler answers at {settings.address} yet, waiting up to {_SCHEDULER_S:.0f} s"
        await_scheduler(settings, within_s=_SCHEDULER_S, waits=lambda: self.log(line))

    @contextmanager
    def counting(self, stage: str, unit: str) -> Iterator[Callable[[int, int], None]]:
        """Log that a stage begins, and how many units it did."""
        self.log(f"{stage} begins")
        counted = (0, 0)

        def hear(done: int, total: int) -> None:
            nonlocal counted
            counted = (done, total)
            show(done, total)

        try:
            with moving(self.folder, stage) as show:
                yield hear
        finally:
            self.log(f"{stage} ends: {counted[0]:,} of {counted[1]:,} {unit}")

    @contextmanager
    def upscaling(self) -> Iterator[Callable[[UpscaleProgress], None]]:
        """Log that upscaling begins, how many tiles it did, and each tile that fails."""
        self.log("upscale begins")
        last: UpscaleProgress | None = None

        def hear(progress: UpscaleProgress) -> None:
            nonlocal last
            last = progress
            self.units, self.megapixels = progress.units_done, progress.megapixels
            show(progress.units_done + progress.units_failed, progress.units_planned)
            self.failed(progress.failures, before=progress.units_failed - len(progress.failures))

        try:
            with moving(self.folder, "upscale") as show:
                yield hear
        finally:
            if last is not None:
                self.log(
                    f"upscale ends: {last.units_done:,} of {last.units_planned:,} tiles done, "
                    f"{last.units_failed:,} failed"
                )

    def failed(self, failures: tuple[Failure, ...], *, before: int = 0) -> None:
        """Log failures; `before` is how many were logged already."""
        for n, failure in enumerate(failures, before):
            if n == MOST_LINES:
                where = "`upres status --json` lists those of files and tiles"
                self.log(f"more failures follow; {where}", level=logging.WARNING)
            if n >= MOST_LINES:
                return
            tile = "" if failure.tile is None else f" tile {failure.tile}"
            line = f"item {failure.item}{tile} failed: {failure.error}: {failure.message}"
            self.log(line, level=logging.ERROR)

    def remark(self, line: str) -> None:
        """Log a line."""
        self.log(line)
