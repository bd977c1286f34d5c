"""What a file declares of its picture, taken as far as it makes sense: size, resolution, blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipeline.errors import PictureError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a size that is none, or one of more than `max_pixels`.

    Raises:
        PictureError: then.
    """
    if width < 1 or height < 1:
        raise no_pixels(width, height)
    if width * height > max_pixels:
        raise PictureError(
            f"declares {width} x {height} pixels, expected at most {max_pixels} in all; "
            f"cut the picture, or raise the bound if the file is trusted"
        )


def no_pixels(width: int, height: int) -> PictureError:
    """Return the error of a picture without pixels."""
    return PictureError(f"declares {width} x {height} pixels, expected at least 1 x 1")


def check_decoded(pixels: NDArray[Any], height: int, width: int) -> None:
    """Refuse pixels ``(c, h, w)`` of another size than the file declares.

    Raises:
        PictureError: then.
    """
    if pixels.shape[1:] != (height, width):
        raise PictureError(f"decodes to {pixels.shape}, expected {height} rows {width} columns")


def usable_dpi(pair: Any) -> tuple[float, float] | None:
    """Return two usable numbers, or None: resolution is often 0, infinite or nonsense."""
    try:
        x, y = (float(value) for value in pair)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (x, y) if all(math.isfinite(v) and v > 0 for v in (x, y)) else None


def filled(value: Any) -> bytes | None:
    """Return bytes that are there and are not empty, else None."""
    return bytes(value) if isinstance(value, (bytes, bytearray)) and value else None
