"""Listeners that show progress and remarks on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.terminal.printing import visible
from flows.terminal.progress import counted
from pipeline.compute.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class Terminal(Listener):
    """Shows progress and remarks on stderr."""

    def counting(self, stage: str, unit: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Show a bar, or a line every few seconds where stderr is not a terminal."""
        return counted(stage, unit)

    def remark(self, line: str) -> None:
        """Show a line."""
        click.echo(visible(line), err=True)
