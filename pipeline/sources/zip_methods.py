"""How zip archives compress their members, and what comes of it, piece by piece."""

from __future__ import annotations

import bz2
import zipfile
import zlib
from typing import TYPE_CHECKING

from pipeline.storage.spool import large_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
"""Those that upres reads."""

_PIECE_BYTES = 1 << 20


def decompressed(stored: bytes, method: int, most_bytes: int) -> bytes:
    """Return what a member's stored bytes hold, at most the first `most_bytes` of it.

    They are on the disk where they are many, as `large_bytes` says.

    Raises:
        OSError, zlib.error: if they are damaged.
    """
    if method == zipfile.ZIP_STORED:
        return stored if len(stored) <= most_bytes else stored[:most_bytes]
    pieces = _of_bzip2(stored) if method == zipfile.ZIP_BZIP2 else _of_deflate(stored)
    return large_bytes(_first(most_bytes, pieces), most_bytes)


def _first(most_bytes: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces until so many bytes are there: those behind are never made."""
    for piece in pieces:
        yield piece[:most_bytes]
        most_bytes -= len(piece)
        if most_bytes <= 0:
            return


def _cut(stored: bytes) -> Iterator[bytes]:
    return (stored[at : at + _PIECE_BYTES] for at in range(0, len(stored), _PIECE_BYTES))


def _of_deflate(stored: bytes) -> Iterator[bytes]:
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    for waiting in _cut(stored):
        while waiting:
            yield unpack.decompress(waiting, _PIECE_BYTES)
            waiting = unpack.unconsumed_tail
    yield unpack.flush()


def _of_bzip2(stored: bytes) -> Iterator[bytes]:
    unpack = bz2.BZ2Decompressor()
    for waiting in _cut(stored):
        if unpack.eof:
            return
        yield unpack.decompress(waiting, _PIECE_BYTES)
        while not (unpack.needs_input or unpack.eof):
            yield unpack.decompress(b"", _PIECE_BYTES)
