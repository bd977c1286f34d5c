"""Levels 0..255 as numbers that are computed with: how they become bytes, and luma.

Exact levels are float64 arrays of one patch, ``(c, h, w)``; those of a batch are float32 tensors,
``(n, c, h, w)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from models.bt601 import LUMA

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

Size = tuple[int, int]
"""Rows and columns of a patch, in pixels."""

Values = dict[str, Floats]
"""Name of a step's parameter to one number for each patch."""


def clipped(levels: Floats) -> Floats:
    """Return levels of at least 0 and at most 255."""
    within: Floats = np.clip(levels, 0, 255)
    return within


def to_uint8(levels: Floats) -> Pixels:
    """Return levels clipped and rounded, halves up."""
    return (np.clip(levels, 0, 255) + 0.5).astype(np.uint8)


def luma(levels: Floats) -> Floats:
    """Return the luma ``(1, h, w)`` of one grey or RGB patch."""
    if len(levels) == 1:
        return levels
    red, green, blue = LUMA
    return red * levels[:1] + green * levels[1:2] + blue * levels[2:]


def luma_of_batch(levels: Tensor) -> Tensor:
    """Return the luma ``(n, 1, h, w)`` of grey or RGB patches."""
    if levels.shape[1] == 1:
        return levels
    weights = levels.new_tensor(LUMA).view(1, 3, 1, 1)
    return (levels * weights).sum(dim=1, keepdim=True)


def column(numbers: Floats, levels: Tensor) -> Tensor:
    """Return one number for each patch as ``(n, 1, 1, 1)`` on the device of `levels`."""
    return torch.from_numpy(numbers).to(levels).view(-1, 1, 1, 1)
