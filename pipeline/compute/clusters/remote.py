"""The workers of one machine, started there over SSH by ``python -m`` and this module's name.

What they need comes as one line of JSON on stdin, so that no key is in a list of processes. They
live as long as that stdin is open: when the run ends, however it ends, they end.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

# First, as it says in one line what is wrong with Dask's configuration.
from pipeline.compute.local_cluster import (  # isort: skip
    LocalWorker,
    most_workers,
    own_configuration,
    tasks_at_once,
)

from distributed import Nanny

from pipeline.compute.clusters.security import of_texts
from pipeline.compute.clusters.started import environment_of
from pipeline.compute.machine import cores, memory_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

READY = "workers are ready"
"""First line on stdout, once all workers have joined the scheduler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one machine is to start."""

    scheduler: str
    host: str
    tls: Mapping[str, str]
    """CA, certificate and key as texts, as `pipeline.compute.clusters.security` has them."""
    workers: int = 0
    threads: int = 0
    gpus: int = 0
    memory: str = ""
    local_directory: str = ""
    interface: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def to_line(self) -> str:
        """Return it as one line, which `of_line` reads."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Order:
        """Read what `to_line` gave."""
        return cls(**json.loads(line))


def nannies(order: Order) -> list[Nanny]:
    """Return the processes of an order, not started yet."""
    count = order.workers or order.gpus or most_workers()
    threads = order.threads or max(1, cores() // count)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = visible if visible != [""] else list(map(str, range(order.gpus)))
    options: dict[str, Any] = {
        "security": of_texts(order.tls),
        "protocol": "tls://",
        "nthreads": tasks_at_once(gpu=bool(order.gpus)),
        "memory_limit": order.memory or memory_bytes() // count,
        "worker_class": LocalWorker,
        "resources": {"GPU": 1} if order.gpus else None,
    }
    for key in ("local_directory", "interface"):
        if getattr(order, key):
            options[key] = getattr(order, key)
    common = environment_of(order.environment, threads=threads)
    found = []
    for n in range(count):
        own = {"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if order.gpus else {}
        found.append(
            Nanny(order.scheduler, name=f"{order.host}-{n}", env={**common, **own}, **options)
        )
    return found


async def serve(order: Order) -> None:
    """Start the workers, and end them when stdin is at its end."""
    async with _all_of(nannies(order)):
        print(READY, flush=True)  # noqa: T201 - the run that started this reads it.
        await asyncio.to_thread(sys.stdin.read)


class _all_of:  # noqa: N801 - it is used as a function.
    """A context of several processes, which start together."""

    def __init__(self, processes: list[Nanny]) -> None:
        self._processes = processes

    async def __aenter__(self) -> None:
        await asyncio.gather(*self._processes)

    async def __aexit__(self, *_error: object) -> None:
        closing = (process.close(timeout=5) for process in self._processes)
        await asyncio.gather(*closing, return_exceptions=True)


def main() -> None:
    """Serve the order that comes on stdin."""
    with own_configuration():
        asyncio.run(serve(Order.of_line(sys.stdin.readline())))


if __name__ == "__main__":
    main()
