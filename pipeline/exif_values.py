"""EXIF values that depend on the pixels, changed in place; all else keeps its bytes and its place.

In place, as the notes of a camera's maker hold positions that count from the start of the EXIF: a
directory that moved would break them. Sources: CIPA DC-008 (EXIF 2.32); TIFF 6.0; OGC GeoTIFF 1.1;
GDAL's RFC 22 (RPC).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.exif import Layout, entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_EXIF, _INTEROP = 34665, 40965
_ORIENTATION = 274
_THUMBNAIL, _THUMBNAIL_BYTES = 513, 514
_SUBJECT = (37396, 41492)  # Area, location.
_FOCAL = (41486, 41487)  # Pixels per unit of the sensor, across and down.
_RESOLUTION, _UNIT = (282, 283), 296
_SIDES = ((256, 257), (40962, 40963), (4097, 4098))
"""Width and height, as the first, the Exif and the interoperability directory call them."""

_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION, _RPC = 33550, 33922, 34264, 50844
_GEO_KEYS, _RASTER_TYPE = 34735, 1025
GEO = (_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION, _RPC)
"""Tags that relate pixels to places on the ground."""
_FORMATS = {1: "B", 3: "H", 4: "I", 5: "I", 10: "i", 12: "d"}
_VALUES = {5: 2, 10: 2}
"""How many numbers one value holds, where not one."""

REMOVED = "the EXIF thumbnail was removed"


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: int
    count: int
    slot: int
    start: int
    size: int


class _Editor:
    """The values of an EXIF structure, to be changed where they are.

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
        self.second: dict[int, _Entry] = {}
        if self.next_at + (8 if self.layout.big else 4) <= len(exif):
            (at,) = self.layout.unpack("I", "Q", exif, self.next_at)
            self.second = self._tried(at) if at else {}

    def _end(self, at: int) -> int:
        (number,) = self.layout.unpack("H", "Q", bytes(self.data), at)
        return int(at + 8 + 20 * number if self.layout.big else at + 2 + 12 * number)

    def _directory(self, at: int) -> dict[int, _Entry]:
        found: dict[int, _Entry] = {}
        data, inline = bytes(self.data), 8 if self.layout.big else 4
        for code, kind, count, slot in entries(data, at, self.layout):
            size = count * struct.calcsize(_FORMATS.get(kind, "B")) * _VALUES.get(kind, 1)
            (place,) = self.layout.unpack("I", "Q", data, slot)
            start = slot if size <= inline else place
            if start + size <= len(data):
                found.setdefault(code, _Entry(kind, count, slot, start, size))
        return found

    def _tried(self, at: int) -> dict[int, _Entry]:
        try:
            return self._directory(at)
        except (ValueError, struct.error):
            return {}

    def _below(self, directory: dict[int, _Entry], code: int) -> dict[int, _Entry]:
        if code not in directory:
            return {}
        (at,) = self.layout.unpack("I", "Q", bytes(self.data), directory[code].slot)
        return self._tried(at)

    def numbers(self, entry: _Entry) -> tuple[float, ...]:
        """Return the numbers of an entry, none if it holds something else."""
        if entry.kind not in _FORMATS:
            return ()
        count = entry.count * _VALUES.get(entry.kind, 1)
        codes = f"{self.layout.order}{count}{_FORMATS[entry.kind]}"
        return struct.unpack_from(codes, self.data, entry.start)

    def put(self, entry: _Entry, numbers: Sequence[float]) -> None:
        """Replace the numbers of an entry; struct.error if its type cannot hold them."""
        codes = f"{self.layout.order}{len(numbers)}{_FORMATS[entry.kind]}"
        struct.pack_into(codes, self.data, entry.start, *numbers)

    def put_side(self, entry: _Entry, pixels: int) -> None:
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
        held = [self.second.get(code) for code in (_THUMBNAIL, _THUMBNAIL_BYTES)]
        if None in held:
            return None
        start, size = (int(self.numbers(entry)[0]) for entry in held if entry and entry.kind == 4)
        if start + size > len(self.data) or start < 8:
            return None
        if start + size + 1 >= len(self.data):
            del self.data[start:]
        else:
            self.data[start : start + size] = bytes(size)
        return start, size


