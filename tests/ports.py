"""Ports for servers that tests start, each named once: no two processes of one run share any.

A port that the system chooses is free again until the server that is to have it was started, which
takes seconds: another test may be given the same one, or a connection may leave by it.
"""

from __future__ import annotations

import os
import socket
import zlib
from itertools import count

_FIRST, _PORTS = 11_000, 10_000
"""Below those that systems give to connections, also with the 10,000 that SeaweedFS adds."""

_TAKEN = count()


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on, and never the same again."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = max(1, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    # Runs beside each other begin at places of their own.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    turns = _PORTS // workers
    begin = zlib.crc32(run.encode()) % turns
    for turn in _TAKEN:
        port = _FIRST + (begin + turn) % turns * workers + worker
        if _is_free(port) and _is_free(port + 10_000):
            return port
    raise AssertionError


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: what is left of closed connections keeps nobody from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
