"""Workers of this machine, for one command: nobody else can reach them.

What belongs here: starting them, who may talk to them, and why they could not be started. They
listen on the loopback interface, where every account of the machine can connect, and a scheduler
runs what it is sent. So each connection proves by TLS that it knows the cluster's key, which is
made for the command and stays in the memory of its processes; no HTTP server is started at all.
"""

from __future__ import annotations

import errno
import gc
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import tempfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.compute.fork_server import starting_method
from pipeline.compute.machine import cores, memory_bytes
from pipeline.errors import ClusterError
from pipeline.storage.spool import LARGE_BYTES

try:
    # Both read Dask's configuration when they are imported.
    import dask
    from distributed import Client, Nanny, Scheduler, Security, SpecCluster, Worker
except ImportError:
    raise
except Exception as error:
    raise ClusterError(
        f"Dask's configuration cannot be read ({error}); fix its files in "
        f"{os.environ.get('DASK_CONFIG', '~/.config/dask')} and variables DASK_*, or move them away"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger(__name__)

THREADS_VARIABLE = "UPRES_WORKER_THREADS"
"""Variable of the environment that says how many threads a worker may use."""

_GPU_TASKS = 6
_MOST_WORKERS = 8
_WORKER_BYTES = 768 * 2**20 + LARGE_BYTES
"""What a worker fills with a network, a few tiles and the pictures that it holds decoded.

Less of it ends in dead workers.
"""

_LOOPBACK = "127.0.0.1"
_FILES, _FILES_A_WORKER = 40, 8
"""How many files a command has open, and how many more for each worker, with some reserve."""
_FILES_WANTED = 4096
_SEMAPHORES_A_WORKER = 8

_HASH_SEED = "6640"
"""What Dask sets for each worker that it spawns: a text has the same hash on all of them."""

_KEYS: dict[str, Security] = {}
"""How this process proves itself to the clusters that it started, by their addresses."""


def most_workers() -> int:
    """Return how many workers fit this machine: one for each core, as far as memory allows."""
    return min(cores(), _MOST_WORKERS, max(1, memory_bytes() // _WORKER_BYTES))


def tasks_at_once(*, gpu: bool) -> int:
    """Return how many tasks a worker runs at once.

    While one thread runs the network, the others read or write: a GPU needs more of them.
    """
    return _GPU_TASKS if gpu else 2


def key_of(address: str) -> Security | None:
    """Return what a client of this process's cluster at `address` needs, None for any other."""
    return _KEYS.get(address)


@contextmanager
def known_by(address: str, security: Security) -> Iterator[None]:
    """Let `key_of` return `security` for the cluster at `address` within the block."""
    _KEYS[address] = security
    try:
        yield
    finally:
        del _KEYS[address]


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Collect no garbage within the block, in which Dask starts a thread for a client or a cluster.

    The start holds a lock that the end of an older client takes too. A client that could not
    connect ends when it is collected; if the new thread did that, both would wait for ten seconds
    and the start would fail.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


@contextmanager
def closed_at_end(client: Client) -> Iterator[Client]:
    """Yield a client, and close it at the end of the block, whatever became of its scheduler.

    A client whose scheduler died while the two shook hands raises that once more when it is closed.
    Nothing depends on it by then, and what was raised in the block says what happened.
    """
    try:
        yield client
    finally:
        try:
            client.close()
        except Exception as error:
            logger.warning("a connection to a Dask scheduler could not be closed: %s", error)
            # Otherwise it would be tried once more when the client is collected.
            client.status = "closed"


@contextmanager
def local_workers(
    count: int, *, threads: int, memory_bytes: int, environment: Mapping[str, str]
) -> Iterator[Client]:
    """Yield a client of `count` new worker processes, which end with the block.

    Each runs `threads` tasks at once, may fill `memory_bytes`, and has `environment` beside what
    it inherits. Dask's configuration files and variables belong to other programs: they decide
    nothing here.

    Raises:
        ClusterError: if they cannot be started; it says why.
    """
    # Children look for modules where this process does, never in the working folder.
    inherited = {**environment, "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": _HASH_SEED}
    with own_configuration(), _own_environment(inherited), _own_folder() as folder:
        _check_machine(count)
        security = Security.temporary()
        with _interrupts_ignored_by_children():
            # Until `own_configuration` ends: nannies start workers again that died.
            dask.config.set({"distributed.worker.multiprocessing-method": starting_method(count)})
            cluster = _started(
                count, security, nthreads=threads, memory_limit=memory_bytes, local_directory=folder
            )
        with (
            cluster,
            closed_at_end(_client_of(cluster, security)) as client,
            known_by(cluster.scheduler_address, security),
        ):
            yield client


class _Unseen:
    """A server that answers its peers alone: no dashboard, no metrics, no page of any kind."""

    def start_http_server(self, *_args: Any, **_kwargs: Any) -> None:
        """Start none: Dask's, which it has no switch for, shows all to whoever connects."""


class LocalScheduler(_Unseen, Scheduler):
    """The scheduler of a cluster that this process starts."""


class LocalWorker(_Unseen, Worker):
    """A worker of a local cluster."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # What goes wrong with a unit is in its outcome; Dask's own words beside it, such as a
        # worker's lost heartbeat when the run ends, are noise to who reads the terminal.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        super().__init__(*args, **kwargs)


def _started(count: int, security: Security, **options: Any) -> SpecCluster:
    server = {"host": _LOOPBACK, "protocol": "tls://", "security": security}
    worker = {
        "cls": Nanny,
        "options": {
            **server,
            **options,
            "worker_class": LocalWorker,
            "silence_logs": logging.CRITICAL,
        },
    }
    try:
        with garbage_kept():
            return SpecCluster(
                scheduler={
                    "cls": LocalScheduler,
                    "options": {**server, "port": 0, "dashboard": False},
                },
                workers=dict.fromkeys(range(count), worker),
                security=security,
                silence_logs=logging.CRITICAL,
            )
    except Exception as error:
        raise ClusterError(_why(error)) from error


def _client_of(cluster: SpecCluster, security: Security) -> Client:
    with garbage_kept():
        return Client(cluster, security=security)


def _why(error: BaseException) -> str:
    """Return in one line why no workers could be started, and what to do."""
    cause = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    number = cause.errno if isinstance(cause, OSError) else None
    if isinstance(cause, MemoryError) or number == errno.ENOMEM:
        advice = "free some memory, or use fewer --workers"
    elif number in (errno.EMFILE, errno.ENFILE):
        advice = "allow more open files (`ulimit -n 4096`), or use fewer --workers"
    elif number == errno.EAGAIN:
        advice = "allow more processes (`ulimit -u`), or use fewer --workers"
    elif number == errno.ENOSPC:
        advice = f"free some space in {tempfile.gettempdir()}"
    else:
        advice = "fix that"
    said = str(cause) or type(cause).__name__
    return (
        f"the worker processes could not be started ({said}); {advice}, then repeat the command "
        "to continue"
    )


def _check_machine(count: int) -> None:
    """Make sure of what worker processes need: each would fail them without saying which.

    Raises:
        ClusterError: if something is missing.
    """
    needed = _FILES + _FILES_A_WORKER * count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < max(needed, _FILES_WANTED):
        most = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _FILES_WANTED)
        soft = max(soft, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise ClusterError(
            f"a process may open {soft} files here, and --workers {count} needs {needed}; allow "
            "more (`ulimit -n 4096`), or use fewer"
        )
    try:
        # Each worker has two queues of a few semaphores.
        context = multiprocessing.get_context("spawn")
        [context.Lock() for _ in range(_SEMAPHORES_A_WORKER * count)]
    except OSError as error:
        raise ClusterError(
            f"worker processes need semaphores, which /dev/shm does not give ({error}); mount it "
            "writable, with some space (for a container: `--shm-size 64m`)"
        ) from error
    try:
        with socket.create_server((_LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise ClusterError(
            f"worker processes are reached over {_LOOPBACK}, where nothing can be reached "
            f"({error}); bring the loopback interface up (`ip link set lo up`)"
        ) from error


@contextmanager
def own_configuration() -> Iterator[None]:
    """Let Dask's defaults hold for the block, but for what local workers need otherwise."""
    defaults = dask.config.merge(*dask.config.defaults)
    foreign = dict.fromkeys(dask.config.config.keys() - defaults.keys())
    # The first death reports every task that the worker held: see `submit_windowed`.
    ours = {
        "distributed.scheduler.allowed-failures": 0,
        # Nannies start workers again that died. A cluster would close the nanny for good whose
        # worker is not there 15 s later, as on a busy machine, or when it has died once more.
        "distributed.deploy.lost-worker-timeout": "1000 days",
        # Tasks leave nothing behind that could be spilled, and a worker that waits for memory to
        # be freed would wait for ever; one past its limit still ends.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        # Dask looks at every thread a hundred times a second, for pages that nobody can open here,
        # and fifty times a second for an event loop that is late, which its log would say.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "1s",
        # The environment of the workers is that of this process: see `_own_environment`.
        "distributed.nanny.pre-spawn-environ": {},
    }
    with dask.config.set({**defaults, **foreign}), dask.config.set(ours):
        yield


@contextmanager
def _own_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block, and for all processes that it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _own_folder() -> Iterator[str]:
    """Yield a temporary folder that nobody else can look into."""
    try:
        folder = tempfile.mkdtemp(prefix="upres-")
    except OSError as error:
        raise ClusterError(
            f"worker processes need a folder for temporary files ({error}); name one that can be "
            "written with TMPDIR"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _interrupts_ignored_by_children() -> Iterator[None]:
    """Let worker processes ignore Ctrl-C, which the terminal sends to all processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
