"""The values of an EXIF structure, changed where they are: nothing else moves.

In place, as the notes of a camera's maker hold positions that count from the start of the EXIF: a
directory that moved would break them. Which values change, and to what, is not said here.
Sources: CIPA DC-008 (EXIF 2.32); TIFF 6.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.pictures.metadata.tiff_tree import Layout, entries

if TYPE_CHECKING:
    from collections.abc import Sequence

THUMBNAIL, THUMBNAIL_BYTES = 513, 514
_EXIF, _INTEROP = 34665, 40965
_FORMATS = {1: "B", 3: "H", 4: "I", 5: "I", 10: "i", 12: "d"}
_VALUES = {5: 2, 10: 2}
"""How many numbers one value holds, where not one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: the place of its slot in the directory, and where its value is."""

    kind: int
    count: int
    slot: int
    start: int
    size: int


class Editor:
    """The values of an EXIF structure, by directory: of picture, exposure, thumbnail.

    Raises:
        ValueError, struct.error: if it is damaged.
    """

    def __init__(self, exif: bytes) -> None:
        self.data = bytearray(exif)
        self.layout = Layout.of(exif)
        root = self.layout.root(exif)
        self.first = self._directory(root)
        self.exif = self._below(self.first, _EXIF)
        self.interop = self._below(self.exif, _INTEROP)
        self.next_at = self._end(root)
        self.second: dict[int, Entry] = {}
        if self.next_at + (8 if self.layout.big else 4) <= len(exif):
            (at,) = self.layout.unpack("I", "Q", exif, self.next_at)
            self.second = self._tried(at) if at else {}

    def _end(self, at: int) -> int:
        (number,) = self.layout.unpack("H", "Q", bytes(self.data), at)
        return int(at + 8 + 20 * number if self.layout.big else at + 2 + 12 * number)

    def _directory(self, at: int) -> dict[int, Entry]:
        found: dict[int, Entry] = {}
        data, inline = bytes(self.data), 8 if self.layout.big else 4
        for code, kind, count, slot in entries(data, at, self.layout):
            size = count * struct.calcsize(_FORMATS.get(kind, "B")) * _VALUES.get(kind, 1)
            (place,) = self.layout.unpack("I", "Q", data, slot)
            start = slot if size <= inline else place
            if start + size <= len(data):
                found.setdefault(code, Entry(kind, count, slot, start, size))
        return found

    def _tried(self, at: int) -> dict[int, Entry]:
        try:
            return self._directory(at)
        except (ValueError, struct.error):
            return {}

    def _below(self, directory: dict[int, Entry], code: int) -> dict[int, Entry]:
        if code not in directory:
            return {}
        (at,) = self.layout.unpack("I", "Q", bytes(self.data), directory[code].slot)
        return self._tried(at)

    def numbers(self, entry: Entry) -> tuple[float, ...]:
        """Return the numbers of an entry, none if it holds something else."""
        if entry.kind not in _FORMATS:
            return ()
        count = entry.count * _VALUES.get(entry.kind, 1)
        codes = f"{self.layout.order}{count}{_FORMATS[entry.kind]}"
        return struct.unpack_from(codes, self.data, entry.start)

    def put(self, entry: Entry, numbers: Sequence[float]) -> None:
        """Replace the numbers of an entry; struct.error if its type cannot hold them."""
        codes = f"{self.layout.order}{len(numbers)}{_FORMATS[entry.kind]}"
        struct.pack_into(codes, self.data, entry.start, *numbers)

    def put_side(self, entry: Entry, pixels: int) -> None:
        """Replace one integer, as 16 or 32 bits."""
        if entry.count != 1 or entry.kind not in (3, 4):
            return
        if pixels > 65535 and entry.kind == 3:
            kind_at = entry.slot - (10 if self.layout.big else 6)
            struct.pack_into(f"{self.layout.order}H", self.data, kind_at, 4)
            entry = replace(entry, kind=4)
        self.put(entry, [pixels])

    def cut_thumbnail(self) -> tuple[int, int] | None:
        """Take the bytes of the thumbnail out; return where they were, None where there are none.

        At the end of the EXIF, where cameras put it, it leaves no gap.
        """
        held = [self.second.get(code) for code in (THUMBNAIL, THUMBNAIL_BYTES)]
        found = [int(self.numbers(e)[0]) for e in held if e and (e.kind, e.count) == (4, 1)]
        if len(found) < 2:
            return None
        start, size = found
        if start + size > len(self.data) or self.data[start : start + 2] != b"\xff\xd8":
            return None
        if start + size + 1 >= len(self.data):
            del self.data[start:]
        else:
            self.data[start : start + size] = bytes(size)
        return start, size
