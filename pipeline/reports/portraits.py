"""Previews: what the report shows of a picture, in 8 bits and in bounded memory.

Here belongs choosing the crop that is worth looking at, and turning pixels into `data:` URIs. The
text next to them does not.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from models.interpolation import enlarge
from pipeline.compute.inference import to_unit_range
from pipeline.geometry import Rect, Span, TileGrid, cuts
from pipeline.jobs.overview import finite, opaque, shown, step_of
from pipeline.pictures.codecs.previews import encode_preview

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from pipeline.jobs.overview import Plane
    from pipeline.storage.image import StoredImage

CROP_PX = (400, 600)
"""Rows and columns of a comparison, in SR pixels; less where the picture is smaller."""

_CANDIDATES = 8
_BICUBIC_REACH_PX = 2
_LOSSLESS_PIXELS = 64 * 64


@dataclass(frozen=True, slots=True)
class Comparison:
    """One window of an item twice: LR enlarged by bicubic, and SR; ``(c, y, x)`` in 0..1."""

    window_lr: Rect
    bicubic: Plane
    sr: Plane

    @property
    def difference(self) -> float:
        """Return the mean absolute difference of the two."""
        return float(np.mean(np.abs(opaque(self.sr) - opaque(self.bicubic))))


def compare(
    lr: StoredImage, sr: StoredImage, *, scale: int, grid: TileGrid, done: Set[int], small: Plane
) -> Comparison | None:
    """Return the window that is most worth a look, or None where no tile is done yet.

    Of the eight windows with the most texture in the overview `small` it is the one where SR and
    bicubic differ most: there the network did most, for better or worse. Windows hold done tiles
    alone, so nothing is shown that was never computed.

    Raises:
        ArchiveError: if a chunk is damaged.
    """
    windows = _windows(grid, scale=scale, done=done)
    texture = _texture_of(small, lr.size)
    best = sorted(windows, key=texture, reverse=True)[:_CANDIDATES]
    looks = (_look(lr, sr, window, scale=scale) for window in best)
    return max(looks, key=lambda look: look.difference, default=None)


def data_uri(pixels: Plane) -> str:
    """Return ``(c, y, x)`` in 0..1 as a picture that stands inside a page.

    JPEG, but PNG for pictures so small that every pixel is looked at. What is transparent shows a
    chequered ground; values outside of 0..1 are clipped.
    """
    format: Literal["jpeg", "png"] = "png" if pixels[0].size <= _LOSSLESS_PIXELS else "jpeg"
    return uri_of(encode_preview(shown(pixels), format=format), format=format)


def uri_of(content: bytes, *, format: str) -> str:
    """Return the bytes of a picture file as a picture that stands inside a page."""
    return f"data:image/{format};base64,{base64.b64encode(content).decode('ascii')}"


def _windows(grid: TileGrid, *, scale: int, done: Set[int]) -> list[Rect]:
    """Return windows of `CROP_PX` side by side that hold done tiles alone, or else done cores."""
    rows, cols = (side // scale for side in CROP_PX)
    whole = [
        Rect(r, c)
        for r in _side_by_side(grid.height, rows)
        for c in _side_by_side(grid.width, cols)
    ]
    finished = [window for window in whole if _tiles_under(window, grid) <= done]
    return finished or [_corner(grid.core(tile), rows, cols) for tile in sorted(done)]


def _side_by_side(length: int, side: int) -> list[Span]:
    """Return ranges of `side` pixels that cover ``[0, length)``; the last is shifted to fit."""
    spans = cuts(length, side)
    return [*spans[:-1], Span(max(0, length - side), length)]


def _corner(core: Rect, rows: int, cols: int) -> Rect:
    return Rect(_first(core.rows, rows), _first(core.cols, cols))


def _first(span: Span, length: int) -> Span:
    return Span(span.start, min(span.stop, span.start + length))


def _tiles_under(window: Rect, grid: TileGrid) -> set[int]:
    cells = window.reduced(grid.tile_px)
    rows = range(cells.rows.start, cells.rows.stop)
    cols = range(cells.cols.start, cells.cols.stop)
    return {row * grid.shape[1] + col for row in rows for col in cols}


def _texture_of(small: Plane, size: tuple[int, int]) -> Callable[[Rect], float]:
    """Return a function that measures how much neighbours differ, on average, inside a window."""
    step = step_of(size)
    grey = opaque(small).mean(axis=0)
    down = np.abs(np.diff(grey, axis=0, append=grey[-1:]))
    right = np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    return lambda window: float((down + right)[window.reduced(step).index[1:]].mean())


def _look(lr: StoredImage, sr: StoredImage, window: Rect, *, scale: int) -> Comparison:
    wider = window.grown(_BICUBIC_REACH_PX, limit=lr.size)
    enlarged = enlarge(to_unit_range(lr.read(wider)), scale=scale, method="bicubic").numpy()
    inside = window.scaled(scale).within(wider.scaled(scale))
    computed = to_unit_range(sr.read(window.scaled(scale))).numpy()
    return Comparison(window, finite(enlarged[inside]), finite(computed))
