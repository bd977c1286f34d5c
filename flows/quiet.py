"""Prefect without a server of its own accord: nothing sent out, nothing left in the home folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    # A temporary server migrates its database first, which takes 10 to 20 s on a small machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}


def prepare_prefect(home: Path) -> None:
    """Let Prefect start a temporary server whose database is in `home`.

    What the user has set for a server of their own is left aside: the demonstration needs none,
    and leaves nothing in one. To be called before Prefect is first imported.
    """
    for name in [n for n in os.environ if n.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(_QUIET, PREFECT_HOME=str(home.resolve()))
