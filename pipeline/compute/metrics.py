"""Figures of runs for Prometheus: at ``/metrics`` of the Dask scheduler that a run was given.

What belongs here: what is counted, and how it gets from the driver to the scheduler, which lives
longer than workers and runs. Workers count nothing: the figures of a dead worker would be lost, and
a unit that was done twice would be counted twice. Schedulers of local clusters end with their
command and serve no page, so nothing is counted there.
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager, suppress
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from distributed import SchedulerPlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

P = ParamSpec("P")
Result = TypeVar("Result")

STAGES = ("ingest", "upscale", "score", "export", "prepare")
"""The stages that work on a cluster, as labels of their seconds."""

_TOPIC = "upres"


class Meter(SchedulerPlugin):
    """Takes on a scheduler what `count_units` and `seconds_of` send, and shows it at /metrics."""

    name = "upres-metrics"
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        """Show all figures, with 0 for what has not happened yet."""
        _figures()

    def log_event(self, topic: str, msg: Any) -> None:
        """Take in what a driver sends."""
        if topic == _TOPIC:
            getattr(_figures(), msg["of"])(**msg["values"])

    def remove_client(self, scheduler: Any, client: str) -> None:
        """End the stages of a driver that is gone, also of one that was killed."""
        _figures().leave(client)


def dask_setup(scheduler: Any) -> None:
    """Show all figures from the start: for ``dask scheduler --preload pipeline.compute.metrics``.

    Without it they appear with the first run.
    """
    _figures()
    scheduler.add_plugin(Meter(), idempotent=True)


def show_figures(client: Client) -> None:
    """Let the scheduler of `client` show the figures of all runs from now on."""
    # A scheduler that has another upres, or none, runs tasks all the same.
    with suppress(ImportError, AttributeError):
        client.register_plugin(Meter())


def count_units(client: Client, *, done: int = 0, failed: int = 0, pixels: int = 0) -> None:
    """Count units whose outcomes are in the ledger, and the SR pixels of the done ones."""
    _send(client, "count", done=done, failed=failed, pixels=pixels)


@contextmanager
def seconds_of(client: Client | None, stage: str) -> Iterator[None]:
    """Count the seconds of the block as those of `stage`, while they pass; None counts none."""
    if client is None:
        yield
        return
    key = uuid.uuid4().hex
    _send(client, "begin", stage=stage, key=key, client=client.id)
    try:
        yield
    finally:
        _send(client, "end", key=key)


def timed(stage: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Return a decorator: each call of the function, by its argument ``client=``, is a stage."""

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            client: Any = kwargs["client"]
            with seconds_of(client, stage):
                return function(*args, **kwargs)

        return call

    return decorate


def _send(client: Client, of: str, /, **values: Any) -> None:
    # That a scheduler is gone is reported where its tasks are awaited.
    if client.status == "running":
        with suppress(OSError, TimeoutError):
            client.log_event(_TOPIC, {"of": of, "values": values})


class _Figures:
    """The figures of this process, as `prometheus_client` collects them."""

    def __init__(self) -> None:
        self._pixels = 0
        self._units = {"done": 0, "failed": 0}
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._running: dict[str, tuple[str, str, float]] = {}

    def count(self, *, done: int, failed: int, pixels: int) -> None:
        """Add units and SR pixels."""
        self._units["done"] += done
        self._units["failed"] += failed
        self._pixels += pixels

    def begin(self, *, stage: str, key: str, client: str) -> None:
        """Start the clock of a stage."""
        self._running[key] = (stage, client, time.monotonic())

    def end(self, *, key: str) -> None:
        """Stop the clock that began under `key`."""
        if key in self._running:
            stage, _, began = self._running.pop(key)
            self._seconds[stage] += time.monotonic() - began

    def leave(self, client: str) -> None:
        """Stop all clocks of a driver."""
        for key in [key for key, (_, whose, _) in self._running.items() if whose == client]:
            self.end(key=key)

    def collect(self) -> Iterator[Any]:
        """Yield each figure as it is now."""
        from prometheus_client.core import CounterMetricFamily

        yield CounterMetricFamily("upres_pixels", "SR pixels written.", value=self._pixels)
        units = CounterMetricFamily(
            "upres_units", "Units that were done or failed.", labels=["result"]
        )
        for result, count in self._units.items():
            units.add_metric([result], count)
        yield units
        seconds = CounterMetricFamily(
            "upres_stage_seconds", "Seconds that runs were in a stage.", labels=["stage"]
        )
        for stage, passed in self._passed().items():
            seconds.add_metric([stage], passed)
        yield seconds

    def _passed(self) -> dict[str, float]:
        passed, now = dict(self._seconds), time.monotonic()
        for stage, _, began in self._running.values():
            passed[stage] += now - began
        return passed


@cache
def _figures() -> _Figures:
    """Return the figures of this process, which Dask's /metrics shows from the first call on."""
    figures = _Figures()
    # Dask itself has a page of metrics only where this can be imported.
    with suppress(ImportError):
        from prometheus_client import REGISTRY

        REGISTRY.register(figures)
    return figures
