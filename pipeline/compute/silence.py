"""A store that stays silent: a run ends, instead of waiting for it unit after unit.

What belongs here: noticing that. How long a request is repeated is said in
`pipeline.storage.store_answers`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from pipeline.errors import StoreError
from pipeline.storage.store import BucketPlace
from pipeline.storage.store_answers import patience_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipeline.storage.store import Place

_OF_STORES = ("StoreError", "UnreadableError")


Part = TypeVar("Part")
Outcome = TypeVar("Outcome")


class _Row(Protocol):
    """What the ledger is told of a unit or a picture."""

    @property
    def error(self) -> str:
        """Return the class of its error, "" where there is none."""

    @property
    def message(self) -> str:
        """Return what the error says."""


def is_of_store(error: str, *places: Place) -> bool:
    """Return whether an error, by its class, is of the store that one of `places` is in."""
    return error in _OF_STORES and any(isinstance(one, BucketPlace) for one in places)


def waited_in_vain(error: str, seconds: float, *places: Place) -> bool:
    """Return whether what took so long failed as the store of one of `places` stays silent."""
    return is_of_store(error, *places) and seconds > patience_s() / 2


def each_unless_silent(
    parts: Iterable[Part],
    work: Callable[[Part], Outcome],
    *places: Place,
    row_of: Callable[[Outcome], _Row],
    failed: Callable[[Part, StoreError], Outcome],
) -> Iterator[Outcome]:
    """Yield ``work(part)`` of each part of a task.

    Those behind one that waited in vain for the store of one of `places` fail without a try, as
    each of them would wait as long.
    """
    waiting = iter(parts)
    for part in waiting:
        began = time.monotonic()
        outcome = work(part)
        seconds = time.monotonic() - began
        yield outcome
        row = row_of(outcome)
        if waited_in_vain(row.error, seconds, *places):
            why = StoreError(f"not tried, as another one waited for its store: {row.message}")
            yield from (failed(other, why) for other in waiting)


class Silence:
    """Hears how units end, and whether the store that they need is still there."""

    def __init__(self, *places: Place) -> None:
        found = next((one for one in places if isinstance(one, BucketPlace)), None)
        self._bucket = None if found is None else found.of_bucket
        self._since: float | None = None

    def hear(self, errors: Iterable[str]) -> None:
        """Hear how some units ended: the class of the error of each, "" of one that is done.

        Raises:
            StoreError: once units have failed by the store, and by nothing else, for as long as a
                request is repeated, after the first of them was given up.
        """
        errors = list(errors)
        if self._bucket is None or not errors:
            return
        if any(error not in _OF_STORES for error in errors):
            self._since = None
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > patience_s():
            raise StoreError(
                f"{self._bucket}: nothing but failures for {now - self._since:.0f} s, as the "
                "store does not answer or refuses (see `upres status`); repeat the command once it "
                "works again"
            )
