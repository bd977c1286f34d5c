"""What the code on a Dask worker can ask for: its number, its threads, values built once on it.

A model gets to the workers this way (`on_every_worker`), never with a task.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

# First, as it says in one line what is wrong with Dask's configuration.
from pipeline.compute.local_cluster import THREADS_VARIABLE  # isort: skip

from distributed import WorkerPlugin, get_worker
from distributed.comm.core import CommClosedError

from pipeline.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.compute.cluster import Client

_DEATHS, _PAUSE_S = 5, 1.0

_STATE: dict[str, Any] = {}
"""What plugins built in this process, by key."""


class StatePlugin(WorkerPlugin):
    """Build a value once on every worker, also on those that come later."""

    def __init__(
        self, key: str, build: Callable[[], Any], resources: Mapping[str, float] | None = None
    ) -> None:
        self.name = f"upres-{key}"
        self._resources = dict(resources or {})
        self._key = key
        self._build = build

    def setup(self, worker: Any) -> None:
        """Build the value where the worker's tasks find it; not where none of them will run."""
        has = worker.state.total_resources
        if any(has.get(name, 0) < value for name, value in self._resources.items()):
            return
        _STATE[self._key] = self._build()


def on_every_worker(
    client: Client,
    key: str,
    build: Callable[[], Any],
    *,
    resources: Mapping[str, float] | None = None,
) -> None:
    """Call ``build()`` once on every worker that has `resources`; tasks find the value by `key`.

    A worker that dies meanwhile is left out: the one that replaces it builds the value as it
    starts.

    Raises:
        ClusterError: if workers go on dying.
    """
    for _ in range(_DEATHS):
        try:
            client.register_plugin(StatePlugin(key, build, resources))
        except CommClosedError:
            # Dask asks all workers at once, and fails if one of them ends before it answers.
            time.sleep(_PAUSE_S)
        else:
            return
    raise ClusterError(
        f"workers died {_DEATHS} times while they loaded the model; their logs say why. "
        "If memory is short, use fewer --workers"
    )


def worker_state(key: str) -> Any:
    """Return what `on_every_worker` built on the worker that runs this task."""
    return _STATE[key]


def torch_threads() -> int | None:
    """Return how many threads the local cluster grants a worker, None outside of one."""
    granted = os.environ.get(THREADS_VARIABLE)
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
