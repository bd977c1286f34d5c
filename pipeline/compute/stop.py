"""A request to stop: what is submitted is finished, and nothing more is submitted.

It is apart from `submission`, as whoever only counts the time until a stop needs no Dask.
"""

from __future__ import annotations

import threading


class Stop:
    """A request to finish what is submitted and submit no more; the first Ctrl-C sets it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self) -> None:
        """Ask for the stop."""
        self._event.set()

    @property
    def requested(self) -> bool:
        """Return whether a stop was asked for."""
        return self._event.is_set()
