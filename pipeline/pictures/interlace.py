"""Interlaced PNGs: the seven pictures of Adam7, decoded one by one and put together.

libpng does the same, but in the way that imagecodecs 2026.3 calls it, it prints a warning on
stderr for each file. Source: PNG specification (third edition), section 8.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PictureError
from pipeline.pictures.codecs.declared import no_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

# First row, first column, and the steps between rows and columns of each pass.
_PASSES = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4),
    (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
)  # fmt: skip
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def decode_interlaced(
    header: bytes,
    compressed: bytes,
    *,
    palette: Mapping[bytes, bytes],
    decode: Callable[[bytes], NDArray[Any]],
) -> NDArray[Any]:
    """Return ``(y, x)`` or ``(y, x, c)`` of an interlaced PNG.

    `header` is the body of IHDR, `compressed` those of all IDAT together, `palette` those of PLTE
    and tRNS by their names. `decode` reads a plain PNG.

    Raises:
        PictureError: If data is missing.
    """
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    bits = depth * _SAMPLES[colour]
    sizes = [
        (len(range(row, height, down)), len(range(column, width, right)))
        for row, column, down, right in _PASSES
    ]
    lengths = [(1 + (columns * bits + 7) // 8) * rows if columns else 0 for rows, columns in sizes]
    wanted = sum(lengths)
    filtered = zlib.decompressobj().decompress(compressed, wanted)
    if len(filtered) < wanted:
        raise PictureError(f"holds {len(filtered)} of {wanted} bytes of pixels; it is truncated")
    whole: NDArray[Any] | None = None
    at = 0
    for (row, column, down, right), (rows, columns), length in zip(
        _PASSES, sizes, lengths, strict=True
    ):
        if length:
            plain = struct.pack(">II", columns, rows) + header[8:12] + b"\0"
            one = decode(_png(plain, filtered[at : at + length], palette))
            if whole is None:
                whole = np.empty((height, width, *one.shape[2:]), one.dtype)
            whole[row::down, column::right] = one
            at += length
    if whole is None:
        raise no_pixels(width, height)
    return whole


def _png(header: bytes, filtered: bytes, palette: Mapping[bytes, bytes]) -> bytes:
    packed = zlib.compress(filtered, level=1)
    chunks = [(b"IHDR", header), *palette.items(), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
