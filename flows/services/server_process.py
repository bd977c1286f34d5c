"""The process of the Prefect server that `upres serve` starts: it ends when that one does."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

_STOP_S = 10.0


def main() -> None:
    """Run the server on the port that is given, until stdin is closed."""
    port = sys.argv[1]
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    sys.argv = [
        "prefect", "server", "start", "--log-level", "WARNING",
        "--host", "127.0.0.1", "--port", port,
    ]  # fmt: skip
    runpy.run_module("prefect", run_name="__main__")


def _end_with_stdin() -> None:
    """Wait for the end of stdin, which comes however the process ends that holds it."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_S)
    os._exit(1)


if __name__ == "__main__":
    main()
