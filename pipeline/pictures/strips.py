"""Pixels from top to bottom, some rows at a time: what a picture is written from.

So a picture that is larger than memory can be written. What belongs here: strips, cut and handed
on. Not: where they are read (`jobs.export.stored_strips`), nor what becomes of them (`codecs`).
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

_MOST_THREADS = 4


class Strips(Protocol):
    """The pixels ``(c, y, x)`` of a picture as strips of whole rows, from top to bottom.

    Every iteration begins at the top, and yields each row once.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, rows, columns) of the whole picture."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of a pixel."""

    def __iter__(self) -> Iterator[NDArray[Any]]: ...


@dataclass(frozen=True, slots=True)
class OneStrip:
    """A picture that is in memory, as one strip."""

    pixels: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, rows, columns)."""
        channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of a pixel."""
        return self.pixels.dtype

    def __iter__(self) -> Iterator[NDArray[Any]]:
        yield self.pixels


@dataclass(frozen=True, slots=True)
class Changed:
    """The strips of a picture, each of them changed, to `more` channels than before."""

    strips: Strips
    change: Callable[[NDArray[Any]], NDArray[Any]]
    more: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, rows, columns)."""
        channels, height, width = self.strips.shape
        return channels + self.more, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of a pixel."""
        return self.strips.dtype

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return map(self.change, self.strips)


def recut(strips: Iterable[NDArray[Any]], rows: int) -> Iterator[NDArray[Any]]:
    """Yield the same rows as strips of exactly `rows`; the last one has what remains."""
    parts: list[NDArray[Any]] = []
    waiting = 0
    for strip in strips:
        start = 0
        while waiting + strip.shape[1] - start >= rows:
            stop = start + rows - waiting
            yield _joined([*parts, strip[:, start:stop]])
            parts, waiting, start = [], 0, stop
        if start < strip.shape[1]:
            parts.append(strip[:, start:])
            waiting += strip.shape[1] - start
    if parts:
        yield _joined(parts)


def gathered(strips: Strips) -> NDArray[Any]:
    """Return all pixels at once, for encoders that take nothing less."""
    if isinstance(strips, OneStrip):
        return strips.pixels
    pixels = np.empty(strips.shape, strips.dtype)
    top = 0
    for strip in strips:
        pixels[:, top : top + strip.shape[1]] = strip
        top += strip.shape[1]
    return pixels


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`; the next one is made in a thread while the caller has the one before."""
    waiting = iter(items)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(_next, waiting)
        while one := coming.result():
            coming = thread.submit(_next, waiting)
            yield one[0]


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``work(item)`` of each item in their order, computed in some threads at once."""
    count = max(1, min(_MOST_THREADS, (os.cpu_count() or 1) // 2))
    if count == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(count) as threads:
        coming: deque[Any] = deque()
        for item in items:
            coming.append(threads.submit(work, item))
            if len(coming) >= 2 * count:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
