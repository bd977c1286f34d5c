"""Blur kernels, and convolution with them in numpy.

Kernels come as ``(n, side, side)`` of float64, one for each of n patches, odd, centred, and each
sums to one. All are equal to themselves turned by half a turn, so convolution is correlation.
Sources: Wang et al., "Real-ESRGAN", 2021, section 3.1 and 3.4 (arXiv 2107.10833); Liu et al.,
"Estimating generalized Gaussian blur kernels for out-of-focus image deblurring", 2021.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.degradation.steps import Blur, Motion, Sinc
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.degradation.steps import Floats, Step

_POINTS = 127
"""Points that a motion's line is drawn with: two for each pixel of the longest."""


def kernels(step: Step, values: dict[str, Floats]) -> Floats:
    """Return the kernels ``(n, side, side)`` of a step that blurs, as wide as the widest."""
    if isinstance(step, Blur):
        return shaped(step.kind, values)
    if isinstance(step, Sinc):
        return circular_sinc(values["cutoff"], values["size"])
    if isinstance(step, Motion):
        return line(values["length"], values["angle"])
    raise RecipeError(f"{step.op} has no kernel, expected blur, motion or sinc")


def shaped(kind: str, values: dict[str, Floats]) -> Floats:
    """Return Gaussian, generalized Gaussian or plateau kernels.

    With x along `angle` and y across, ``q2 = (x / sigma)**2 + (y / sigma_y)**2``; the weight is
    ``exp(-q2 / 2)``, ``exp(-q2**beta / 2)`` or ``1 / (1 + q2**beta)``, within ``size x size``.
    """
    sizes = values["size"]
    rows, cols = _grid(sizes)
    angle = np.deg2rad(values["angle"])[:, None, None]
    along = cols * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - cols * np.sin(angle)
    sigma, beta = values["sigma"], values["beta"][:, None, None]
    sigma_y = values.get("sigma_y", sigma)
    squared = (along / sigma[:, None, None]) ** 2 + (across / sigma_y[:, None, None]) ** 2
    if kind == "plateau":
        weights = 1 / (1 + squared**beta)
    else:
        weights = np.exp(-0.5 * (squared**beta if kind == "generalized" else squared))
    return _normalised(weights, sizes)


def circular_sinc(cutoff: Floats, sizes: Floats) -> Floats:
    """Return the low-passes of circular pass band, cut to ``size x size``.

    ``w * J1(w * r) / (2 * pi * r)`` with ``w = pi * cutoff``, and ``w**2 / (4 * pi)`` at r = 0.
    """
    rows, cols = _grid(sizes)
    radius = np.hypot(rows, cols)
    frequency = np.pi * cutoff[:, None, None]
    centre = np.broadcast_to(radius == 0, (len(cutoff), *radius.shape[1:]))
    safe = np.where(radius == 0, 1.0, radius)
    bessel = torch.special.bessel_j1(torch.from_numpy(frequency * safe)).numpy()
    weights = np.where(centre, frequency**2 / (4 * np.pi), frequency * bessel / (2 * np.pi * safe))
    return _normalised(weights, sizes)


def line(length: Floats, angle: Floats) -> Floats:
    """Return the kernels of straight motion, evenly fast, over `length` pixels.

    Points of the line are shared among their four neighbours, so no direction is jagged.
    """
    half = int(np.ceil(length.max(initial=0) / 2)) + 1
    along = np.linspace(-0.5, 0.5, _POINTS)[None] * length[:, None]
    turn = np.deg2rad(angle)[:, None]
    row, col = along * np.sin(turn) + half, along * np.cos(turn) + half
    top, left = np.floor(row).astype(np.intp), np.floor(col).astype(np.intp)
    below, right = row - top, col - left
    side = 2 * half + 1
    weights = np.zeros((len(length), side + 1, side + 1))
    patch = np.arange(len(length))[:, None]
    for down, share in ((0, 1 - below), (1, below)):
        np.add.at(weights, (patch, top + down, left), share * (1 - right))
        np.add.at(weights, (patch, top + down, left + 1), share * right)
    return weights[:, :side, :side] / _POINTS


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


def _grid(sizes: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows ``(1, side, 1)`` and columns ``(1, 1, side)`` counted from the centre."""
    half = int(sizes.max(initial=1)) // 2
    places = np.arange(-half, half + 1, dtype=np.float64)
    return places[None, :, None], places[None, None, :]


def _normalised(weights: Floats, sizes: Floats) -> Floats:
    """Return the weights with nothing outside each one's own size, summing to one."""
    rows, cols = _grid(sizes)
    inside = np.maximum(np.abs(rows), np.abs(cols)) <= (sizes // 2)[:, None, None]
    weights = np.where(inside, weights, 0.0)
    # Exact sums: zeros around a kernel, as in a batch with larger ones, must not change its bits.
    totals = np.array([math.fsum(w.ravel().tolist()) for w in weights])
    normalised: Floats = weights / totals[:, None, None]
    return normalised
