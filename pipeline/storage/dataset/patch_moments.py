"""Moments of patches: exact sums, from which means and deviations follow in any order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def moments(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return, for patches ``(m, c, y, x)``, sums of values and of their squares ``(m, c, 2)``.

    They are exact, so that statistics do not depend on the order in which they are added up.
    """
    found = np.empty((*pixels.shape[:2], 2), dtype=np.int64)
    for patch, sums in zip(pixels.reshape(*pixels.shape[:2], -1), found, strict=True):
        # Sums of integers below 2**53 are exact in floats, and BLAS adds these the fastest.
        wide = patch.astype(np.float64)
        for channel, values in enumerate(wide):
            sums[channel] = int(values.sum()), int(values @ values)
    return found


def statistics_of(sums: NDArray[np.int64], pixels: int) -> dict[str, Any]:
    """Return how many patches `sums` are of, and mean and std of each channel in 0..1.

    `sums` are the `moments` of patches of as many `pixels` each.
    """
    patches = len(sums)
    if not patches:
        return {"patches": 0, "mean": None, "std": None}
    count = patches * pixels
    # Python's integers: squares of a million patches are beyond what a float adds exactly.
    totals = [[int(v) for v in channel] for channel in sums.sum(axis=0)]
    means = [total / count for total, _ in totals]
    variances = [(squares * count - total * total) / count**2 for total, squares in totals]
    return {
        "patches": patches,
        "mean": [round(mean / 255, 6) for mean in means],
        "std": [round(math.sqrt(variance) / 255, 6) for variance in variances],
    }