def upright(exif: bytes, turn: int, *, width: int, height: int) -> bytes:
    """Return EXIF for the pixels turned upright from orientation `turn` (1 to 8).

    `width` and `height` are those of the stored picture. EXIF that is damaged stays as it is.
    """
    try:
        editor = _Editor(exif)
        for directory in (editor.first, editor.second):
            if entry := directory.get(_ORIENTATION):
                editor.put_side(entry, 1)
        for code in _SUBJECT:
            if entry := editor.exif.get(code):
                _turn_subject(editor, entry, turn, width, height)
        if turn >= 5:
            _swap(editor, editor.first, _RESOLUTION)
            _swap(editor, editor.exif, _FOCAL)
    except (ValueError, struct.error):
        return exif
    return bytes(editor.data)


def enlarged(exif: bytes, scale: int) -> bytes:
    """Return EXIF in which what counts or locates pixels is of a picture `scale` times as large.

    A place on the ground or a subject stays where it is in the picture.
    """
    try:
        editor = _Editor(exif)
        for code in _SUBJECT:
            if entry := editor.exif.get(code):
                _enlarge_subject(editor, entry, scale)
        for code in _FOCAL:
            if entry := editor.exif.get(code):
                _enlarge_rational(editor, entry, scale)
        _enlarge_map(editor, scale)
    except (ValueError, struct.error):
        return exif
    return bytes(editor.data)


def resized(
    exif: bytes, *, width: int, height: int, thumbnail: Callable[[int], bytes] | None
) -> tuple[bytes, tuple[str, ...]]:
    """Return EXIF with the picture's own size, and its thumbnail made of it again; and notes.

    `thumbnail` makes a JPEG of at most so many pixels a side. A thumbnail that is no JPEG is
    removed, as is every one where there is no `thumbnail`.
    """
    try:
        editor = _Editor(exif)
        for directory, (across, down) in zip(
            (editor.first, editor.exif, editor.interop), _SIDES, strict=True
        ):
            for code, side in ((across, width), (down, height)):
                if entry := directory.get(code):
                    editor.put_side(entry, side)
        notes = _renew_thumbnail(editor, thumbnail)
    except (ValueError, struct.error):
        return exif, ()
    return bytes(editor.data), notes


def holds_map(exif: bytes) -> bool:
    """Return whether EXIF holds GeoTIFF's relation of pixels to places on the ground."""
    try:
        return any(code in _Editor(exif).first for code in GEO)
    except (ValueError, struct.error):
        return False


def dpi_of(exif: bytes) -> tuple[float, float] | None:
    """Return how many pixels EXIF says that there are to an inch, across and down."""
    try:
        editor = _Editor(exif)
        pairs = [editor.numbers(editor.first[code]) for code in _RESOLUTION]
        unit = editor.numbers(editor.first[_UNIT])[0] if _UNIT in editor.first else 2
        across, down = ({2: 1, 3: 2.54}[int(unit)] * top / bottom for top, bottom in pairs)
    except (ValueError, struct.error, KeyError, IndexError, ZeroDivisionError):
        return None
    return (across, down) if across > 0 and down > 0 else None


def turned_point(x: int, y: int, turn: int, *, width: int, height: int) -> tuple[int, int]:
    """Return where a pixel of a stored picture is in the upright one."""
    right, bottom = width - 1 - x, height - 1 - y
    return {
        2: (right, y), 3: (right, bottom), 4: (x, bottom), 5: (y, x),
        6: (bottom, x), 7: (bottom, right), 8: (y, right),
    }.get(turn, (x, y))  # fmt: skip


def _turn_subject(editor: _Editor, entry: _Entry, turn: int, width: int, height: int) -> None:
    x, y, *size = (int(v) for v in (*editor.numbers(entry), 0, 0)[: max(2, entry.count)])
    if entry.kind == 3 and 2 <= entry.count <= 4 and x < width and y < height:
        if turn >= 5:
            size.reverse()
        editor.put(entry, [*turned_point(x, y, turn, width=width, height=height), *size])


def _enlarge_subject(editor: _Editor, entry: _Entry, scale: int) -> None:
    if entry.kind == 3 and 2 <= entry.count <= 4:
        x, y, *size = editor.numbers(entry)
        centre = [int(v * scale + (scale - 1) / 2) for v in (x, y)]
        editor.put(entry, [min(65535, int(v)) for v in (*centre, *(v * scale for v in size))])


