"""Tasks for Dask workers: submitted within a window, repeated when a worker dies.

Tasks return small values, never arrays. Retries on other grounds belong to the ledger.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

# First, as it says in one line what is wrong with Dask's configuration.
from pipeline.compute.cluster import SCHEDULER_GONE, workers_of  # isort: skip

from distributed import KilledWorker

from pipeline.compute.clusters.started import patience_s
from pipeline.errors import ClusterError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from distributed.client import Future

    from pipeline.compute.cluster import Client
    from pipeline.compute.stop import Stop

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_DEATHS = 2
"""How often a task that was alone on a worker may kill it before it is given up."""

_IN_FLIGHT_PER_WORKER = 4
_TURN_S = 1.0


EVERY_WORKER: dict[str, float] = {}
"""The resources that tasks ask for which any worker can do."""
_GPU_SHARE = 1 / 64
"""What a task takes of a GPU: many read and write for it, and one at a time computes."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Task, Result]):
    """The outcome of one task: its result, or the error that remains after retries."""

    task: Task
    result: Result | None
    error: BaseException | None


def gpu_resources(client: Client) -> dict[str, float]:
    """Return what tasks for a GPU ask for; nothing where no worker says that it has one.

    Asked for something that no worker has, they would wait for ever.
    """
    return {"GPU": _GPU_SHARE} if _having(client, {"GPU": _GPU_SHARE}) else {}


def _having(client: Client, resources: Mapping[str, float]) -> list[str]:
    """Return the addresses of the workers that have `resources`."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return [
        address
        for address, worker in workers.items()
        if all(worker["resources"].get(name, 0) >= value for name, value in resources.items())
    ]


def submit_windowed(
    client: Client,
    function: Callable[[Task], Result],
    tasks: Iterator[Task] | Sequence[Task],
    *,
    stop: Stop | None = None,
    split: Callable[[Task], Iterable[Task]] = lambda task: (task,),
    resources: Mapping[str, float] = EVERY_WORKER,
) -> Iterator[Outcome[Task, Result]]:
    """Run ``function(task)`` on the workers and yield every outcome as it comes.

    Only a few tasks a worker are in flight, so that memory does not grow with their number. A
    task whose worker died under it is cut by `split`, and each part is run again alone,
    `MAX_DEATHS` times at most. Every task given is yielded exactly once (or each of its parts
    is), unless `stop` is requested: then those not yet submitted are left out. Only workers that
    have `resources` get tasks.
    """
    waiting = iter(tasks)
    flight = _Flight(client, function, resources)
    room = _IN_FLIGHT_PER_WORKER * workers_of(client)
    suspects: deque[Task] = deque()
    while True:
        while len(flight) < room and not (stop and stop.requested):
            try:
                flight.submit(next(waiting))
            except StopIteration:
                break
        if not len(flight):
            break
        outcome = flight.land()
        if isinstance(outcome.error, WorkerError):
            suspects.append(outcome.task)
        else:
            yield outcome
    for task in suspects:
        for part in split(task):
            yield _alone(flight, part)


class _Flight(Generic[Task, Result]):
    """The tasks that were submitted and have no outcome yet."""

    def __init__(
        self, client: Client, function: Callable[[Task], Result], resources: Mapping[str, float]
    ) -> None:
        self._client = client
        self._resources = dict(resources)
        self._function = function
        self._tasks: dict[Future[Any], Task] = {}
        self._landed: SimpleQueue[Future[Any]] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._tasks)

    def submit(self, task: Task) -> None:
        """Send a task to the workers."""
        # Retries belong to the ledger; and a task that ran twice gives two outcomes, not one.
        future = self._client.submit(
            self._function, task, pure=False, retries=0, resources=self._resources or None
        )
        self._tasks[future] = task
        future.add_done_callback(self._landed.put)

    def land(self) -> Outcome[Task, Result]:
        """Wait for the next task that comes back; its error is a WorkerError if a worker died.

        Raises:
            ClusterError: if the scheduler is gone, and with it all that was in flight.
        """
        future = self._next()
        task = self._tasks.pop(future)
        try:
            if future.status == "finished":
                return Outcome(task, future.result(), None)
            if future.status == "error":
                error = future.exception()
                died = isinstance(error, KilledWorker)
                return Outcome(task, None, WorkerError("the worker died") if died else error)
            if future.status == "cancelled":
                # Its scheduler is gone. A new one knows neither tasks nor plugins.
                raise ClusterError(SCHEDULER_GONE)
            # Seen: a finished future whose worker dies before it is read comes out as "lost".
            return Outcome(task, None, WorkerError(f"the task came back {future.status}"))
        finally:
            future.release()

    def _next(self) -> Future[Any]:
        alone_since: float | None = None
        while True:
            # Waiting in short turns: the futures do not hear that the scheduler is gone.
            with suppress(Empty):
                return self._landed.get(timeout=_TURN_S)
            if self._client.status != "running":
                raise ClusterError(SCHEDULER_GONE)
            if _having(self._client, self._resources):
                alone_since = None
                continue
            alone_since = alone_since or time.monotonic()
            patience = patience_s(self._client)
            if time.monotonic() - alone_since > patience:
                raise ClusterError(
                    f"there has been no worker for {patience:.0f} s; start workers that have "
                    "the same upres installed, then repeat the command to continue"
                )


def _alone(flight: _Flight[Task, Result], task: Task) -> Outcome[Task, Result]:
    """Run a task that a worker died under, with nothing else in flight."""
    lasted = []
    for _ in range(MAX_DEATHS):
        began = time.monotonic()
        flight.submit(task)
        outcome = flight.land()
        if not isinstance(outcome.error, WorkerError):
            return outcome
        lasted.append(f"{time.monotonic() - began:.1f} s")
    died = WorkerError(
        f"the worker died each time it ran this alone (after {' and '.join(lasted)}): it ran out "
        "of memory, crashed, or was past the time limit"
    )
    return Outcome(task, None, died)
