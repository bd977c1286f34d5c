"""PSNR and SSIM as sums that merge: the scores of the tiles of a picture add up to its own.

Here belongs what compares two arrays of pixels. Reading pictures, resizing them and averaging over
a set do not. All arithmetic is float64, on luma planes that run from 0 to 255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from models.bt601 import STUDIO_BLACK, STUDIO_LUMA
from pipeline.errors import PictureError
from pipeline.geometry import Rect, Span, TileGrid, cuts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels: TypeAlias = NDArray[Any]
    Plane: TypeAlias = NDArray[np.float64]

SSIM_REACH_PX = 5
"""How far the 11x11 window of SSIM looks from its centre."""

_SIGMA_PX = 1.5
_PEAK = 255.0
_BAND_ROWS = 64
_PICTURE_TILE_PX = 1024


@dataclass(frozen=True, slots=True)
class SquaredError:
    """Sum of squared differences, and how many there were; ``SquaredError()`` adds nothing."""

    total: float = 0.0
    count: int = 0

    def __add__(self, other: SquaredError) -> SquaredError:
        """Return the sums over both."""
        return SquaredError(self.total + other.total, self.count + other.count)

    @property
    def mse(self) -> float | None:
        """Return the mean squared error, or None where nothing was compared."""
        return self.total / self.count if self.count else None

    def psnr(self, *, data_range: float) -> float | None:
        """Return the PSNR in dB: infinity where all is equal, None where nothing was compared."""
        mse = self.mse
        if mse is None:
            return None
        return 10 * math.log10(data_range**2 / mse) if mse else math.inf


@dataclass(frozen=True, slots=True)
class Similarity:
    """Sum of SSIM values, and how many there were; ``Similarity()`` adds nothing."""

    total: float = 0.0
    count: int = 0

    def __add__(self, other: Similarity) -> Similarity:
        """Return the sums over both."""
        return Similarity(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float | None:
        """Return the mean SSIM, or None where not one window of 11x11 px fits."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured on the luma of a tile or a picture; ``Scores()`` adds nothing."""

    error: SquaredError = field(default_factory=SquaredError)
    similarity: Similarity = field(default_factory=Similarity)

    def __add__(self, other: Scores) -> Scores:
        """Return the sums over both."""
        return Scores(self.error + other.error, self.similarity + other.similarity)

    @property
    def psnr_y(self) -> float | None:
        """Return the PSNR in dB at peak 255; None where nothing was compared."""
        return self.error.psnr(data_range=_PEAK)

    @property
    def ssim_y(self) -> float | None:
        """Return the mean SSIM; None where no SSIM window fits."""
        return self.similarity.mean


def without_alpha(pixels: Pixels) -> Pixels:
    """Return the grey or the three colour channels of ``(c, h, w)``, as a view.

    Raises:
        PictureError: if c is not 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
    """
    if pixels.ndim != 3 or not 1 <= pixels.shape[0] <= 4:
        raise PictureError(
            f"pixels have shape {pixels.shape}, expected (c, h, w) with c of 1 to 4: grey or RGB, "
            f"each with or without alpha; scores are defined for these alone"
        )
    return pixels[: 1 if pixels.shape[0] < 3 else 3]


def luma(pixels: Pixels, *, data_range: float) -> Plane:
    """Return the luma of ``(c, h, w)`` as an ``(h, w)`` plane in float64, not rounded.

    `data_range` is the value of white in `pixels` (255 for uint8, 65535 for uint16) and becomes
    255, so that figures of all depths compare. RGB gives Y of BT.601 between 16 and 235; grey
    stays as it is, between 0 and 255; alpha is left out.

    Raises:
        PictureError: if the channels are neither grey nor RGB.
    """
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}, expected the value of white, such as 255")
    colours = without_alpha(pixels)
    planes = (colour.astype(np.float64) * _PEAK / data_range for colour in colours)
    if len(colours) == 1:
        return next(planes)
    red, green, blue = (weight * plane for weight, plane in zip(STUDIO_LUMA, planes, strict=True))
    weighted: Plane = STUDIO_BLACK + (red + green + blue) / 255
    return weighted


