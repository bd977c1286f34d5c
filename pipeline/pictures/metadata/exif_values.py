"""EXIF values that depend on the pixels, changed in place by `exif_editor`.

Sources: CIPA DC-008 (EXIF 2.32); TIFF 6.0.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pipeline.errors import UpresError
from pipeline.pictures.metadata import geotiff
from pipeline.pictures.metadata.exif_editor import THUMBNAIL, THUMBNAIL_BYTES, Editor

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.pictures.metadata.exif_editor import Entry

_ORIENTATION = 274
_SUBJECT = (37396, 41492)  # Area, location.
_FOCAL = (41486, 41487)  # Pixels per unit of the sensor, across and down.
_RESOLUTION, _UNIT = (282, 283), 296
_SIDES = ((256, 257), (40962, 40963), (4097, 4098))
"""Width and height, as the first, the Exif and the interoperability directory call them."""


REMOVED = "the EXIF thumbnail was removed"


def upright(exif: bytes, turn: int, *, width: int, height: int) -> bytes:
    """Return EXIF for the pixels turned upright from orientation `turn` (1 to 8).

    `width` and `height` are those of the stored picture. EXIF that is damaged stays as it is.
    """
    try:
        editor = Editor(exif)
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
        editor = Editor(exif)
        for code in _SUBJECT:
            if entry := editor.exif.get(code):
                _enlarge_subject(editor, entry, scale)
        for code in _FOCAL:
            if entry := editor.exif.get(code):
                _enlarge_rational(editor, entry, scale)
        geotiff.enlarge(editor, scale)
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
        editor = Editor(exif)
        for directory, (across, down) in zip(
            (editor.first, editor.exif, editor.interop), _SIDES, strict=True
        ):
            for code, side in ((across, width), (down, height)):
                if entry := directory.get(code):
                    editor.put_side(entry, side)
        notes = _renew_thumbnail(editor, thumbnail)
    except UpresError:  # Of the pixels that the thumbnail is made of.
        raise
    except (ValueError, struct.error):
        return exif, ()
    return bytes(editor.data), notes


def dpi_of(exif: bytes) -> tuple[float, float] | None:
    """Return how many pixels EXIF says that there are to an inch, across and down."""
    try:
        editor = Editor(exif)
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


def _turn_subject(editor: Editor, entry: Entry, turn: int, width: int, height: int) -> None:
    x, y, *size = (int(v) for v in (*editor.numbers(entry), 0, 0)[: max(2, entry.count)])
    if entry.kind == 3 and 2 <= entry.count <= 4 and x < width and y < height:
        if turn >= 5:
            size.reverse()
        editor.put(entry, [*turned_point(x, y, turn, width=width, height=height), *size])


def _enlarge_subject(editor: Editor, entry: Entry, scale: int) -> None:
    if entry.kind == 3 and 2 <= entry.count <= 4:
        x, y, *size = editor.numbers(entry)
        centre = [int(v * scale + (scale - 1) / 2) for v in (x, y)]
        editor.put(entry, [min(65535, int(v)) for v in (*centre, *(v * scale for v in size))])


def _enlarge_rational(editor: Editor, entry: Entry, scale: int) -> None:
    if entry.kind != 5 or entry.count != 1:
        return
    top, bottom = (int(v) for v in editor.numbers(entry))
    if top * scale < 2**32:
        editor.put(entry, [top * scale, bottom])
    else:
        editor.put(entry, [top, max(1, round(bottom / scale))])


def _swap(editor: Editor, directory: dict[int, Entry], pair: tuple[int, int]) -> None:
    first, second = (directory.get(code) for code in pair)
    if first and second and first.kind == second.kind == 5 and first.count == second.count == 1:
        values = editor.numbers(first), editor.numbers(second)
        editor.put(first, values[1])
        editor.put(second, values[0])


def _renew_thumbnail(editor: Editor, thumbnail: Callable[[int], bytes] | None) -> tuple[str, ...]:
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
    editor.put(editor.second[THUMBNAIL], [start])
    editor.put(editor.second[THUMBNAIL_BYTES], [len(jpeg)])
    _describe_thumbnail(editor, jpeg)
    return ()


def _describe_thumbnail(editor: Editor, jpeg: bytes) -> None:
    at = jpeg.index(b"\xff\xc0")
    height, width = struct.unpack_from(">HH", jpeg, at + 5)
    for code, value in ((256, width), (257, height), (_ORIENTATION, 1)):
        if entry := editor.second.get(code):
            editor.put_side(entry, value)
