"""Small pictures for showing: thumbnails within files, and pictures in reports."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from pipeline.pictures.codecs.pillow import save
from pipeline.pictures.formats import holding
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import Picture, channels_last
from pipeline.pictures.strips import OneStrip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.pictures.strips import Strips


def thumbnail(pixels: Strips, most_px: int) -> bytes:
    """Return a JPEG of at most `most_px` a side, in the colours of the pixels, without alpha."""
    channels, height, width = pixels.shape
    # Of a picture of thousands of pixels a side, every so manieth is enough.
    step = max(1, max(height, width) // (4 * most_px))
    colours = _every(step, pixels, channels=1 if channels <= 2 else 3)
    if colours.dtype == np.float32:
        colours = np.rint(np.clip(np.nan_to_num(colours), 0, 1) * 255).astype(np.uint8)
    elif colours.dtype == np.uint16:
        colours = (colours >> 8).astype(np.uint8)
    image = Image.fromarray(channels_last(colours))
    share = min(1.0, most_px / max(height, width))
    image = image.resize((max(1, round(width * share)), max(1, round(height * share))))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _every(step: int, pixels: Strips, *, channels: int) -> NDArray[Any]:
    """Return ``pixels[:channels, ::step, ::step]``."""
    parts, top = [], 0
    for strip in pixels:
        # A copy, as the strip may be much of a large picture.
        parts.append(strip[:channels, -top % step :: step, ::step].copy())
        top += strip.shape[1]
    return np.concatenate(parts, axis=1)


def encode_preview(pixels: NDArray[Any], *, format: Literal["jpeg", "png"]) -> bytes:
    """Return grey or RGB ``(c, y, x)`` of uint8 as the bytes of a small file, for showing.

    Raises:
        PictureError: If JPEG or PNG cannot hold the pixels.
    """
    picture = Picture(pixels=pixels, metadata=Metadata(format=format, mode="RGB"))
    holding(format, picture.pixels.shape, picture.pixels.dtype.name)
    options = {"quality": 90, "subsampling": 0} if format == "jpeg" else {}
    return save(OneStrip(pixels), format.upper(), picture.metadata, options)
