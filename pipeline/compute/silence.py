"""A store that stays silent: a run ends, instead of waiting for it unit after unit.

What belongs here: noticing that. How long a request is repeated is said in
`pipeline.storage.store_answers`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipeline.errors import StoreError
from pipeline.storage.store import BucketPlace
from pipeline.storage.store_answers import patience_s

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.storage.store import Place

_OF_STORES = ("StoreError", "UnreadableError")


def is_of_store(error: str, *places: Place) -> bool:
    """Return whether an error, by its class, is of the store that one of `places` is in."""
    return error in _OF_STORES and any(isinstance(one, BucketPlace) for one in places)


class Silence:
    """Hears how units end, and whether the store that they need is still there."""

    def __init__(self, *places: Place) -> None:
        self._bucket = next((one for one in places if isinstance(one, BucketPlace)), None)
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
                f"{self._bucket}: all units failed for {now - self._since:.0f} s, as the "
                "store does not answer or refuses them (see `upres status`); repeat the command "
                "once it works again"
            )
