"""A run says where its process is, and twice a minute that it lives, to the Prefect server.

It does so in labels of its own: workers of some kinds say no process, a run that a script begins
has no worker, and Prefect's own heartbeats are events, which a server may drop. Whether a run is
dead, and what becomes of it then, is in `dead_runs`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from flows.run_log import run_logger
from flows.terminal.printing import visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun

BEAT_S = 30.0
"""Seconds between two signs of life."""

SILENT_S = 300.0
"""Seconds without one after which a run of another machine counts as dead: a server that is
restarted or updated is away for less."""

_HOST, _PID, _BEGAN, _BEATS = "upres.host", "upres.pid", "upres.process-began", "upres.beats"
_PATIENCE_S = 2.0
_CLOCKS_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the process of a run is, or was."""

    host: str
    """Name of the machine; "" where only the process is known."""
    pid: int
    began: float
    """Seconds since 1970 at which it began, or at least not after which."""

    @property
    def is_here(self) -> bool:
        """Return whether it is a process of this machine."""
        return self.host == socket.gethostname()

    def lives(self) -> bool:
        """Return whether this machine has that process, and not another one with its number."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            dead = process.status() == psutil.STATUS_ZOMBIE
            return not dead and bool(process.create_time() <= self.began + _CLOCKS_S)
        return False


def place_of(run: FlowRun) -> Place | None:
    """Return where the process of a run is: as it says itself, or else as its worker says.

    None where neither of them knows a process.
    """
    labels = run.labels
    if _HOST in labels:
        return Place(host=str(labels[_HOST]), pid=int(labels[_PID]), began=float(labels[_BEGAN]))
    host, _, pid = (run.infrastructure_pid or "").rpartition(":")
    if not pid.isdecimal():
        return None
    # A worker says the process before that says that it runs; within some seconds of it.
    began = run.start_time or run.created
    return Place(host=host, pid=int(pid), began=began.timestamp() + 5.0 if began else 0.0)


@contextmanager
def beating() -> Iterator[None]:
    """Give signs of life of the flow that runs for as long as the block takes.

    A thread of its own speaks to Prefect, whose server may be slow or gone: the flow never waits.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    heart = _Heart(context.flow_run.id)
    copied = copy_context()
    thread = threading.Thread(target=lambda: copied.run(heart.beat), daemon=True)
    thread.start()
    try:
        yield
    finally:
        heart.ended.set()
        thread.join(_PATIENCE_S)


class _Heart:
    """What beats while a run lives."""

    def __init__(self, run: UUID) -> None:
        self.ended = threading.Event()
        self._run = run
        self._beats = 0

    def beat(self) -> None:
        """Give signs of life until the run ends."""
        heard = True
        while not self.ended.is_set():
            heard = self._is_heard(level=logging.WARNING if heard else logging.DEBUG)
            self.ended.wait(BEAT_S)

    def _is_heard(self, *, level: int) -> bool:
        """Give one, and return whether it was heard; if not, the log says why, once in a row."""
        self._beats += 1
        labels: dict[str, str | int | float] = {
            _HOST: socket.gethostname(),
            _PID: os.getpid(),
            _BEGAN: psutil.Process().create_time(),
            _BEATS: self._beats,
        }
        try:
            with get_client(sync_client=True) as client:
                client.update_flow_run_labels(self._run, labels)
        except Exception as error:
            said = " ".join(str(error).split())
            line = f"Prefect heard no sign of life of this run: {type(error).__name__}: {said}"
            run_logger().log(level, "%s", visible(line))
            return False
        return True
