"""Waiting for a scheduler that was just started, or is started again by its supervisor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipeline.compute.cluster import Client
from pipeline.compute.clusters.description import Scheduler
from pipeline.compute.clusters.security import security_of
from pipeline.compute.local_cluster import garbage_kept, key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Security

    from pipeline.compute.cluster import ClusterSettings

_TRY_S = 2.0


def await_scheduler(
    settings: ClusterSettings, *, within_s: float, waits: Callable[[], None]
) -> None:
    """Wait until the scheduler of `settings` answers; `waits` is called once if it does not yet.

    Returns after `within_s` seconds in any case, and at once where waiting cannot help. Connecting
    then reports what is wrong.
    """
    if isinstance(settings.named, Scheduler):
        address, security = settings.named.address, security_of(settings.named)
    elif settings.named is None and settings.address != "local":
        address, security = settings.address, key_of(settings.address)
    else:
        return  # The run starts the workers itself.
    deadline, heard = time.monotonic() + within_s, False
    while not _answers(address, security) and time.monotonic() < deadline:
        if not heard:
            waits()
        heard = True
        time.sleep(0.5)


def _answers(address: str, security: Security | None) -> bool:
    try:
        with garbage_kept():
            client = Client(address, timeout=f"{_TRY_S}s", security=security)
    except (OSError, TimeoutError):
        return False
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return True  # No address at all, or settings that cannot be.
    client.close()
    return True
