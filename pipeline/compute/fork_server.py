"""The process that local workers are forked from: it has imported what all of them need.

By itself, each worker would spend a second and a half of CPU time and 150 MB of memory on torch,
other libraries and upres's own modules. Forked ones share them. The first cluster of a process
starts the server. It computes nothing and opens nothing, and it ends with the process and its
workers, however these end.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path

# Not OpenVINO: it starts a thread when it is imported, which a fork would lose.
_LIBRARIES = ("distributed", "torch", "zarr", "sqlalchemy", "imagecodecs")
_OWN = "upres_forked"
"""Imports upres's own modules where the server finds those of this process, and none otherwise."""
_OWN_PLACE = "UPRES_FORKED_FROM"

_STARTED_WITH: dict[str, str] = {}
"""The environment that the server of this process has; empty before it is started."""


def starting_method(workers: int) -> str:
    """Return how to start so many workers, as Dask calls it; start the server if it is needed.

    The workers have what is in the environment of this process now. Libraries read it as they are
    loaded, and glibc as a process starts, so workers are forked only while nothing has changed in
    it. Where the server cannot be started, as where the name of its socket would be too long, they
    are spawned. A single worker would gain nothing.
    """
    if workers < 2 or not sys.platform.startswith("linux"):
        return "spawn"
    if not _STARTED_WITH:
        with suppress(OSError):
            multiprocessing.set_forkserver_preload([*_LIBRARIES, _OWN])
            os.environ[_OWN_PLACE] = str(Path(__file__).parents[2])
            try:
                forkserver.ensure_running()
            finally:
                del os.environ[_OWN_PLACE]
            _STARTED_WITH.update(_environment())
    return "forkserver" if _environment() == _STARTED_WITH else "spawn"


def _environment() -> dict[str, str]:
    """Return all variables but those in which Dask leaves notes to itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("__DASK")}