def _enlarge_rational(editor: _Editor, entry: _Entry, scale: int) -> None:
    if entry.kind != 5 or entry.count != 1:
        return
    top, bottom = (int(v) for v in editor.numbers(entry))
    if top * scale < 2**32:
        editor.put(entry, [top * scale, bottom])
    else:
        editor.put(entry, [top, max(1, round(bottom / scale))])


def _swap(editor: _Editor, directory: dict[int, _Entry], pair: tuple[int, int]) -> None:
    first, second = (directory.get(code) for code in pair)
    if first and second and first.kind == second.kind == 5 and first.count == second.count == 1:
        values = editor.numbers(first), editor.numbers(second)
        editor.put(first, values[1])
        editor.put(second, values[0])


def _enlarge_map(editor: _Editor, scale: int) -> None:
    """Scale GeoTIFF's tags, in which (i, j) is a corner of a pixel, or its centre, by a key."""
    # What is at raster place i is at `scale * i + shift` of the enlarged picture.
    shift = (scale - 1) / 2 if _counts_centres(editor) else 0.0
    for code, entry in editor.first.items():
        if code not in GEO or entry.kind != 12:
            continue
        numbers = list(editor.numbers(entry))
        if code == _PIXEL_SCALE:
            numbers[:2] = [value / scale for value in numbers[:2]]
        elif code == _TIE_POINTS:
            for at in range(0, len(numbers) - 5, 6):
                numbers[at : at + 2] = [scale * value + shift for value in numbers[at : at + 2]]
        elif code == _TRANSFORMATION and len(numbers) == 16:
            numbers = list(_enlarged_transformation(numbers, scale, shift))
        elif code == _RPC and len(numbers) >= 9:
            centre = (scale - 1) / 2  # RPC always count from the centre of the first pixel.
            numbers[2:4] = [scale * value + centre for value in numbers[2:4]]
            numbers[7:9] = [scale * value for value in numbers[7:9]]
        editor.put(entry, numbers)


def _enlarged_transformation(numbers: list[float], scale: int, shift: float) -> Iterator[float]:
    """Yield the 4 x 4 matrix that takes the enlarged raster to the same places as before."""
    for row in range(0, 16, 4):
        a, b, c, d = numbers[row : row + 4]
        if row == 12:
            yield from (a, b, c, d)
        else:
            yield from (a / scale, b / scale, c, d - (a + b) * shift / scale)


def _counts_centres(editor: _Editor) -> bool:
    entry = editor.first.get(_GEO_KEYS)
    if entry is None or entry.kind != 3:
        return False
    keys = editor.numbers(entry)
    return any(
        keys[at] == _RASTER_TYPE and keys[at + 1] == 0 and keys[at + 3] == 2
        for at in range(4, len(keys) - 3, 4)
    )


def _renew_thumbnail(editor: _Editor, thumbnail: Callable[[int], bytes] | None) -> tuple[str, ...]:
    if not editor.second:
        return ()
    place = editor.cut_thumbnail()
    if place is None or thumbnail is None:
        struct.pack_into(
            editor.layout.order + ("Q" if editor.layout.big else "I"),
            editor.data,
            editor.next_at,
            0,
        )
        return (REMOVED,)
    jpeg = thumbnail(160)
    start, size = place
    if len(jpeg) > size or start >= len(editor.data):
        if start < len(editor.data):
            start = len(editor.data) + len(editor.data) % 2
        editor.data += bytes(start - len(editor.data)) + jpeg
    else:
        editor.data[start : start + len(jpeg)] = jpeg
    editor.put(editor.second[_THUMBNAIL], [start])
    editor.put(editor.second[_THUMBNAIL_BYTES], [len(jpeg)])
    _describe_thumbnail(editor, jpeg)
    return ()


def _describe_thumbnail(editor: _Editor, jpeg: bytes) -> None:
    at = jpeg.index(b"\xff\xc0")
    height, width = struct.unpack_from(">HH", jpeg, at + 5)
    for code, value in ((256, width), (257, height), (_ORIENTATION, 1)):
        if entry := editor.second.get(code):
            editor.put_side(entry, value)
