"""What all clusters have in common that a run starts itself and that are not on this machine.

What belongs here: the scheduler, which runs in this process and serves no page; the environment of
the workers; and waiting for them.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

# First, as it says in one line what is wrong with Dask's configuration.
from pipeline.compute.local_cluster import (  # isort: skip
    THREADS_VARIABLE,
    LocalScheduler,
    closed_at_end,
    garbage_kept,
    known_by,
    own_configuration,
)

from distributed import Client, SpecCluster

from pipeline.compute.clusters.security import own_security
from pipeline.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from distributed import Security

    from pipeline.compute.clusters.description import Started

logger = logging.getLogger(__name__)

_TURN_S = 0.5
_TOLD_AFTER_S = 20.0
_PATIENCE_S = 60.0
_PATIENCE: dict[str, float] = {}
"""How long to wait for workers that others start, by the id of the client."""
_MEMORY_OF_DASK = {
    # Tasks leave nothing behind that could be spilled, and a worker that waits for memory to be
    # freed would wait for ever; one past its limit still ends.
    f"DASK_DISTRIBUTED__WORKER__MEMORY__{what}": "False"
    for what in ("TARGET", "SPILL", "PAUSE")
}


def environment_of(own: Mapping[str, str], *, threads: int) -> dict[str, str]:
    """Return the variables of a worker's process; its `own`, by the description, come last."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MALLOC_ARENA_MAX": "2",
        "PYTHONSAFEPATH": "1",
        THREADS_VARIABLE: str(threads),
        **_MEMORY_OF_DASK,
        **own,
    }


def scheduler_options(description: Started, security: Security) -> dict[str, Any]:
    """Return the options of a scheduler in this process that the workers can reach."""
    where = {"interface": description.interface} if description.interface else {}
    return {"protocol": "tls://", "security": security, "port": 0, "dashboard": False, **where}


@contextmanager
def own_session(description: Started) -> Iterator[Security]:
    """Yield what proves scheduler, workers and clients to each other, in Dask's own settings."""
    with own_configuration():
        yield own_security(description)


@contextmanager
def client_of(cluster: SpecCluster, security: Security) -> Iterator[Client]:
    """Yield a client of a cluster that this process started; others find it by its address."""
    with garbage_kept():
        client = Client(cluster, security=security, timeout="10s")
    with closed_at_end(client), known_by(cluster.scheduler_address, security):
        yield client


@contextmanager
def scheduler_of(description: Started, security: Security, *, host: str) -> Iterator[SpecCluster]:
    """Yield a scheduler in this process, whose workers others start."""
    options = scheduler_options(description, security) | ({"host": host} if host else {})
    with garbage_kept():
        cluster = SpecCluster(
            scheduler={"cls": LocalScheduler, "options": options},
            workers={},
            security=security,
            silence_logs=logging.CRITICAL,
        )
    with cluster:
        yield cluster


@contextmanager
def watching(look: Callable[[], None], *, name: str, every_s: float) -> Iterator[None]:
    """Within the block, call ``look()`` again and again, in a thread called `name`."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            look()

    watcher = threading.Thread(target=watch, name=name, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def patience_s(client: Client) -> float:
    """Return how long a run waits for workers of `client` to come back when all are gone."""
    return _PATIENCE.get(client.id, _PATIENCE_S)


def await_workers(client: Client, count: int, *, within_s: float, why: Callable[[], str]) -> None:
    """Wait until `count` workers are there; `why` returns what went wrong, "" while nothing did.

    Raises:
        ClusterError: if they do not come, or something went wrong.
    """
    began = time.monotonic()
    deadline, told = began + within_s, False
    _PATIENCE[client.id] = max(within_s, _PATIENCE_S)
    while len(client.scheduler_info(n_workers=-1)["workers"]) < count:
        if (wrong := why()) or time.monotonic() > deadline:
            raise ClusterError(
                wrong
                or f"no worker started within {within_s:.0f} s; ask the queue why (as "
                "`squeue` does), or set a larger wait_s"
            )
        if not told and time.monotonic() - began > _TOLD_AFTER_S:
            logger.warning("no worker has started yet; waiting for one up to %.0f s", within_s)
            told = True
        time.sleep(_TURN_S)
