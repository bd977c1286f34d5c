"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere.

The one home of rich's progress bars.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flows.terminal.printing import beneath, guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.jobs.upscale.stage import UpscaleProgress

_LINE_EVERY_S = 10.0


class _Rate(ProgressColumn):
    """Megapixels a second since the first tile was planned."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing before the first tile."""
        megapixels = task.fields.get("megapixels", 0.0)
        elapsed = task.finished_time or task.elapsed
        return Text(f"{megapixels / elapsed:.1f} MP/s" if elapsed and megapixels else "")


class _Steps:
    """One line of progress that stages write to, whatever stderr is."""

    def __init__(self, label: str, unit: str) -> None:
        self._console = Console(file=beneath(sys.stderr))
        self._label, self._unit = label, unit
        self._began = time.monotonic()
        self._said = self._began
        self._first: tuple[float, int] | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn(unit),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=None)

    def start(self) -> None:
        self._progress.start()
        # A bar lets rich write to stderr, which passes on control sequences.
        guard()

    def stop(self) -> None:
        self._progress.stop()

    def tell(self, done: int, total: int, megapixels: float = 0.0, failed: int = 0) -> None:
        label = f"{self._label}: {failed} failed," if failed else self._label
        self._progress.update(
            self._task, completed=done, total=total, megapixels=megapixels, description=label
        )
        now = time.monotonic()
        # Only what this run has done counts for its speed.
        self._first = self._first or (now, done)
        # A log gets one line now and then, and the last one; a bar would fill it.
        ends = bool(total) and done == total
        goes_on = done > 1 and self._first == (now, done)
        if not self._console.is_terminal and (now - self._said > _LINE_EVERY_S or ends or goes_on):
            self._said = now
            line = self._line(done, total, megapixels, now)
            sys.stderr.write(line + (f", {failed} failed\n" if failed else "\n"))

    def _line(self, done: int, total: int, megapixels: float, now: float) -> str:
        rate = f", {megapixels / (now - self._began):.1f} MP/s" if megapixels else ""
        began, before = self._first or (now, done)
        pace = (now - began) / (done - before) if done > before else None
        left = "" if pace is None else f", {timedelta(seconds=round(pace * (total - done)))} left"
        return f"{self._label}: {done} of {total} {self._unit}{rate}{left}"


@contextmanager
def counted(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function ``(done, total)`` that shows how far a stage is."""
    steps = _Steps(label, unit)
    steps.start()
    try:
        yield steps.tell
    finally:
        steps.stop()


@contextmanager
def tiles() -> Iterator[Callable[[UpscaleProgress], None]]:
    """Yield a function that shows tiles done, megapixels a second, and the time left."""
    steps = _Steps("upscale", "tiles")

    def tell(progress: UpscaleProgress) -> None:
        finished = progress.units_done + progress.units_failed
        steps.tell(finished, progress.units_planned, progress.megapixels, progress.units_failed)

    steps.start()
    try:
        yield tell
    finally:
        steps.stop()