def squared_error(a: Pixels, b: Pixels) -> SquaredError:
    """Return the squared differences of two arrays of one shape."""
    _require_one_shape(a, b)
    difference = a.astype(np.float64) - b.astype(np.float64)
    return SquaredError(float(np.sum(difference * difference)), difference.size)


def similarity(a: Pixels, b: Pixels, *, data_range: float) -> Similarity:
    """Return the SSIM of two ``(h, w)`` planes, at every centre whose 11x11 window fits.

    The window is Gaussian with sigma 1.5 px, K1 = 0.01, K2 = 0.03, covariances are those of the
    population. The value at a centre depends on its window alone, to the last bit, and so does
    not change with the extent of the planes. Planes of less than 11 px give count 0.
    Source: Wang et al., "Image quality assessment: from error visibility to structural
    similarity", 2004.
    """
    _require_one_shape(a, b)
    inner = _shrunk(_rect_of(a), SSIM_REACH_PX)
    if inner is None:
        return Similarity()
    total = 0.0
    # By bands, which bounds the memory and keeps the planes in the processor's cache.
    for band in cuts(len(inner.rows), _BAND_ROWS):
        rows = slice(band.start, band.stop + 2 * SSIM_REACH_PX)
        total += float(np.sum(_ssim_map(a[rows], b[rows], data_range=data_range)))
    return Similarity(total, inner.pixels)


def score_region(height: int, width: int, *, border_px: int) -> Rect | None:
    """Return the pixels of a picture that are scored: all but a border on every side.

    None where the border leaves nothing.
    """
    if border_px < 0:
        raise ValueError(f"border is {border_px} px, expected at least 0")
    return _shrunk(Rect(Span(0, height), Span(0, width)), border_px)


def score_window(core: Rect, *, region: Rect) -> Rect | None:
    """Return what must be read to score `core`: its scored pixels and the reach of SSIM.

    The window stays inside `region`. None where the core is outside of it.
    """
    scored = core.meet(region)
    if scored is None:
        return None
    limit = (region.rows.stop, region.cols.stop)
    return scored.grown(SSIM_REACH_PX, limit=limit).meet(region)


def score_tile(
    sr: Pixels, hr: Pixels, *, window: Rect, core: Rect, region: Rect, data_range: float
) -> Scores:
    """Score one tile; the sum over tiles that cover a picture once is `score_picture` of it.

    `sr` and `hr`, each ``(c, h, w)``, hold `window`, which is `score_window` or more. The error is
    that of the pixels in `core` and `region`, the similarity that of the SSIM windows that are
    inside `region` and have their centre in `core`. Counts add up exactly, totals but for the
    order of float64 addition. Alpha is left out, so one of the two may lack it.

    Raises:
        PictureError: if one is grey and the other RGB, or neither of these.
        ValueError: if the arrays do not hold `window`, or `window` lacks a pixel that counts.
    """
    scored = core.meet(region)
    if scored is None:
        return Scores()
    sr_y, hr_y = _luma_pair(sr, hr, window=window, data_range=data_range)
    error = squared_error(sr_y[_index(scored, window)], hr_y[_index(scored, window)])
    inner = _shrunk(region, SSIM_REACH_PX)
    centres = None if inner is None else core.meet(inner)
    if centres is None:
        return Scores(error=error)
    # Never clipped: centres keep the reach from the region's edge.
    read = _index(centres.grown(SSIM_REACH_PX, limit=(region.rows.stop, region.cols.stop)), window)
    return Scores(error, similarity(sr_y[read], hr_y[read], data_range=_PEAK))


