"""Answers of an object store: what its errors say, and asking again where an answer is cut off.

Requests that fail before an answer begins are sent again by obstore itself.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from typing import TYPE_CHECKING, TypeVar

from obstore.exceptions import BaseError

from pipeline.errors import NoStoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

PATIENCE = "UPRES_STORE_PATIENCE"
"""Variable of the environment: for how many seconds a request is sent again."""

_PATIENCE_S, _LEAST_S, _MOST_S = 60.0, 1.0, 3600.0

MOMENT_S = 0.3
"""How long to wait before asking again."""


def patience_s() -> float:
    """Return how long a request that fails for a passing reason is sent again.

    The waits between become longer and longer. Passing are errors 5xx, lost connections, and
    answers that do not come.

    Raises:
        NoStoreError: if the environment says something else than a number of seconds.
    """
    text = os.environ.get(PATIENCE, "")
    try:
        seconds = float(text or _PATIENCE_S)
    except ValueError:
        seconds = 0.0
    if not _LEAST_S <= seconds <= _MOST_S:
        raise NoStoreError(
            f"{PATIENCE} is {text!r}, expected {_LEAST_S:.0f} to {_MOST_S:.0f} seconds; set it to "
            f"such a number, or unset it for {_PATIENCE_S:.0f}"
        )
    return seconds


def answer_of(text: str) -> tuple[int | None, str]:
    """Return the status and the code in what obstore says of an error; None where none came."""
    status = re.search(r"status code: (\d{3})|status: (\d{3})", text)
    code = re.search(r"<Code>(\w{1,60})</Code>", text)
    number = None if status is None else int(status[1] or status[2])
    return number, code[1] if code else ""


def patiently(ask: Callable[[], T]) -> T:
    """Return what is asked for; where the answer is cut off, ask again."""
    began = time.monotonic()
    while True:
        try:
            return ask()
        except BaseError as error:
            if not is_cut_off(error, began):
                raise
            time.sleep(MOMENT_S)


async def patiently_async(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what is asked for; where the answer is cut off, ask again."""
    began = time.monotonic()
    while True:
        try:
            return await ask()
        except BaseError as error:
            if not is_cut_off(error, began):
                raise
            await asyncio.sleep(MOMENT_S)


def is_cut_off(error: BaseError, began: float) -> bool:
    """Return whether an answer was cut off, so that it may be asked for again after a moment."""
    answered, _ = answer_of(str(error))
    return answered is None and time.monotonic() - began < patience_s() / 2
