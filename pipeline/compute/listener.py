"""Who hears of work while it goes on: a terminal that shows it, a flow that logs it, or nobody."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Listener:
    """Hears how far work is, and what is worth knowing before its result; this one keeps silent."""

    def counting(self, stage: str, unit: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Return a context of a stage; it yields what hears of units ``(done, total)``."""
        return nullcontext(_ignore)

    def remark(self, line: str) -> None:
        """Hear one line for the user."""


def _ignore(done: int, total: int) -> None:
    pass
