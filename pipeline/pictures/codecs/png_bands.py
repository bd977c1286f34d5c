"""The rows of a large PNG, filtered and compressed band by band, as libpng does it at once.

A row is filtered by the one above it, so a band is given to libpng with the last row of the band
before. Source: PNG (third edition), sections 9 and 10.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from pipeline.pictures.picture import channels_last

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

FILTER = imagecodecs.PNG.FILTER.PAETH
"""Of all rows."""

_BODY_BYTES = 8192
"""Compressed data in a chunk, as libpng writes it."""
_BEHIND_HEADER = 33


def filtered_bands(bands: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    """Yield the filtered rows of bands ``(c, rows, x)``, each with its filter in front."""
    above: NDArray[Any] | None = None
    for band in bands:
        rows = channels_last(band)
        if above is None:
            yield _filtered(rows)
        else:
            filtered = _filtered(np.concatenate([above, rows]))
            yield filtered[len(filtered) // (len(rows) + 1) :]
        above = rows[-1:].copy()


def packed_rows(filtered: Iterable[bytes], *, level: int) -> Iterator[bytes]:
    """Yield the compressed data of all rows as the bodies of IDAT chunks."""
    packer = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, 8, zlib.Z_RLE)
    left = b""
    for rows in filtered:
        left += packer.compress(rows)
        whole = len(left) - len(left) % _BODY_BYTES
        for start in range(0, whole, _BODY_BYTES):
            yield left[start : start + _BODY_BYTES]
        left = left[whole:]
    left += packer.flush()
    for start in range(0, len(left), _BODY_BYTES):
        yield left[start : start + _BODY_BYTES]


def _filtered(rows: NDArray[Any]) -> bytes:
    """Return rows ``(y, x)`` or ``(y, x, c)`` as libpng filters them."""
    # The filters and the heads of chunks need more than imagecodecs 2026.3 expects.
    most_bytes = (rows.nbytes + len(rows)) * 101 // 100 + 4096
    stored = imagecodecs.png_encode(rows, level=0, filter=FILTER, out=most_bytes)
    bodies, at = [], _BEHIND_HEADER
    while at < len(stored):
        size, kind = struct.unpack_from(">I4s", stored, at)
        if kind == b"IDAT":
            bodies.append(memoryview(stored)[at + 8 : at + 8 + size])
        at += 12 + size
    return zlib.decompress(b"".join(bodies))