def score_picture(sr: Pixels, hr: Pixels, *, border_px: int, data_range: float) -> Scores:
    """Score a whole picture ``(c, h, w)`` but for a border on every side.

    Counts are 0 where the border leaves nothing. Beside the two pictures, memory stays that of
    one tile of 1024x1024 px.

    Raises:
        PictureError: if one is grey and the other RGB, or neither of these.
        ValueError: if the pictures have different sizes.
    """
    _require_one_shape(without_alpha(sr), without_alpha(hr))
    height, width = hr.shape[1:]
    region = score_region(height, width, border_px=border_px)
    scores = Scores()
    if region is None:
        return scores
    grid = TileGrid(height=height, width=width, tile_px=_PICTURE_TILE_PX, halo_px=0)
    for core in map(grid.core, grid):
        window = score_window(core, region=region)
        if window is not None:
            scores += score_tile(
                sr[window.index],
                hr[window.index],
                window=window,
                core=core,
                region=region,
                data_range=data_range,
            )
    return scores


def _ssim_map(a: Pixels, b: Pixels, *, data_range: float) -> Plane:
    """Return the SSIM of every window of two ``(h, w)`` planes: ``(h - 10, w - 10)``."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = _blurred(a), _blurred(b)
    means = mean_a * mean_b
    energy = mean_a * mean_a + mean_b * mean_b
    covariance = _blurred(a * b) - means
    variances = _blurred(a * a + b * b) - energy
    similar: Plane = (2 * means + c1) * (2 * covariance + c2)
    similar /= (energy + c1) * (variances + c2)
    return similar


def _blurred(plane: Plane) -> Plane:
    """Return the Gaussian mean of every 11x11 window of ``(h, w)``: ``(h - 10, w - 10)``."""
    # Summed shift by shift, not as a matrix product, whose order of addition may vary with shape.
    for axis in (0, 1):
        lines = np.moveaxis(plane, axis, 0)
        count = len(lines) - 2 * SSIM_REACH_PX
        total = _GAUSSIAN[0] * lines[SSIM_REACH_PX : SSIM_REACH_PX + count]
        for distance, weight in enumerate(_GAUSSIAN[1:], start=1):
            low, high = SSIM_REACH_PX - distance, SSIM_REACH_PX + distance
            total += weight * (lines[low : low + count] + lines[high : high + count])
        plane = np.moveaxis(total, 0, axis)
    return plane


def _gaussian() -> tuple[float, ...]:
    """Return the weights at distance 0 to 5 px; all 11 sum to one."""
    half = [math.exp(-((x / _SIGMA_PX) ** 2) / 2) for x in range(SSIM_REACH_PX + 1)]
    total = half[0] + 2 * sum(half[1:])
    return tuple(weight / total for weight in half)


_GAUSSIAN = _gaussian()


def _luma_pair(sr: Pixels, hr: Pixels, *, window: Rect, data_range: float) -> tuple[Plane, Plane]:
    _require_one_shape(without_alpha(sr), without_alpha(hr))
    if hr.shape[1:] != window.shape:
        raise ValueError(f"pixels are {hr.shape[1:]}, expected {window.shape} to fill {window}")
    return luma(sr, data_range=data_range), luma(hr, data_range=data_range)


def _require_one_shape(a: Pixels, b: Pixels) -> None:
    if a.ndim == b.ndim == 3 and len(a) != len(b):
        raise PictureError(
            f"pictures have {len(a)} and {len(b)} colour channels, expected the same: grey against "
            f"RGB compares nothing; is the reference another picture?"
        )
    if a.shape != b.shape:
        raise ValueError(f"arrays have shapes {a.shape} and {b.shape}, expected the same")


def _rect_of(plane: Pixels) -> Rect:
    height, width = plane.shape
    return Rect(Span(0, height), Span(0, width))


def _shrunk(rect: Rect, px: int) -> Rect | None:
    """Return the rectangle with `px` pixels less on every side, or None where nothing is left."""
    if min(rect.shape) <= 2 * px:
        return None
    rows, cols = rect.rows, rect.cols
    return Rect(Span(rows.start + px, rows.stop - px), Span(cols.start + px, cols.stop - px))


def _index(rect: Rect, window: Rect) -> tuple[slice, slice]:
    """Return where `rect` is in a plane that holds `window`."""
    return (rect.rows.within(window.rows), rect.cols.within(window.cols))
