"""A picture: its pixels and what its file says besides them, as one value.

What belongs here: the shape, depth and order of pixels. Not: files (`files`, `codecs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PictureError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.pictures.metadata.metadata import Metadata

WHITE = {"uint8": 255, "uint16": 65535, "float32": 1}
"""The value of white by the name of the dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Pixels (c, y, x) of dtype uint8, uint16 or float32, and the metadata of their file.

    c is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for RGB and alpha; alpha is never
    premultiplied. float32 is finite, with 0..1 as its range.
    """

    pixels: NDArray[Any]
    metadata: Metadata

    def __post_init__(self) -> None:
        """Refuse pixels that no file could have held."""
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or not 1 <= shape[0] <= 4 or 0 in shape:
            raise PictureError(f"pixels have shape {shape}, expected (c, y, x) with c from 1 to 4")
        if dtype not in map(np.dtype, WHITE):
            raise PictureError(f"pixels are {dtype}, expected uint8, uint16 or float32")


def channels_first(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (y, x) or (y, x, c) as (c, y, x)."""
    return np.moveaxis(np.atleast_3d(pixels), 2, 0)


def mode_of(channels: int, dtype: np.dtype[Any]) -> str:
    """Return what Pillow calls pixels of this many channels and depth, such as "RGB;16"."""
    if channels == 1:
        return {"uint8": "L", "uint16": "I;16", "float32": "F"}[dtype.name]
    base = ("LA", "RGB", "RGBA")[channels - 2]
    return base + {"uint8": "", "uint16": ";16", "float32": ";32F"}[dtype.name]


def channels_last(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (c, y, x) as (y, x), or (y, x, c) with more than one channel."""
    # A copy: of a one-pixel picture, ascontiguousarray keeps strides that encoders refuse.
    return np.array(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2), order="C")
