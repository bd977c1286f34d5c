"""What JPEG does to pixels, simulated with tensors, so that it can run on a GPU.

Here belongs the loss alone: colours at half resolution, the cosine transform, quantisation, and
back. There is no stream of bits. Source: ITU-T T.81 (1992), Annex A.3 and K.1; quality as scaled
by the Independent JPEG Group's library.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from models.bt601 import LUMA

if TYPE_CHECKING:
    from collections.abc import Sequence

_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""T.81, table K.1."""

_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""T.81, table K.2."""

_TO_YCBCR = (
    LUMA,
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


def simulate_jpeg(levels: Tensor, *, qualities: Sequence[int]) -> Tensor:
    """Return grey or RGB ``(n, c, h, w)`` of levels 0..255 as JPEG would give it back.

    Sides are multiples of 16, the size of a unit with colours at half resolution (4:2:0). Values
    are clipped and rounded before and after, as files hold whole levels. Patch i has quality
    ``qualities[i]``, from 1 to 100. Against a real codec the difference is one of rounding.
    """
    if levels.shape[2] % 16 or levels.shape[3] % 16:
        rows, cols = levels.shape[2:]
        raise ValueError(f"picture is {rows}x{cols}, expected sides that are multiples of 16")
    levels = _whole(levels)
    if levels.shape[1] == 1:
        return _coded(levels, _tables(_LUMA_TABLE, qualities).to(levels))
    offset = levels.new_tensor([0.0, 128.0, 128.0]).view(1, 3, 1, 1)
    planes = _whole(_mixed(levels, _TO_YCBCR) + offset)
    luma = _coded(planes[:, :1], _tables(_LUMA_TABLE, qualities).to(levels))
    halved = _whole(functional.avg_pool2d(planes[:, 1:], 2))
    chroma = _coded(halved, _tables(_CHROMA_TABLE, qualities).to(levels))
    # Weights of 3/4 and 1/4, as decoders enlarge colours.
    whole = functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    return _whole(_mixed(torch.cat([luma, whole], dim=1) - offset, _TO_RGB))


def _tables(base: tuple[tuple[int, ...], ...], qualities: Sequence[int]) -> Tensor:
    """Return the quantisation tables ``(n, 1, 1, 8, 1, 8)``, scaled and kept within 1..255."""
    percents = torch.tensor([5000 // q if q < 50 else 200 - 2 * q for q in qualities])
    scaled = (torch.tensor(base) * percents.view(-1, 1, 1) + 50) // 100
    return scaled.clamp(1, 255).view(-1, 1, 1, 8, 1, 8)


def _coded(planes: Tensor, tables: Tensor) -> Tensor:
    """Return ``(n, c, h, w)`` transformed in blocks of 8 x 8, quantised, and back."""
    n, channels, rows, cols = planes.shape
    cosines = _cosines().to(planes)
    blocks = (planes - 128).view(n, channels, rows // 8, 8, cols // 8, 8)
    waves = torch.einsum("ui,ncyixj,vj->ncyuxv", cosines, blocks, cosines)
    waves = torch.round(waves / tables) * tables
    blocks = torch.einsum("ui,ncyuxv,vj->ncyixj", cosines, waves, cosines)
    return _whole(blocks.reshape(n, channels, rows, cols) + 128)


def _cosines() -> Tensor:
    """Return the orthonormal cosine transform, ``out = M @ in``: T.81's, per axis."""
    waves, places = torch.arange(8.0).view(8, 1), torch.arange(8.0)
    matrix = torch.cos((2 * places + 1) * waves * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def _mixed(planes: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Return three planes as the weighted sums of three."""
    rows = [sum(w * planes[:, i : i + 1] for i, w in enumerate(row)) for row in matrix]
    return torch.cat([row for row in rows if isinstance(row, Tensor)], dim=1)


def _whole(levels: Tensor) -> Tensor:
    """Return levels clipped to 0..255 and rounded, halves up."""
    return torch.floor(levels.clamp(0, 255) + 0.5)
