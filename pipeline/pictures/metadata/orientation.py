"""Which way up: pixels turned as their metadata says, and the metadata reset."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.pictures.metadata import travel
from pipeline.pictures.metadata.exif import find_orientation, reset_orientation
from pipeline.pictures.picture import Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray


def upright(picture: Picture) -> Picture:
    """Return the picture as its EXIF orientation shows it, the orientation reset to 1."""
    metadata, pixels = picture.metadata, picture.pixels
    if metadata.exif is not None and (found := find_orientation(metadata.exif)):
        turn, at = found
        pixels = _turn(pixels, turn)
        exif = reset_orientation(metadata.exif, at)
        xmp = metadata.xmp and _XMP_ORIENTATION.sub(rb"\g<1>1\g<3>", metadata.xmp)
        metadata = replace(metadata, exif=exif, xmp=xmp)
        height, width = picture.pixels.shape[1:]
        metadata = travel.upright(metadata, turn, width=width, height=height)
    elif metadata.xmp and (said := _XMP_ORIENTATION.search(metadata.xmp)):
        # EXIF goes first; where it says nothing XMP counts (Metadata Working Group, 2010).
        turn = int(said[2])
        pixels = _turn(pixels, turn)
        xmp = _XMP_ORIENTATION.sub(rb"\g<1>1\g<3>", metadata.xmp)
        height, width = picture.pixels.shape[1:]
        metadata = travel.upright(replace(metadata, xmp=xmp), turn, width=width, height=height)
    return Picture(pixels=pixels, metadata=metadata)


_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)([1-8])(\s*[\"'<])")


def _turn(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return (c, y, x) pixels upright; orientation as in EXIF, 1 to 8, others mean 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, :, ::-1]
    return pixels
