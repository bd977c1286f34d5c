"""Means of what was measured on the items of a job."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.reports.tile_maps import Figures

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Means:
    """Means over the items whose figures are all finite; `left_out` have infinite PSNR."""

    figures: Figures
    items: int
    left_out: int

    @classmethod
    def of(cls, measured: Iterable[Figures]) -> Means:
        """Return the means of items that were all compared with the same kind of thing."""
        known = [f for f in measured if f.psnr is not None]
        finite = [f for f in known if all(map(math.isfinite, (f.psnr or 0, f.bicubic_psnr or 0)))]
        names = ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim")
        means = {name: _mean(getattr(f, name) for f in finite) for name in names}
        against_bicubic = any(f.against_bicubic for f in known)
        figures = Figures(**means, against_bicubic=against_bicubic)
        return cls(figures, len(finite), len(known) - len(finite))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
