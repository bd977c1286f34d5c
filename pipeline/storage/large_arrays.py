"""Arrays that are too large for a worker's memory: within `spooling_in` they are on the disk.

A decoder fills such an array like any other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.storage.spool import is_spooled, mapped_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

_BAND_BYTES = 8 << 20
_COPY_BYTES = 1 << 20
"""Of a copy at a time: it maps the rows that it is cut from, which are many times longer."""


def is_large(shape: tuple[int, ...], dtype: DTypeLike) -> bool:
    """Return whether `large_array` would put an array on the disk."""
    return is_spooled(math.prod(shape) * np.dtype(dtype).itemsize)


def large_array(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return a new array with whatever values, on the disk if it is large.

    Raises:
        DiskError: if the disk has no room for it.
    """
    mapped = mapped_file(math.prod(shape) * np.dtype(dtype).itemsize)
    return np.empty(shape, dtype) if mapped is None else np.frombuffer(mapped, dtype).reshape(shape)


def changed(
    pixels: NDArray[Any],
    change: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    channels: int | None = None,
) -> NDArray[Any]:
    """Return ``change(pixels)`` of ``(c, y, x)``, large ones band by band.

    ``change(pixels)[:, a:b] == change(pixels[:, a:b])`` must hold, and the result has as many
    channels, or else `channels`.
    """
    shape = (channels or len(pixels), *pixels.shape[1:])
    if not is_large(shape, pixels.dtype):
        return change(pixels)
    first = change(pixels[:, :1])
    result = large_array(shape, first.dtype)
    rows = max(1, _BAND_BYTES // first.nbytes)
    for top in range(0, pixels.shape[1], rows):
        result[:, top : top + rows] = change(pixels[:, top : top + rows])
    return result


def in_memory(part: NDArray[Any]) -> NDArray[Any]:
    """Return a C-contiguous copy of a part ``(c, y, x)`` of an array, or the part if it is that.

    It is made band by band: in between, what was read of an array on the disk is let go.
    """
    if part.flags.c_contiguous:
        return part
    copy = np.empty(part.shape, part.dtype)
    rows = max(1, _COPY_BYTES // max(1, part[:, :1].nbytes))
    for top in range(0, part.shape[1], rows):
        copy[:, top : top + rows] = part[:, top : top + rows]
    return copy


def equal(some: NDArray[Any], others: NDArray[Any]) -> bool:
    """Return whether two arrays are equal, compared band by band along their first axis."""
    if some.shape != others.shape:
        return False
    rows = max(1, _BAND_BYTES // max(1, some[:1].nbytes))
    bands = range(0, len(some), rows)
    return all(np.array_equal(some[top : top + rows], others[top : top + rows]) for top in bands)
