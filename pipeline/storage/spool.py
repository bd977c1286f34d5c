"""What is too large for a worker's memory: on the disk, in files without a name.

Such a file is mapped into memory, and a thread lets go of what is mapped some times a second, so
that the process never holds much of it; the disk, or its cache, keeps the values. The file is gone
with what was made of it, and after a kill.

What belongs here: bytes, which a start of the command line may need. Not: arrays (`large_arrays`).
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, BinaryIO, cast
from weakref import ref

from pipeline.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline.storage.store import Place

LARGE_BYTES = 96 << 20
"""What takes less is in memory."""
_LET_GO_S = 0.02
_PART_BYTES = 8 << 20


class _Spool:
    """The files of one block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: list[ref[mmap.mmap]] = []
        self._ended = Event()
        self._thread: Thread | None = None

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
        self._mapped.append(ref(mapped))
        if self._thread is None and hasattr(mmap, "MADV_DONTNEED"):
            self._thread = Thread(target=self._let_go, daemon=True)
            self._thread.start()
        return mapped

    def _let_go(self) -> None:
        while not self._ended.wait(_LET_GO_S):
            for each in self._mapped:
                mapped = each()
                if mapped is not None:
                    mapped.madvise(mmap.MADV_DONTNEED)
                del mapped  # Whoever else has it decides when its file goes.

    def end(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._mapped.clear()


_SPOOL: ContextVar[_Spool | None] = ContextVar("spool", default=None)


@contextmanager
def spooling_in(place: Place) -> Iterator[None]:
    """Let what is large go to the disk of `place`, within the block, in this thread.

    Next to a bucket that is the disk of temporary files.

    It is meant for the block: after it, nothing lets go of its memory.
    """
    folder = place if isinstance(place, Path) else Path(tempfile.gettempdir())
    spool = _Spool(folder)
    token = _SPOOL.set(spool)
    try:
        yield
    finally:
        _SPOOL.reset(token)
        spool.end()


def is_spooled(size_bytes: int) -> bool:
    """Return whether so many bytes go to the disk, here and now."""
    return _SPOOL.get() is not None and size_bytes >= LARGE_BYTES


def mapped_file(size_bytes: int) -> mmap.mmap | None:
    """Return a new file for so many bytes, mapped; None where they are for memory.

    Raises:
        DiskError: if the disk has no room for it.
    """
    spool = _SPOOL.get()
    return spool.mapped(size_bytes) if spool is not None and is_spooled(size_bytes) else None


def large_bytes(parts: Iterable[bytes | memoryview], size_bytes: int) -> bytes:
    """Return the joined bytes, of `size_bytes` in all, on the disk if they are many.

    These can be sliced, searched, and given to what takes a buffer; they have no other methods of
    bytes. Fewer parts than announced leave them shorter, and what is more is left out.

    Raises:
        DiskError: if the disk has no room for them.
    """
    mapped = mapped_file(size_bytes)
    if mapped is None:
        return b"".join(parts)
    for part in parts:
        mapped.write(part[: size_bytes - mapped.tell()])
    if not mapped.tell():
        return b""
    if mapped.tell() < size_bytes:
        mapped.resize(mapped.tell())
    return cast("bytes", mapped)


def read_bytes(file: BinaryIO, size_bytes: int) -> bytes:
    """Read as ``file.read(size_bytes)`` does; many bytes are on the disk, as `large_bytes` says.

    Raises:
        DiskError: if the disk has no room for them.
    """
    if not is_spooled(size_bytes):
        return file.read(size_bytes)
    starts = range(0, size_bytes, _PART_BYTES)
    sizes = (min(_PART_BYTES, size_bytes - start) for start in starts)
    return large_bytes(map(file.read, sizes), size_bytes)


def as_file(data: bytes) -> BinaryIO:
    """Return bytes as a file at its start, without a copy of those that `large_bytes` put on disk.

    Of these there is one file at a time: whoever asks again begins anew.
    """
    if isinstance(data, mmap.mmap):
        data.seek(0)
        return cast("BinaryIO", data)
    return BytesIO(data)
