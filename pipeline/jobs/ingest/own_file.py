"""Which pictures are stored as the file that they came in: JPEGs, where that is exact and quick.

How such an image is stored and read is in `pipeline.storage.file_image`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.pictures.jpeg.needs import decoding_needs
from pipeline.storage.file_image import PictureFile
from pipeline.storage.spool import LARGE_BYTES

if TYPE_CHECKING:
    from pipeline.pictures.picture import Picture

_SMALLER = 2
"""How many times a file must be smaller than its pixels in memory: a codec gets that far too."""


def own_file(data: bytes, picture: Picture) -> PictureFile | None:
    """Return the file of a picture if its stored pixels are to be just these bytes, else None.

    What decodes it while tiles are read must give the very pixels that the reader of files gave,
    which is tried here, and take no more memory than a picture that is decoded in memory at ingest.
    A picture that was turned upright is not what its file holds.
    """
    pixels = picture.pixels
    if picture.metadata.format != "jpeg" or len(data) * _SMALLER > pixels.nbytes:
        return None
    needs = decoding_needs(data)
    if needs is None:
        return None
    size, more_bytes = needs
    if size != pixels.shape[1:] or pixels.nbytes + more_bytes >= LARGE_BYTES:
        return None
    return PictureFile.of(data, pixels)
