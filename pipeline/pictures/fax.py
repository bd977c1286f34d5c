"""CCITT compression of black and white TIFFs, decoded strictly: Huffman rows, group 3 and group 4.

The decoders of others make white of what they cannot read, and do not say so. This one refuses a
row that does not fill the width to the pixel. Sources: ITU-T T.4 and T.6, TIFF 6.0 sections 10
and 11.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import PictureError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Codes of runs: 0 to 63 pixels, then 64, 128 and so on to 1728.
_WHITE = """
00110101 000111 0111 1000 1011 1100 1110 1111 10011 10100 00111 01000 001000 000011 110100
110101 101010 101011 0100111 0001100 0001000 0010111 0000011 0000100 0101000 0101011 0010011
0100100 0011000 00000010 00000011 00011010 00011011 00010010 00010011 00010100 00010101 00010110
00010111 00101000 00101001 00101010 00101011 00101100 00101101 00000100 00000101 00001010
00001011 01010010 01010011 01010100 01010101 00100100 00100101 01011000 01011001 01011010
01011011 01001010 01001011 00110010 00110011 00110100 11011 10010 010111 0110111 00110110
00110111 01100100 01100101 01101000 01100111 011001100 011001101 011010010 011010011 011010100
011010101 011010110 011010111 011011000 011011001 011011010 011011011 010011000 010011001
010011010 011000 010011011
""".split()  # noqa: SIM905
_BLACK = """
0000110111 010 11 10 011 0011 0010 00011 000101 000100 0000100 0000101 0000111 00000100 00000111
000011000 0000010111 0000011000 0000001000 00001100111 00001101000 00001101100 00000110111
00000101000 00000010111 00000011000 000011001010 000011001011 000011001100 000011001101
000001101000 000001101001 000001101010 000001101011 000011010010 000011010011 000011010100
000011010101 000011010110 000011010111 000001101100 000001101101 000011011010 000011011011
000001010100 000001010101 000001010110 000001010111 000001100100 000001100101 000001010010
000001010011 000000100100 000000110111 000000111000 000000100111 000000101000 000001011000
000001011001 000000101011 000000101100 000001011010 000001100110 000001100111 0000001111
000011001000 000011001001 000001011011 000000110011 000000110100 000000110101 0000001101100
0000001101101 0000001001010 0000001001011 0000001001100 0000001001101 0000001110010
0000001110011 0000001110100 0000001110101 0000001110110 0000001110111 0000001010010
0000001010011 0000001010100 0000001010101 0000001011010 0000001011011 0000001100100
0000001100101
""".split()  # noqa: SIM905
# Of either colour: 1792, 1856 and so on to 2560.
_LONG = """
00000001000 00000001100 00000001101 000000010010 000000010011 000000010100 000000010101
000000010110 000000010111 000000011100 000000011101 000000011110 000000011111
""".split()  # noqa: SIM905
_LONGEST = 13
# Modes of two-dimensional rows: how far a change moves from the one above, up to 3; two others.
_PASS, _HORIZONTAL = 4, 5
_MODES = {
    "1": 0,
    "011": 1,
    "010": -1,
    "000011": 2,
    "000010": -2,
    "0000011": 3,
    "0000010": -3,
    "0001": _PASS,
    "001": _HORIZONTAL,
}
_LONGEST_MODE = 7
_END_OF_LINE = 11
"""So many zeros or more, then a one."""
HUFFMAN, GROUP_3, GROUP_4 = 2, 3, 4
"""As the tag Compression names them."""
_TWO_DIMENSIONAL = 1


def _prefixes(codes: dict[str, int], longest: int) -> dict[str, tuple[int, int]]:
    """Return what all strings of `longest` bits begin with: the value, and its code's length."""
    return {
        (code + "".join(rest)): (value, len(code))
        for code, value in codes.items()
        for rest in product("01", repeat=longest - len(code))
    }


def _runs(short: list[str]) -> dict[str, tuple[int, int]]:
    lengths = [*range(64), *range(64, 1729, 64), *range(1792, 2561, 64)]
    return _prefixes(dict(zip([*short, *_LONG], lengths, strict=True)), _LONGEST)


