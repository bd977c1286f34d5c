"""How a JPEG file was compressed, by its header alone: nothing is decoded."""

from __future__ import annotations

from typing import NamedTuple

from PIL import JpegImagePlugin

from pipeline.pictures.codecs.jpeg import opened_jpeg

_SUBSAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


class Compression(NamedTuple):
    """What the header of a JPEG says of its compression."""

    luma: tuple[int, ...]
    """The 64 steps of the first table, row by row."""
    subsampling: str
    """Of the chroma, such as 4:2:0; "" where there is none, or another."""


def jpeg_compression(data: bytes) -> Compression | None:
    """Return how a JPEG file was compressed; None where its header cannot be read."""
    try:
        with opened_jpeg(data) as image:
            if not image.quantization:
                return None
            grey = len(image.getbands()) < 3
            code = -1 if grey else JpegImagePlugin.get_sampling(image)
            luma = tuple(image.quantization[min(image.quantization)])
    except (OSError, ValueError, SyntaxError):
        return None
    return Compression(luma, _SUBSAMPLING.get(code, ""))
