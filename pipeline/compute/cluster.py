"""Dask: connect to workers, on this machine or elsewhere.

Other rooms import `Client` from here, not from `distributed`. `local_cluster` starts workers,
`submission` gives them tasks, and `worker` is what they know of themselves.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

# First, as it says in one line what is wrong with Dask's configuration.
from pipeline.compute.local_cluster import (  # isort: skip
    THREADS_VARIABLE,
    closed_at_end,
    garbage_kept,
    key_of,
    known_by,
    local_workers,
    most_workers,
    tasks_at_once,
)

from distributed import Client as Client  # named so that other modules need no import of theirs

from pipeline.compute.agreement import agree
from pipeline.compute.machine import cores, memory_bytes
from pipeline.compute.metrics import show_figures
from pipeline.errors import ClusterError, UpresError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Security

    from pipeline.compute.clusters.description import Description

_CONNECT_S = 8
_FIRST_WORKER_S = 30.0
SCHEDULER_GONE = (
    "the Dask scheduler is gone; start it and its workers again, then repeat the command "
    "to continue"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Where work runs. `address` is ``local`` or that of a Dask scheduler."""

    address: str = "local"
    named: Description | None = None
    """The cluster that has a name, and is not at an address yet."""
    workers: int | None = None
    """Worker processes of a local cluster; None means one for each core, up to eight. For a queue,
    those that it is asked for; None means as many as its description says."""
    gpus: int = 0
    """GPUs that a local cluster computes on: one worker for each, unless `workers` says more."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers is {self.workers}, expected at least 1")
        counted = self.address == "local" if self.named is None else self.named.COUNTED
        if self.workers is not None and not counted:
            raise UsageError(
                f"--workers {self.workers} goes with a local cluster; {self.address} has its own"
            )


@contextmanager
def connect(settings: ClusterSettings) -> Iterator[Client]:
    """Yield a client of the workers that `settings` names; local ones end with the block.

    Raises:
        UsageError: if no scheduler answers at the address, or it has no workers.
    """
    if settings.named is not None:
        opened = settings.named.opened(settings.workers)
    else:
        opened = _local(settings) if settings.address == "local" else at_address(settings.address)
    with opened as client:
        if settings.address != "local":
            agree(client)
        yield client


@contextmanager
def join(address: str) -> Iterator[Client]:
    """Yield a client of the workers of a run that goes on already, by their scheduler's address.

    Raises:
        ClusterError: if the scheduler is gone.
    """
    with ExitStack() as opened:
        try:
            client = opened.enter_context(at_address(address))
        except UsageError as error:
            # The address was right when the run began.
            raise ClusterError(str(error)) from error
        yield client


def address_of(client: Client) -> str:
    """Return the scheduler's address, for others to connect to."""
    return str(client.scheduler_info()["address"])


def dashboard_of(client: Client) -> str:
    """Return the address of the scheduler's dashboard; "" where it has none."""
    port = client.scheduler_info().get("services", {}).get("dashboard")
    return str(client.dashboard_link) if port else ""


def workers_of(client: Client) -> int:
    """Return how many worker processes there are now, at least 1."""
    return max(1, len(client.scheduler_info(n_workers=-1)["workers"]))


@contextmanager
def _local(settings: ClusterSettings) -> Iterator[Client]:
    usable, memory = cores(), memory_bytes()
    count = settings.workers or settings.gpus or most_workers()
    threads = max(1, usable // count)
    # Dask presets one BLAS thread; torch's are set by the model plugin, once, on purpose.
    environment = {
        "OMP_NUM_THREADS": str(threads),
        # glibc gives each thread a heap of its own, and pixels freed in one are lost to another:
        # with two of them a worker peaks a quarter lower and as fast.
        "MALLOC_ARENA_MAX": "2",
        THREADS_VARIABLE: str(threads),
    }
    with local_workers(
        count,
        threads=tasks_at_once(gpu=bool(settings.gpus)),
        memory_bytes=memory // count,
        environment=environment,
    ) as client:
        yield client


@contextmanager
def at_address(address: str, security: Security | None = None) -> Iterator[Client]:
    """Yield a client of the scheduler at an address, once it has a worker.

    Raises:
        UsageError: if none answers there, or it has no workers.
        ClusterError: if it is gone later.
    """
    try:
        with garbage_kept():
            client = Client(address, timeout=f"{_CONNECT_S}s", security=security or key_of(address))
    except Exception as error:
        raise _why_no_client(error, address, security) from error
    with closed_at_end(client):
        _await_worker(client, address)
        try:
            show_figures(client)
            with known_by(address_of(client), security) if security else nullcontext():
                yield client
        except Exception as error:
            # Whatever a call to the client raised: without a scheduler this is the reason.
            if client.status == "running" or isinstance(error, UpresError):
                raise
            raise ClusterError(SCHEDULER_GONE) from error


def _why_no_client(error: Exception, address: str, security: Security | None) -> Exception:
    """Return what is wrong with an address or the keys for it; a bug's exception as it is."""
    of_tls = isinstance(error, OSError) and re.search("TLS|SSL|X509", str(error))
    if security is not None and of_tls:
        reason = str(error).partition(" Check your")[0].strip(" .")
        return UsageError(
            f"TLS with the scheduler at {address} fails ({reason}); check tls_ca_file, tls_cert "
            "and tls_key of the cluster: both certificates must be signed by that CA"
        )
    if isinstance(error, (OSError, TimeoutError)):
        return UsageError(
            f"no Dask scheduler answers at {address!r} ({error}); start one with "
            "`dask scheduler`, or leave --cluster out"
        )
    if isinstance(error, (AttributeError, KeyError, RuntimeError, TypeError, ValueError)):
        # What Dask raises for an address or a setting that cannot be, such as a lacking key.
        return UsageError(
            f"no connection to {address!r} can be made ({error}); give the address that "
            "`dask scheduler` shows, and check Dask's configuration files and variables DASK_*"
        )
    return error


def _await_worker(client: Client, address: str) -> None:
    """Wait until the scheduler has a worker: one that was just started again has none yet.

    Raises:
        UsageError: if none comes.
    """
    try:
        client.wait_for_workers(1, timeout=_FIRST_WORKER_S)
    except (TimeoutError, ValueError) as error:
        raise UsageError(
            f"the scheduler at {address} has had no workers for {_FIRST_WORKER_S:.0f} s; start "
            f"`dask worker {address}`"
        ) from error