_RUNS = (_runs(_WHITE), _runs(_BLACK))
_MODE_OF = _prefixes(_MODES, _LONGEST_MODE)


def decode_fax(
    data: bytes, *, rows: int, width: int, compression: int, options: int = 0
) -> NDArray[np.uint8]:
    """Return ``(rows, width)`` of 0 (white) and 1 (black).

    `options` is the tag T4Options; bits come first to last from the highest of a byte.

    Raises:
        PictureError: A row is damaged, or the data ends before it does.
    """
    bits = (np.unpackbits(np.frombuffer(data, np.uint8)) + 48).tobytes().decode("ascii")
    reader = _Reader(bits + "0" * _LONGEST, len(bits), width)
    runs: list[int] = []
    above: list[int] = []
    for row in range(rows):
        try:
            above = reader.row(above, compression, options)
        except (KeyError, ValueError, IndexError):
            raise PictureError(
                f"the compressed data of row {row + 1} of {rows} is damaged or missing; "
                f"restore the file from its origin"
            ) from None
        ends = [0, *above, width]
        runs.extend(end - start for start, end in pairwise(ends))
        if len(ends) % 2 == 0:
            runs.append(0)  # Each row begins with white.
    colours = np.tile(np.array([0, 1], np.uint8), len(runs) // 2)
    return np.repeat(colours, runs).reshape(rows, width)


@dataclass(slots=True)
class _Reader:
    """Reads rows as the columns where the colour changes, white to black first."""

    bits: str
    """Zeros and ones, with zeros after the last."""
    count: int
    width: int
    at: int = 0
    beyond: list[int] = field(init=False)
    """Stands after the changes of every row."""

    def __post_init__(self) -> None:
        self.beyond = [self.width] * 3

    def row(self, above: list[int], compression: int, options: int) -> list[int]:
        """Return the changes of the next row.

        Raises:
            KeyError, ValueError, IndexError: If it is not a whole one.
        """
        flat = compression == HUFFMAN
        if compression == GROUP_3:
            self._skip_end_of_line()
            flat = True
            if options & _TWO_DIMENSIONAL:
                flat = self.bits[self.at] == "1"
                self.at += 1
        changes = self._flat() if flat else self._by_the_row(above)
        if compression == HUFFMAN:
            self.at += -self.at % 8
        if self.at > self.count:
            raise ValueError("the data ends within the row")
        return changes

    def _skip_end_of_line(self) -> None:
        one = self.bits.find("1", self.at)
        if one - self.at >= _END_OF_LINE:
            self.at = one + 1

    def _run(self, colour: int) -> int:
        """Return the length of the next run: any number of long codes, then a short one."""
        table = _RUNS[colour]
        length = 0
        while True:
            part, size = table[self.bits[self.at : self.at + _LONGEST]]
            self.at += size
            length += part
            if part < 64:
                return length

    def _flat(self) -> list[int]:
        changes: list[int] = []
        place = colour = 0
        while place < self.width:
            place += self._run(colour)
            changes.append(place)
            colour ^= 1
        if place > self.width:
            raise ValueError("the row is too long")
        return changes

    def _by_the_row(self, above: list[int]) -> list[int]:
        above = above + self.beyond
        changes: list[int] = []
        place, colour, next_above = -1, 0, 0
        while place < self.width:
            # The first change above, right of here, to the other colour.
            next_above = max(0, next_above - 2) | 1 if colour else max(0, next_above - 2) & ~1
            while above[next_above] <= place < self.width and next_above + 2 < len(above):
                next_above += 2
            mode, size = _MODE_OF[self.bits[self.at : self.at + _LONGEST_MODE]]
            self.at += size
            if mode == _PASS:
                place = above[next_above + 1]
                continue
            if mode == _HORIZONTAL:
                start = max(0, place) + self._run(colour)
                stop = start + self._run(colour ^ 1)
                changes += (start, stop)
            else:
                stop = above[next_above] + mode
                changes.append(stop)
                colour ^= 1
            if not max(0, place) <= stop <= self.width:
                raise ValueError("a change stands outside the row")
            place = stop
        return changes
