"""Waiting for a scheduler that was just started, or is started again by its supervisor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipeline.compute.cluster import Client
from pipeline.compute.local_cluster import garbage_kept, key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.compute.cluster import ClusterSettings

_TRY_S = 2.0


def await_scheduler(
    settings: ClusterSettings, *, within_s: float, waits: Callable[[], None]
) -> None:
    """Wait until the scheduler of `settings` answers; `waits` is called once if it does not yet.

    Returns after `within_s` seconds in any case, and at once where waiting cannot help. Connecting
    then reports what is wrong.
    """
    if settings.address == "local":
        return
    deadline, heard = time.monotonic() + within_s, False
    while not _answers(settings.address) and time.monotonic() < deadline:
        if not heard:
            waits()
        heard = True
        time.sleep(0.5)


def _answers(address: str) -> bool:
    try:
        with garbage_kept():
            client = Client(address, timeout=f"{_TRY_S}s", security=key_of(address))
    except (OSError, TimeoutError):
        return False
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return True  # No address at all, or settings that cannot be.
    client.close()
    return True
