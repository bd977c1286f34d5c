"""Listeners: what follows the progress of work, such as a terminal or the log of a flow."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Listener:
    """Takes progress and remarks before there is a result. This one does nothing."""

    def counting(self, stage: str, unit: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Return a context of a stage; it yields a function of units ``(done, total)``."""
        return nullcontext(_ignore)

    def remark(self, line: str) -> None:
        """Take one line for the user."""


def _ignore(done: int, total: int) -> None:
    pass
