"""Arrays that are too large for a worker's memory: on the disk, in files without a name.

A decoder fills such an array like any other. It is mapped into memory, and a thread lets go of what
is mapped some times a second, so that the process never holds much of it; the disk, or its cache,
keeps the values. The file is gone with the array, and after a kill.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipeline.errors import DiskError
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import DTypeLike, NDArray

    from pipeline.storage.store import Place

LARGE_BYTES = 96 << 20
"""Arrays of less are in memory."""
_LET_GO_S = 0.02
_BAND_BYTES = 8 << 20


class _Spool:
    """The large arrays of one block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: list[mmap.mmap] = []
        self._ended = Event()
        self._thread: Thread | None = None

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.frombuffer(self.mapped(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

    def mapped(self, size_bytes: int) -> mmap.mmap:
        with tempfile.TemporaryFile(dir=self._folder) as file:
            try:
                # Writing to a mapped file that the disk has no room for would kill the process.
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            except OSError as error:
                raise DiskError(
                    f"{self._folder} has no room for the {size_bytes / 1e6:.0f} MB of a large "
                    f"picture that is decoded there ({error.strerror}); free some space, then "
                    "repeat the command"
                ) from error
            mapped = mmap.mmap(file.fileno(), size_bytes)
        self._mapped.append(mapped)
        if self._thread is None and hasattr(mmap, "MADV_DONTNEED"):
            self._thread = Thread(target=self._let_go, daemon=True)
            self._thread.start()
        return mapped

    def _let_go(self) -> None:
        while not self._ended.wait(_LET_GO_S):
            for mapped in self._mapped:
                mapped.madvise(mmap.MADV_DONTNEED)

    def end(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._mapped.clear()


_SPOOL: ContextVar[_Spool | None] = ContextVar("spool", default=None)


@contextmanager
def spooling_in(place: Place) -> Iterator[None]:
    """Let `large_array` put arrays on the disk of `place`, within the block, in this thread.

    Next to a bucket they are on the disk of temporary files.

    They are meant for the block: after it, nothing lets go of their memory.
    """
    folder = Path(tempfile.gettempdir()) if isinstance(place, BucketPlace) else place
    spool = _Spool(folder)
    token = _SPOOL.set(spool)
    try:
        yield
    finally:
        _SPOOL.reset(token)
        spool.end()


def is_large(shape: tuple[int, ...], dtype: DTypeLike) -> bool:
    """Return whether `large_array` would put an array on the disk."""
    size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return _SPOOL.get() is not None and size_bytes >= LARGE_BYTES


def large_array(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return a new array with whatever values, on the disk if it is large.

    Raises:
        DiskError: if the disk has no room for it.
    """
    spool = _SPOOL.get()
    if spool is None or not is_large(shape, dtype):
        return np.empty(shape, dtype)
    return spool.array(shape, np.dtype(dtype))


def large_bytes(parts: Iterable[bytes | memoryview], size_bytes: int) -> bytes:
    """Return the joined bytes, of `size_bytes` in all, on the disk if they are many.

    These can be sliced, searched, and given to what takes a buffer; they have no other methods of
    bytes. Fewer parts than announced leave them shorter, and what is more is left out.

    Raises:
        DiskError: if the disk has no room for them.
    """
    spool = _SPOOL.get()
    if spool is None or not is_large((size_bytes,), np.uint8):
        return b"".join(parts)
    mapped = spool.mapped(size_bytes)
    for part in parts:
        mapped.write(part[: size_bytes - mapped.tell()])
    if mapped.tell() < size_bytes:
        return mapped[: mapped.tell()]
    mapped.seek(0)
    return cast("bytes", mapped)


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


def equal(some: NDArray[Any], others: NDArray[Any]) -> bool:
    """Return whether two arrays are equal, compared band by band along their first axis."""
    if some.shape != others.shape:
        return False
    rows = max(1, _BAND_BYTES // max(1, some[:1].nbytes))
    bands = range(0, len(some), rows)
    return all(np.array_equal(some[top : top + rows], others[top : top + rows]) for top in bands)
