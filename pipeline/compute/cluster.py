"""Dask: connect to workers, submit within a window, survive the death of workers.

`distributed` lives here and in `local_cluster`, which starts workers. They get a model once
(`StatePlugin`), never with a task, and tasks return small values, never arrays.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

# First, as it says in one line what is wrong with Dask's configuration.
from pipeline.compute.local_cluster import garbage_kept, key_of, local_workers  # isort: skip

from distributed import Client as Client  # named so that other modules need no import of theirs
from distributed import KilledWorker, WorkerPlugin, get_worker

from pipeline.compute.machine import cores, memory_bytes
from pipeline.compute.metrics import show_figures
from pipeline.errors import ClusterError, UpresError, UsageError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distributed.client import Future

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_DEATHS = 2
"""How often a task that was alone on a worker may kill it before it is given up."""

_IN_FLIGHT_PER_WORKER = 4
_TURN_S = 1.0
_GPU_THREADS = 6
_MOST_WORKERS = 8
_WORKER_BYTES = 768 * 2**20
"""What a worker fills with a network and a few tiles; less of it ends in dead workers."""
_NO_WORKERS_S = 60.0
_FIRST_WORKER_S = 30.0
_GONE = (
    "the Dask scheduler is gone; start it and its workers again, then the same command continues"
)
_THREADS_VARIABLE = "UPRES_WORKER_THREADS"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Where work runs. `address` is ``local`` or that of a Dask scheduler."""

    address: str = "local"
    workers: int | None = None
    """Worker processes of a local cluster; None means one for each core, up to eight."""
    gpus: int = 0
    """GPUs that a local cluster computes on: one worker for each, unless `workers` says more."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers is {self.workers}, expected at least 1")
        if self.address != "local" and self.workers is not None:
            raise UsageError(
                f"--workers {self.workers} goes with a local cluster; {self.address} has its own"
            )


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Task, Result]):
    """What became of one task: its result, or the error that no retry mended."""

    task: Task
    result: Result | None
    error: BaseException | None


class Stop:
    """A request to finish what is in flight and submit nothing more; set by the first Ctrl-C."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self) -> None:
        """Ask for the stop."""
        self._event.set()

    @property
    def requested(self) -> bool:
        """Return whether a stop was asked for."""
        return self._event.is_set()


@contextmanager
def connect(settings: ClusterSettings) -> Iterator[Client]:
    """Yield a client of the workers that `settings` names; local ones end with the block.

    Raises:
        UsageError: if no scheduler answers at the address, or it has no workers.
    """
    opened = _local(settings) if settings.address == "local" else _remote(settings.address)
    with opened as client:
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


