"""What Pillow encodes, with the metadata that it writes itself."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipeline.pictures.exif import PREFIX as EXIF_PREFIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.pictures.metadata import Metadata


def save(pixels: NDArray[Any], format: str, metadata: Metadata, options: dict[str, Any]) -> bytes:
    """Return the bytes of a file that holds pixels (y, x) or (y, x, c), with ICC, EXIF and XMP."""
    kept = {"icc_profile": metadata.icc, "xmp": metadata.xmp}
    kept["exif"] = EXIF_PREFIX + metadata.exif if metadata.exif else None
    file = io.BytesIO()
    present = {key: value for key, value in kept.items() if value}
    Image.fromarray(pixels).save(file, format, **options, **present)
    return file.getvalue()
