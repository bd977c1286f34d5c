"""A run ends with the `upres serve` that started it, however that ends.

The server ends with `upres serve` too. A run that went on could report nothing, and would keep the
lock of its job.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import psutil

SUPERVISOR = "UPRES_SUPERVISOR_PID"
"""Names the process of `upres serve` to the runs that it starts."""

_LOOK_S, _END_S = 2.0, 15.0


def end_with_supervisor() -> None:
    """Let this process be ended once the one is gone that supervises it, if one does."""
    # What this process starts is not started by `upres serve`.
    pid = os.environ.pop(SUPERVISOR, "")
    if not pid.isdecimal():
        return
    try:
        supervisor = psutil.Process(int(pid))
    except psutil.NoSuchProcess:
        supervisor = None
    threading.Thread(target=_watch, args=[supervisor], daemon=True).start()


def _watch(supervisor: psutil.Process | None) -> None:
    while supervisor is not None and supervisor.is_running():
        if supervisor.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    # It closes its workers, and then tries to report to a server that is gone.
    time.sleep(_END_S)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(1)