def submit_windowed(
    client: Client,
    function: Callable[[Task], Result],
    tasks: Iterator[Task] | Sequence[Task],
    *,
    stop: Stop | None = None,
    split: Callable[[Task], Iterable[Task]] = lambda task: (task,),
) -> Iterator[Outcome[Task, Result]]:
    """Run ``function(task)`` on the workers and yield every outcome as it comes.

    Only a few tasks a worker are in flight, so that memory does not grow with their number. A
    task whose worker died under it is cut by `split`, and each part is run again alone,
    `MAX_DEATHS` times at most. Every task given is yielded exactly once (or each of its parts
    is), unless `stop` is requested: then those not yet submitted are left out.
    """
    waiting = iter(tasks)
    flight = _Flight(client, function)
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
    """The tasks that were submitted and have not come back."""

    def __init__(self, client: Client, function: Callable[[Task], Result]) -> None:
        self._client = client
        self._function = function
        self._tasks: dict[Future[Any], Task] = {}
        self._landed: SimpleQueue[Future[Any]] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._tasks)

    def submit(self, task: Task) -> None:
        """Send a task to the workers."""
        # Retries belong to the ledger; and a task that ran twice gives two outcomes, not one.
        future = self._client.submit(self._function, task, pure=False, retries=0)
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
                # Its scheduler went. One that is back knows neither tasks nor plugins.
                raise ClusterError(_GONE)
            # Seen: a finished future whose worker dies before it is read comes out as "lost".
            return Outcome(task, None, WorkerError(f"the task came back {future.status}"))
        finally:
            future.release()

    def _next(self) -> Future[Any]:
        alone_since: float | None = None
        while True:
            # Waiting in short turns: nobody tells the futures when the scheduler goes.
            with suppress(Empty):
                return self._landed.get(timeout=_TURN_S)
            if self._client.status != "running":
                raise ClusterError(_GONE)
            if self._client.scheduler_info(n_workers=-1)["workers"]:
                alone_since = None
                continue
            alone_since = alone_since or time.monotonic()
            if time.monotonic() - alone_since > _NO_WORKERS_S:
                raise ClusterError(
                    f"there has been no worker for {_NO_WORKERS_S:.0f} s; start workers that have "
                    "the same upres installed, then the same command continues"
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


@contextmanager
def _local(settings: ClusterSettings) -> Iterator[Client]:
    usable, memory = cores(), memory_bytes()
    fitting = max(1, memory // _WORKER_BYTES)
    count = settings.workers or settings.gpus or min(usable, _MOST_WORKERS, fitting)
    threads = max(1, usable // count)
    # Dask presets one BLAS thread; torch's are set by the model plugin, once, on purpose.
    environment = {
        "OMP_NUM_THREADS": str(threads),
        # glibc gives each thread a heap of its own, and pixels freed in one are lost to another:
        # with two of them a worker peaks a quarter lower and as fast.
        "MALLOC_ARENA_MAX": "2",
        _THREADS_VARIABLE: str(threads),
    }
    with local_workers(
        count,
        # While one thread runs the network, the others read or write: a GPU needs more of them.
        threads=_GPU_THREADS if settings.gpus else 2,
        memory_bytes=memory // count,
        environment=environment,
    ) as client:
        yield client


@contextmanager
def _remote(address: str) -> Iterator[Client]:
    try:
        with garbage_kept():
            client = Client(address, timeout="10s", security=key_of(address))
    except (OSError, TimeoutError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address!r} ({error}); start one with "
            "`dask scheduler`, or leave --cluster out"
        ) from error
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # What Dask raises for an address or a setting that cannot be, such as a lacking key.
        raise UsageError(
            f"no connection to {address!r} can be made ({error}); give the address that "
            "`dask scheduler` shows, and check Dask's configuration files and variables DASK_*"
        ) from error
    with client:
        _await_worker(client, address)
        try:
            show_figures(client)
            yield client
        except Exception as error:
            # Whatever a call to the client raised: without a scheduler this is the reason.
            if client.status == "running" or isinstance(error, UpresError):
                raise
            raise ClusterError(_GONE) from error


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


_STATE: dict[str, Any] = {}
"""What plugins built in this process, by key."""


class StatePlugin(WorkerPlugin):
    """Build a value once on every worker, also on those that come later."""

    def __init__(self, key: str, build: Callable[[], Any]) -> None:
        self.name = f"upres-{key}"
        self._key = key
        self._build = build

    def setup(self, worker: Any) -> None:
        """Build the value where the worker's tasks find it."""
        _STATE[self._key] = self._build()


def on_every_worker(client: Client, key: str, build: Callable[[], Any]) -> None:
    """Call ``build()`` once on every worker; tasks there find the value under `key`."""
    client.register_plugin(StatePlugin(key, build))


def worker_state(key: str) -> Any:
    """Return what `on_every_worker` built on the worker that runs this task."""
    return _STATE[key]


def torch_threads() -> int | None:
    """Return how many threads the local cluster grants a worker, None outside of one."""
    granted = os.environ.get(_THREADS_VARIABLE)
    return int(granted) if granted else None


def worker_number() -> int:
    """Return which worker of a local cluster this process is, from 0; 0 outside of one."""
    try:
        name = get_worker().name
    except ValueError:
        return 0
    return name if isinstance(name, int) else 0


def worker_name() -> str:
    """Return the address of the worker that runs this task."""
    return str(get_worker().address)
