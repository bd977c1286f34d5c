"""Floating point pixels: finite, and in 0..1 where the file does not declare another range.

A network sees 0..1 as black to white. What the values of a file mean is not guessed: they are in
that range, or the file says in its tags which range they are in, or it is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PictureError
from pipeline.storage.large_arrays import changed

if TYPE_CHECKING:
    from numpy.typing import NDArray

OVERSHOOT = 0.25
"""How far values may leave their range, in shares of it.

Enlargement overshoots at edges, and upres does not cut that off in floating point: what it wrote
it can read again.
"""


def check_finite(pixels: NDArray[Any]) -> None:
    """Refuse pixels ``(c, y, x)`` with NaN or infinity among them.

    Raises:
        PictureError: With how many there are, and where the first one is.
    """
    if np.isfinite(pixels.sum(dtype=np.float64)):
        return
    wrong = ~np.isfinite(pixels)
    if wrong.any():
        _, row, column = min(np.argwhere(wrong).tolist(), key=lambda at: at[1:])
        raise PictureError(
            f"holds {np.count_nonzero(wrong)} values that are NaN or infinite, the first in row "
            f"{row}, column {column}, expected finite numbers; fill them first"
        )


def declared_range(lowest: Any, highest: Any) -> tuple[float, float] | None:
    """Return the range that two TIFF tags declare, None where they declare none that is usable.

    Each is a number, or one for each channel, all of them equal.
    """
    try:
        lows, highs = (set(np.atleast_1d(np.asarray(v, np.float64))) for v in (lowest, highest))
    except (TypeError, ValueError):
        return None
    if len(lows) != 1 or len(highs) != 1:
        return None
    low, high = float(lows.pop()), float(highs.pop())
    return (low, high) if np.isfinite([low, high]).all() and low < high else None


def to_unit(
    pixels: NDArray[np.float32], declared: tuple[float, float] | None
) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    """Return pixels with 0..1 as their range, and the range of the file where that is another.

    Raises:
        PictureError: If they hold NaN or infinity, or leave the range by more than `OVERSHOOT`.
    """
    check_finite(pixels)
    low, high = float(pixels.min()), float(pixels.max())
    if _fits(low, high, 0.0, 1.0) and (declared is None or _fits(*declared, 0.0, 1.0)):
        return pixels, None
    if declared is not None and _fits(low, high, *declared):
        bottom, top = declared

        def unit(band: NDArray[Any]) -> NDArray[Any]:
            return ((band.astype(np.float64) - bottom) / (top - bottom)).astype(np.float32)

        return changed(pixels, unit), declared
    says = (
        f"the file declares {declared[0]:g} to {declared[1]:g}" if declared else "none is declared"
    )
    raise PictureError(
        f"floating point values go from {low:g} to {high:g}, expected 0 to 1 or the range that the "
        f"tags SMinSampleValue and SMaxSampleValue declare ({says}); rescale them or set the tags"
    )


def from_unit(pixels: NDArray[np.float32], declared: tuple[float, float]) -> NDArray[np.float32]:
    """Return pixels of 0..1 in the range of their file."""
    low, high = declared
    return (pixels.astype(np.float64) * (high - low) + low).astype(np.float32)


def _fits(low: float, high: float, bottom: float, top: float) -> bool:
    margin = OVERSHOOT * (top - bottom)
    return bottom - margin <= low and high <= top + margin
