"""Waiting for what a busy machine does late: an event ends it, and no test passes by a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 900.0
"""No test takes so long where all is well: a machine may be many times slower, or pause."""

_SOON_S, _LATE_S = 0.5, 2.0


def until(
    condition: Callable[[], object], what: object = "", *, every_s: float | None = None
) -> None:
    """Wait until a condition holds; `what` is shown if it never does.

    It is looked at every `every_s` seconds. Where that is not said, it is looked at less often the
    longer it takes, for a server computes each answer: it is noticed a tenth of its time late, and
    not later than two seconds.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < PATIENCE_S, f"waited {PATIENCE_S} s; {what}"
        rarely = min(max(_SOON_S, waited / 10), _LATE_S)
        time.sleep(rarely if every_s is None else every_s)


def await_workers(address: str, count: int = 1, security: Any = None) -> None:
    """Wait until a Dask scheduler that is just being started answers and has so many workers.

    A command waits for it, too, but not for as long as a busy machine takes to start it.
    """
    # Not above: it takes seconds, for which those who collect tests would wait.
    from distributed import Client

    timeout = f"{PATIENCE_S:.0f}s"
    with Client(address, timeout=timeout, security=security, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=PATIENCE_S)
