"""From HR to LR: the degradations that make the small picture of a pair.

Here belongs what loses detail on purpose. Enlarging and scoring do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from models.interpolation import reduce
from pipeline.errors import PictureError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixel = TypeVar("Pixel", bound=np.generic)

_WHITE = {"uint8": 255, "uint16": 65535}
"""The largest value of the dtypes that are rounded."""


def crop_to_multiple(pixels: NDArray[Pixel], scale: int) -> NDArray[Pixel]:
    """Return ``(c, h, w)`` without its last rows and columns, so that `scale` divides both sides.

    It is a view: fewer than `scale` rows and columns are left out, at the bottom and the right.

    Raises:
        PictureError: if a side is shorter than `scale`.
    """
    if scale < 1:
        raise ValueError(f"scale is {scale}, expected an integer of at least 1")
    height, width = pixels.shape[-2:]
    if min(height, width) < scale:
        raise PictureError(
            f"picture is {height}x{width} px, expected at least {scale}x{scale} to reduce it "
            f"by {scale}; leave it out or use a smaller scale"
        )
    return pixels[..., : height - height % scale, : width - width % scale]


def degrade_bicubic(hr: NDArray[Pixel], scale: int) -> NDArray[Pixel]:
    """Reduce ``(c, h, w)`` to ``(c, h // scale, w // scale)`` of the same dtype.

    The picture is cropped to a multiple of `scale`, then reduced as by MATLAB's `imresize`:
    bicubic with a = -0.5, antialiased, mirrored at the borders. uint8 and uint16 are computed in
    float64, clipped and rounded once, halves up: MATLAB's own result on doubles, to the nearest
    level. Given uint8, MATLAB clips and rounds between its two passes as well; that moves one
    pixel in ten by one level, and one in a thousand, where edges overshoot, by more. float32 is
    neither rounded nor clipped, and may overshoot its range as MATLAB's does. Channels, alpha
    too, are reduced each alone.

    Raises:
        PictureError: if a side is shorter than `scale`, or the dtype is none of the three.
    """
    if hr.dtype.name not in {*_WHITE, "float32"}:
        raise PictureError(
            f"pixels are {hr.dtype}, expected uint8, uint16 or float32; convert them first"
        )
    cropped = crop_to_multiple(hr, scale)
    # One channel at a time, as float64 takes eight times the memory of uint8.
    return np.stack([_reduced(channel, scale=scale, dtype=hr.dtype) for channel in cropped])


def _reduced(plane: NDArray[Any], *, scale: int, dtype: np.dtype[Pixel]) -> NDArray[Pixel]:
    exact = torch.from_numpy(np.ascontiguousarray(plane, dtype=np.float64))
    values = reduce(exact, scale=scale, method="bicubic").numpy()
    if dtype.name in _WHITE:
        values = np.floor(np.clip(values, 0, _WHITE[dtype.name]) + 0.5)
    return values.astype(dtype)
