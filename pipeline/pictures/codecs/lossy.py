"""What lossy compression does to pixels, by the libraries that cameras and the web use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import imagecodecs
import numpy as np

from pipeline.errors import PictureError
from pipeline.pictures.formats import holding
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import Picture, channels_first, channels_last

if TYPE_CHECKING:
    from numpy.typing import NDArray


def recompress(
    pixels: NDArray[np.uint8], *, format: Literal["jpeg", "webp"], quality: int
) -> NDArray[np.uint8]:
    """Return grey or RGB ``(c, y, x)`` of uint8 as a lossy file of it would be read back.

    JPEG is baseline with colours at half resolution (4:2:0), as cameras and the web write it;
    WebP is lossy. `quality` is 1 to 100.

    Raises:
        PictureError: If the format cannot hold the pixels, or the quality is none.
    """
    picture = Picture(pixels=pixels, metadata=Metadata(format=format, mode="RGB"))
    holding(format, picture.pixels.shape, picture.pixels.dtype.name)
    if len(pixels) not in (1, 3) or not 1 <= quality <= 100:
        raise PictureError(
            f"pixels have {len(pixels)} channels at quality {quality}, "
            f"expected 1 or 3 at quality 1 to 100; drop alpha first"
        )
    if format == "jpeg":
        data = imagecodecs.jpeg8_encode(channels_last(pixels), level=quality, subsampling="420")
        return channels_first(imagecodecs.jpeg8_decode(data))
    # WebP has no grey: equal channels stay equal, and one of them is the answer.
    colours = np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels
    data = imagecodecs.webp_encode(channels_last(colours), level=quality, lossless=False)
    return channels_first(imagecodecs.webp_decode(data))[: len(pixels)]
