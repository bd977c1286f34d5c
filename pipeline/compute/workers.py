"""Workers that are connected to when the first of their tasks is due, and not before.

A run that finds nothing to compute starts no cluster, and asks no queue for one.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

from pipeline.compute.cluster import address_of, dashboard_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from pipeline.compute.cluster import Client


class Workers:
    """The workers of a run, as a context: where they were started, they end with it."""

    def __init__(self, opened: Callable[[], AbstractContextManager[Client]]) -> None:
        self._opened = opened
        self._stack = ExitStack()
        self._client: Client | None = None
        self._then: list[Callable[[Client], object]] = []

    @classmethod
    def of(cls, client: Client) -> Self:
        """Return the workers of a client that others opened, and close."""
        return cls(lambda: nullcontext(client))

    def __enter__(self) -> Self:
        """Return this, not connected yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Leave the workers, if they were connected to."""
        return self._stack.__exit__(kind, error, trace)

    @property
    def client(self) -> Client:
        """Return the client of the workers; the first time, connect to them.

        Raises:
            UsageError: if they cannot be connected to. What is to be done first may raise errors
                of its own, and is done again the next time then.
        """
        if self._client is None:
            self._client = self._stack.enter_context(self._opened())
        while self._then:
            self._then[0](self._client)
            del self._then[0]
        return self._client

    def client_if(self, needed: object) -> Client | None:
        """Return the client where it is needed, else None."""
        return self.client if needed else None

    def when_connected(self, act: Callable[[Client], object]) -> None:
        """Do something before the workers get a task: now, or once they are connected to."""
        if self._client is None:
            self._then.append(act)
        else:
            act(self._client)

    @property
    def address(self) -> str:
        """Return the address of their scheduler, for others to connect to."""
        return address_of(self.client)

    @property
    def dashboard(self) -> str | None:
        """Return where they can be watched in a browser; "" where they cannot, None until then."""
        return None if self._client is None else dashboard_of(self._client)
