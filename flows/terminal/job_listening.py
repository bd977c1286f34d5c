"""Listeners that show on the terminal how far a run on a job is, and stop it on Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.terminal import options
from flows.terminal.listening import Terminal
from flows.terminal.printing import number_of
from flows.terminal.progress import tiles
from pipeline.jobs.listener import JobListener

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pipeline.compute.submission import Stop
    from pipeline.jobs.upscale.stage import UpscaleProgress


class JobTerminal(Terminal, JobListener):
    """Shows on stderr how far a run is."""

    def upscaling(self) -> AbstractContextManager[Callable[[UpscaleProgress], None]]:
        """Show tiles and megapixels."""
        return tiles()

    def replaces(self, items: int) -> None:
        """Warn that pixels will be replaced."""
        click.echo(
            f"will recompute {number_of(items, 'picture')}: model, spec or content changed",
            err=True,
        )

    def reruns(self, units: int, items: int) -> None:
        """Say what a rerun will compute."""
        click.echo(
            f"{number_of(units, 'tile')} of {number_of(items, 'item')} to compute again", err=True
        )


class CommandTerminal(JobTerminal):
    """Shows how far the run of a command is, and stops it on Ctrl-C."""

    def stopping(self) -> AbstractContextManager[Stop]:
        """Let the first Ctrl-C (or SIGTERM) request a stop."""
        return options.interruptible()
