"""A sharp low-pass, which rings.

Source: Wang et al., "Real-ESRGAN", 2021, section 3.4 (arXiv 2107.10833).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from pipeline.degradation.convolution import LARGEST_KERNEL_PX, Blurring, grid, normalised
from pipeline.degradation.step import Uniform, odd_within, within

if TYPE_CHECKING:
    from pipeline.degradation.levels import Floats, Values


@dataclass(frozen=True, kw_only=True)
class Sinc(Blurring):
    """Cut all frequencies beyond `cutoff`, in a circle: ringing and overshoot."""

    op: ClassVar[str] = "sinc"

    cutoff: Uniform = field(metadata=within(0.02, 1))
    """Highest frequency that is kept; 1 is the highest that pixels can hold (Nyquist)."""
    size: Uniform = field(default=Uniform(21.0, 21.0), metadata=odd_within(1, LARGEST_KERNEL_PX))
    """Side of the kernel, in pixels."""

    def kernels(self, values: Values) -> Floats:
        """Return the kernels ``(n, side, side)``."""
        return circular_sinc(values["cutoff"], values["size"])


def circular_sinc(cutoff: Floats, sizes: Floats) -> Floats:
    """Return the low-passes of circular pass band, cut to ``size x size``.

    ``w * J1(w * r) / (2 * pi * r)`` with ``w = pi * cutoff``, and ``w**2 / (4 * pi)`` at r = 0.
    """
    rows, cols = grid(sizes)
    radius = np.hypot(rows, cols)
    frequency = np.pi * cutoff[:, None, None]
    centre = np.broadcast_to(radius == 0, (len(cutoff), *radius.shape[1:]))
    safe = np.where(radius == 0, 1.0, radius)
    bessel = torch.special.bessel_j1(torch.from_numpy(frequency * safe)).numpy()
    weights = np.where(centre, frequency**2 / (4 * np.pi), frequency * bessel / (2 * np.pi * safe))
    return normalised(weights, sizes)
