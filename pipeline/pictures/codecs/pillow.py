"""What Pillow encodes, with the metadata that it writes itself."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipeline.pictures.metadata.exif import PREFIX as EXIF_PREFIX
from pipeline.pictures.picture import channels_last, mode_of
from pipeline.pictures.strips import OneStrip

if TYPE_CHECKING:
    from pipeline.pictures.metadata.metadata import Metadata
    from pipeline.pictures.strips import Strips


def save(pixels: Strips, format: str, metadata: Metadata, options: dict[str, Any]) -> bytes:
    """Return the bytes of a file that holds 8-bit pixels, with ICC, EXIF and XMP.

    Takes 4 bytes a pixel, and what the encoder takes.
    """
    kept = {"icc_profile": metadata.icc, "xmp": metadata.xmp}
    kept["exif"] = EXIF_PREFIX + metadata.exif if metadata.exif else None
    file = io.BytesIO()
    present = {key: value for key, value in kept.items() if value}
    _image(pixels).save(file, format, **options, **present)
    return file.getvalue()


def _image(pixels: Strips) -> Image.Image:
    if isinstance(pixels, OneStrip):
        return Image.fromarray(channels_last(pixels.pixels))
    channels, height, width = pixels.shape
    image = Image.new(mode_of(channels, pixels.dtype), (width, height))
    top = 0
    for strip in pixels:
        image.paste(Image.fromarray(channels_last(strip)), (0, top))
        top += strip.shape[1]
    return image
