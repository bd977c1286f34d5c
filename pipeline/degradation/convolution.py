"""Steps that blur: kernels, and convolution with them.

Kernels come as ``(n, side, side)`` of float64, one for each of n patches, odd, centred, and each
sums to one. All are equal to themselves turned by half a turn, so convolution is correlation.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.degradation.step import Step

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.degradation.batch_patches import Patches
    from pipeline.degradation.levels import Floats, Size, Values

LARGEST_KERNEL_PX = 63


@dataclass(frozen=True, kw_only=True)
class Blurring(Step):
    """A step that convolves each patch with a kernel of its own."""

    @abstractmethod
    def kernels(self, values: Values) -> Floats:
        """Return the kernels ``(n, side, side)``, as wide as the widest."""

    def apply(
        self, levels: Floats, values: Values, *, generator: np.random.Generator, target: Size
    ) -> Floats:
        """Return ``(c, h, w)`` blurred, mirrored at the borders."""
        return convolve(levels, self.kernels(values)[0])

    def apply_batch(
        self, patches: Patches, values: Values, *, generator: torch.Generator, target: Size
    ) -> Patches:
        """Return the patches blurred, mirrored at the borders of each."""
        return patches.with_levels(_convolve_batch(patches, self.kernels(values)))


def convolve(x: Floats, kernel: Floats) -> Floats:
    """Return ``(c, h, w)`` convolved with ``(side, side)``, mirrored at the borders.

    By Fourier transforms of numpy, which know no threads: the bits depend on `x` and `kernel`
    alone. Against the sum over the kernel's pixels they are off by some 1e-13 of the levels.
    """
    reach = len(kernel) // 2
    rows, cols = x.shape[1:]
    extended = np.pad(x, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    shape = (fast_length(rows + 2 * reach), fast_length(cols + 2 * reach))
    product = np.fft.rfft2(extended, shape) * np.fft.rfft2(kernel, shape)
    # The first 2 * reach rows and columns mix opposite borders; behind them nothing does.
    inside = (slice(None), slice(2 * reach, 2 * reach + rows), slice(2 * reach, 2 * reach + cols))
    return np.fft.irfft2(product, shape)[inside]


def _convolve_batch(patches: Patches, kernels: Floats) -> Tensor:
    """Return the levels convolved with a kernel for each patch, as `convolve` does."""
    reach = kernels.shape[1] // 2
    rows, cols = patches.levels.shape[2:]
    extended = patches.mirrored(reach)
    shape = (fast_length(rows + 2 * reach), fast_length(cols + 2 * reach))
    kernel = torch.from_numpy(kernels).to(extended).unsqueeze(1)
    product = torch.fft.rfft2(extended, shape) * torch.fft.rfft2(kernel, shape)
    whole: Tensor = torch.fft.irfft2(product, shape)
    return whole[..., 2 * reach : 2 * reach + rows, 2 * reach : 2 * reach + cols]


@lru_cache(maxsize=1024)
def fast_length(least: int) -> int:
    """Return the smallest length from `least` on without prime factors above five."""
    length = least
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def grid(sizes: Floats) -> tuple[Floats, Floats]:
    """Return rows ``(1, side, 1)`` and columns ``(1, 1, side)`` counted from the centre."""
    half = int(sizes.max(initial=1)) // 2
    places = np.arange(-half, half + 1, dtype=np.float64)
    return places[None, :, None], places[None, None, :]


def normalised(weights: Floats, sizes: Floats) -> Floats:
    """Return the weights with nothing outside each one's own size, summing to one."""
    rows, cols = grid(sizes)
    inside = np.maximum(np.abs(rows), np.abs(cols)) <= (sizes // 2)[:, None, None]
    weights = np.where(inside, weights, 0.0)
    # Exact sums: zeros around a kernel, as in a batch with larger ones, must not change its bits.
    totals = np.array([math.fsum(w.ravel().tolist()) for w in weights])
    shares: Floats = weights / totals[:, None, None]
    return shares
