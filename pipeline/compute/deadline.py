"""The time limit of units: one that hangs must not block its worker for ever."""

from __future__ import annotations

import faulthandler
import math
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.constants import LEAST_LIMIT_S, MOST_LIMIT_S
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_STDERR = 2


def check_limit(limit_s: float) -> None:
    """Refuse a limit that is out of range.

    Raises:
        UsageError: then.
    """
    if math.isnan(limit_s) or not LEAST_LIMIT_S <= limit_s <= MOST_LIMIT_S:
        raise UsageError(
            f"--time-limit is {limit_s}, expected {LEAST_LIMIT_S} to {MOST_LIMIT_S:.0f} seconds; "
            "leave it out for half an hour"
        )


class Deadline:
    """Ends the process when a unit takes too long, even one that hangs outside of Python.

    faulthandler has one alarm a process, so it is set to whichever unit is due first.
    """

    def __init__(self) -> None:
        self._due: dict[int, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def within(self, limit_s: float) -> Iterator[None]:
        """Allow the block `limit_s` seconds."""
        key = threading.get_ident()
        self._change(key, time.monotonic() + limit_s)
        try:
            yield
        finally:
            self._change(key, None)

    def _change(self, key: int, due: float | None) -> None:
        with self._lock:
            if due is None:
                del self._due[key]
            else:
                self._due[key] = due
            faulthandler.cancel_dump_traceback_later()
            if self._due:
                left = max(0.001, min(self._due.values()) - time.monotonic())
                faulthandler.dump_traceback_later(left, exit=True, file=_STDERR)

    def run(self, limit_s: float, work: Callable[[], None]) -> None:
        """Do the work within `limit_s` seconds."""
        with self.within(limit_s):
            work()
