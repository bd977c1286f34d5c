"""Listeners that show on the terminal how far a run on a job is, and stop it on Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.job_remarks import JobRemarks
from flows.terminal import options
from flows.terminal.listening import Terminal
from flows.terminal.progress import tiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pipeline.compute.stop import Stop
    from pipeline.jobs.upscale.stage import UpscaleProgress


class JobTerminal(Terminal, JobRemarks):
    """Shows on stderr how far a run is."""

    def upscaling(self) -> AbstractContextManager[Callable[[UpscaleProgress], None]]:
        """Show tiles and megapixels."""
        return tiles()


class CommandTerminal(JobTerminal):
    """Shows how far the run of a command is, and stops it on Ctrl-C."""

    def stopping(self) -> AbstractContextManager[Stop]:
        """Let the first Ctrl-C (or SIGTERM) request a stop."""
        return options.interruptible()
