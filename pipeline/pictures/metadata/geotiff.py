"""GeoTIFF: the tags that relate pixels to places on the ground, for a larger raster.

Sources: OGC GeoTIFF 1.1; GDAL's RFC 22 (RPC).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pipeline.pictures.metadata.exif_editor import Editor

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION, _RPC = 33550, 33922, 34264, 50844
_GEO_KEYS, _RASTER_TYPE = 34735, 1025
TAGS = (_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION, _RPC)
"""Tags that relate pixels to places on the ground."""
_DOUBLE = 12


def holds_map(exif: bytes) -> bool:
    """Return whether EXIF holds GeoTIFF's relation of pixels to places on the ground."""
    try:
        return any(code in Editor(exif).first for code in TAGS)
    except (ValueError, struct.error):
        return False


def enlarge(editor: Editor, scale: int) -> None:
    """Scale the tags, in which (i, j) is a corner of a pixel, or its centre, as a key says."""
    # What is at raster place i is at `scale * i + shift` of the enlarged picture.
    shift = (scale - 1) / 2 if _counts_centres(editor) else 0.0
    for code, entry in editor.first.items():
        if code not in TAGS or entry.kind != _DOUBLE:
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


def _counts_centres(editor: Editor) -> bool:
    entry = editor.first.get(_GEO_KEYS)
    if entry is None or entry.kind != 3:
        return False
    keys = editor.numbers(entry)
    return any(
        keys[at] == _RASTER_TYPE and keys[at + 1] == 0 and keys[at + 3] == 2
        for at in range(4, len(keys) - 3, 4)
    )
