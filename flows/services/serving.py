"""Carrying out what is scheduled: one worker of Prefect's in this process, each run in its own.

When it is asked to end, it asks its runs to end. They finish no more tiles; the next runs go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

import psutil
from prefect.client.orchestration import get_client
from prefect.workers.process import ProcessWorker

from flows.services.dead_runs import Watch
from flows.services.deployments import POOL
from flows.services.heartbeat import BEAT_S
from flows.services.serve_output import print_runs_plainly, told_in_a_line
from flows.services.server import ServerError
from flows.services.supervised import SUPERVISOR

if TYPE_CHECKING:
    from flows.services.server import Server

_LOG = logging.getLogger("upres.serve")
_LOOK_S = 2 * BEAT_S

END_S = 60.0
"""Seconds that runs have to end themselves in."""


def work_until_told(server: Server) -> None:
    """Carry out runs until SIGINT or SIGTERM; a second one of these ends runs at once.

    Raises:
        ServerError: if one's own server ends before.
    """
    # What a worker says of itself is for Prefect's developers; what runs say is for everybody.
    for name in ("prefect.workers", "prefect.worker", "prefect.flow_runs.worker"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A worker whose connection to the server is lost polls, until it has another.
    for name in ("prefect.FlowRunCancellingObserver", "prefect.FlowRunSuspendingObserver"):
        logging.getLogger(name).addFilter(told_in_a_line)
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")
    os.environ[SUPERVISOR] = str(os.getpid())
    print_runs_plainly()
    asyncio.run(_work(server))


async def _work(server: Server) -> None:
    asked = _Asked()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.ask)
    others = _children()
    worker = ProcessWorker(work_pool_name=POOL, name=f"upres on {socket.gethostname()}")
    working = asyncio.create_task(worker.start(printer=lambda *_words, **_style: None))
    watching = asyncio.create_task(_watch())
    try:
        while not (asked.once.is_set() or working.done()):
            _check(server)
            await asked.wait(asked.once, 1.0)
        if working.done():
            working.result()
            raise ServerError("the worker ended by itself; start `upres serve` again")
    finally:
        watching.cancel()
        await _end_runs(others, asked)
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


async def _watch() -> None:
    """Mark dead runs now and then: each of them holds back the next run of its job."""
    watch = Watch()
    while True:
        await asyncio.sleep(_LOOK_S)
        for name in await asyncio.to_thread(_look, watch):
            _LOG.warning("run %s had lost its process, now marked as crashed", name)


def _look(watch: Watch) -> list[str]:
    try:
        with get_client(sync_client=True) as client:
            return watch.look(client)
    except Exception as error:
        # A server that is away for a moment; whether one's own still runs is looked at elsewhere.
        _LOG.debug("no look for dead runs: %s: %s", type(error).__name__, error)
        return []


class _Asked:
    """How often the end was asked for."""

    def __init__(self) -> None:
        self.once, self.twice = asyncio.Event(), asyncio.Event()

    def ask(self) -> None:
        (self.twice if self.once.is_set() else self.once).set()

    @staticmethod
    async def wait(event: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)


def _check(server: Server) -> None:
    if server.process is not None and server.process.poll() is not None:
        raise ServerError(
            f"Prefect's server ended with code {server.process.returncode}; start `upres serve` "
            "again (server.log in its folder says why)"
        )


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children())


async def _end_runs(others: set[psutil.Process], asked: _Asked) -> None:
    """Ask the processes of runs to end, and end those that do not."""
    runs = list(_children() - others)
    family = [one for run in runs for one in _family(run)]
    for run in runs:
        with contextlib.suppress(psutil.NoSuchProcess):
            run.terminate()
    for _ in range(int(END_S * 10)):
        alive = psutil.wait_procs(runs, timeout=0)[1]
        if not alive or asked.twice.is_set():
            break
        await asyncio.sleep(0.1)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if one in runs or asked.twice.is_set() or one.ppid() == 1:
                one.kill()


def _family(run: psutil.Process) -> list[psutil.Process]:
    try:
        return [run, *run.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
