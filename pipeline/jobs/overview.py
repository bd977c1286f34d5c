"""Overviews: a whole picture reduced until it can be shown, in 8 bits and in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.nn.functional import avg_pool2d

from pipeline.compute.inference import to_unit_range
from pipeline.geometry import Rect, Span, TileGrid

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from pipeline.storage.image import StoredImage

    Plane: TypeAlias = NDArray[np.float32]

OVERVIEW_PX = 640

_READ_PX = 512
_BOARD_PX = 8


def overview(image: StoredImage, *, most_px: int = OVERVIEW_PX) -> Plane:
    """Return the whole picture ``(c, y, x)`` in 0..1, reduced by block means to `most_px` at most.

    Reads one block of about 512x512 px at a time, so memory does not grow with the picture.

    Raises:
        ArchiveError: if a chunk is damaged.
    """
    height, width = image.size
    step = step_of(image.size, most_px)
    grid = TileGrid(height, width, step * max(1, _READ_PX // step), 0)
    whole = Rect(Span(0, height), Span(0, width)).reduced(step)
    small = np.empty((image.channels, *whole.shape), dtype=np.float32)
    for core in map(grid.core, grid):
        # At the right and bottom edge `ceil_mode` averages the pixels that there are.
        block = avg_pool2d(to_unit_range(image.read(core)), step, ceil_mode=True)
        small[core.reduced(step).index] = block.numpy()
    return finite(small)


def step_of(size: tuple[int, int], most_px: int = OVERVIEW_PX) -> int:
    """Return how many pixels of a picture's side come to one of its overview."""
    return -(-max(size) // most_px)


def opaque(pixels: Plane) -> Plane:
    """Return grey or RGB: alpha laid over a chequered ground, channels beyond RGBA left out."""
    channels = len(pixels)
    if channels not in (2, 4):
        return pixels[: 3 if channels > 2 else 1]
    rows, cols = np.indices(pixels.shape[1:]) // _BOARD_PX
    board = np.where((rows + cols) % 2, 0.62, 0.8).astype(np.float32)
    alpha = np.clip(pixels[-1], 0, 1)
    laid: Plane = pixels[:-1] * alpha + board * (1 - alpha)
    return laid


def shown(pixels: Plane) -> NDArray[np.uint8]:
    """Return ``(c, y, x)`` in 0..1 as grey or RGB of 8 bits; values outside are clipped."""
    return np.rint(np.clip(opaque(pixels), 0, 1) * 255).astype(np.uint8)


def finite(pixels: NDArray[Any]) -> Plane:
    """Return pixels without NaN and infinity."""
    return np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
