"""Mirrored context for pictures that are too small for a network.

A network pads with zeros beyond the picture's border. It learned that on pictures of some size;
where a side is a pixel or two, nothing but zeros is in sight, and the result is black or white.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.geometry import Rect, Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL_PX = 4
"""A side shorter than this gets context: from here on no shipped network is better with it.

Less than the least tile, so that a small side is never cut into tiles.
"""

CONTEXT_PX = 8
"""How many mirrored pixels it gets on each end; more of them change next to nothing."""


@dataclass(frozen=True, slots=True)
class Context:
    """How many mirrored pixels a picture gets above and below (rows), left and right (cols)."""

    rows: int = 0
    cols: int = 0

    @classmethod
    def of(cls, height: int, width: int) -> Context:
        """Return what a picture of this size gets: nothing on a side of `SMALL_PX` or more."""
        return cls(*(CONTEXT_PX if side < SMALL_PX else 0 for side in (height, width)))

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self.rows or self.cols)

    def around(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return ``(..., h, w)`` with its context; each border pixel is repeated first."""
        if not self:
            return pixels
        sides = [(0, 0)] * (pixels.ndim - 2) + [(self.rows, self.rows), (self.cols, self.cols)]
        return np.pad(pixels, sides, mode="symmetric")

    def cut(self, sr: NDArray[Any], scale: int) -> NDArray[Any]:
        """Return ``(..., scale * h, scale * w)``: the context cut off again after enlargement."""
        rows, cols = self.rows * scale, self.cols * scale
        return sr[..., rows : sr.shape[-2] - rows, cols : sr.shape[-1] - cols]

    def core(self, core: Rect) -> Rect:
        """Return where a core of the picture is in the picture with its context."""
        return Rect(_moved(core.rows, self.rows), _moved(core.cols, self.cols))

    def window(self, window: Rect) -> Rect:
        """Return what a window becomes: on a small side it spans the picture, context and all."""
        return Rect(_widened(window.rows, self.rows), _widened(window.cols, self.cols))


def _moved(span: Span, by: int) -> Span:
    return Span(span.start + by, span.stop + by)


def _widened(span: Span, by: int) -> Span:
    return Span(span.start, span.stop + 2 * by)
