"""One JPEG of strips that were compressed one by one, with a restart marker between them.

At a restart marker a decoder forgets what came before, so each strip's data stays as it is. The
file is the one that the same encoder writes of the whole picture if it is asked for restart
markers. Only for baseline JPEGs of fixed Huffman tables without subsampling, whose units are blocks
of 8 x 8 pixels. Source: ITU-T T.81, B.2.4.4 and E.1.4.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_PX = 8
_MOST_BLOCKS = 65_535
"""What a restart interval may hold."""
_SOF, _DRI, _SOS, _RST, _EOI = 0xC0, 0xDD, 0xDA, 0xD0, b"\xff\xd9"


def interval_rows(width: int) -> int:
    """Return the most rows of pixels that a strip of this width may have."""
    return _MOST_BLOCKS // _blocks(width) * BLOCK_PX


def join(file: BinaryIO, strips: Iterator[bytes], *, width: int, height: int, rows: int) -> None:
    """Write the JPEG of a picture from the JPEGs of its strips of `rows`, from top to bottom.

    The first one's header, with its metadata, becomes that of the file. `rows` is a multiple of 8.
    """
    interval = _blocks(width) * (rows // BLOCK_PX)
    for number, strip in enumerate(strips):
        sof, sos, scan = _places(strip)
        if number == 0:
            size = struct.pack(">H", height)
            restarts = struct.pack(">BBHH", 0xFF, _DRI, 4, interval)
            file.write(strip[: sof + 5] + size + strip[sof + 7 : sos] + restarts + strip[sos:scan])
        else:
            file.write(bytes([0xFF, _RST + (number - 1) % 8]))
        file.write(memoryview(strip)[scan : len(strip) - len(_EOI)])
    file.write(_EOI)


def _blocks(width: int) -> int:
    return -(-width // BLOCK_PX)


def _places(jpeg: bytes) -> tuple[int, int, int]:
    """Return where the frame header, the scan header and the compressed data of a JPEG begin."""
    at, frame = 2, 0
    while True:
        marker = jpeg[at + 1]
        behind = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == _SOS:
            return frame, at, behind
        if marker == _SOF:
            frame = at
        at = behind
