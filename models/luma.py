"""Luma of BT.601, taken out of a picture and put back: for networks that know luma alone.

RGB in 0..1 has ``Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255``, not rounded, between 16/255
and 235/255: as in `pipeline.pictures.metrics.luma`, but for the range. Grey is its own luma.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.bt601 import STUDIO_BLACK, STUDIO_LUMA

if TYPE_CHECKING:
    from torch import Tensor

_RED, _GREEN, _BLUE = (weight / 255 for weight in STUDIO_LUMA)
_BLACK = STUDIO_BLACK / 255
_GAIN = 255 / 219
"""What each colour gains where luma alone gains one: the weights sum to 219/255."""


def luma(x: Tensor) -> Tensor:
    """Return the luma ``(n, 1, h, w)`` of RGB ``(n, 3, h, w)``, or grey ``(n, 1, h, w)`` itself.

    Raises:
        ValueError: if `x` has neither one channel nor three.
    """
    if x.shape[1] == 1:
        return x
    if x.shape[1] != 3:
        raise ValueError(f"picture has {x.shape[1]} channels, expected 1 (grey) or 3 (RGB)")
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    return _RED * red + _GREEN * green + _BLUE * blue + _BLACK


def with_luma(x: Tensor, y: Tensor) -> Tensor:
    """Return `x` with luma `y` and its own chroma: ``luma(with_luma(x, y)) == y``.

    So ``with_luma(x, luma(x)) == x``. The blue and red differences (Cb, Cr) stay because the three
    colours all change by the same: that is the inverse of the conversion to YCbCr, without it.
    """
    return y if x.shape[1] == 1 else x + _GAIN * (y - luma(x))
