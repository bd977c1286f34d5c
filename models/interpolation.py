"""Interpolation kernels, and the baselines built from them as models like any other.

Both directions follow MATLAB's `imresize`: pixel centres at half-integers, mirrored borders,
weights that sum to one, and, when reducing, a kernel stretched by the factor (antialiasing).
Source: Keys, "Cubic convolution interpolation for digital image processing", 1981 (a = -0.5).
Factors are integers, so every output pixel of one phase has the very same weights: that is what
makes these models bit-exact under tiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Kernel = Callable[[float], float]


def cubic(x: float) -> float:
    """Return Keys' cubic kernel with a = -0.5, which is 0 outside -2..2."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x <= 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0


def lanczos3(x: float) -> float:
    """Return the sinc windowed by a sinc three times as wide, which is 0 outside -3..3."""
    # Below this the value is 1 to the last bit, and x**2 may underflow to a division by zero.
    if abs(x) < 1e-9:
        return 1.0
    if abs(x) >= 3:
        return 0.0
    return 3 * math.sin(math.pi * x) * math.sin(math.pi * x / 3) / (math.pi * x) ** 2


KERNELS: dict[str, tuple[Kernel, int]] = {"bicubic": (cubic, 2), "lanczos": (lanczos3, 3)}
"""Name to (kernel, half its width in pixels)."""


def taps(kernel: Kernel, *, half_width: int, centre: float, stretch: int = 1) -> dict[int, float]:
    """Return offset -> weight of the pixels around `centre` (in pixels), weights summing to one."""
    reach = half_width * stretch
    offsets = range(math.floor(centre - reach), math.ceil(centre + reach) + 1)
    weights = {o: kernel((o - centre) / stretch) for o in offsets}
    total = sum(weights.values())
    return {o: w / total for o, w in weights.items() if w != 0.0}


def mirror(x: Tensor, *, dim: int, before: int, after: int) -> Tensor:
    """Extend one axis by its mirror image, edge pixel included, as often as it takes."""
    n = x.shape[dim]
    period = torch.arange(-before, n + after, device=x.device) % (2 * n)
    return x.index_select(dim, torch.where(period < n, period, 2 * n - 1 - period))


def weighted_sum(
    x: Tensor, *, dim: int, weights: dict[int, float], count: int, step: int
) -> Tensor:
    """Return ``out[i] = sum(w * x[i * step + o])`` along `dim`, mirrored at the borders.

    The sum is taken tap by tap in a fixed order, so equal neighbourhoods give equal bits.
    """
    before = max(0, -min(weights))
    after = max(0, max(weights) + (count - 1) * step + 1 - x.shape[dim])
    x = mirror(x, dim=dim, before=before, after=after)
    total: Tensor | None = None
    for offset, weight in sorted(weights.items()):
        index = torch.arange(count, device=x.device) * step + before + offset
        term = x.index_select(dim, index) * weight
        total = term if total is None else total + term
    if total is None:
        raise ValueError("weights is empty, expected at least one tap")
    return total


def enlarge(x: Tensor, *, scale: int, method: str) -> Tensor:
    """Enlarge ``(..., h, w)`` to ``(..., scale * h, scale * w)`` with a kernel of `KERNELS`."""
    kernel, half_width = KERNELS[method]
    for dim in (x.ndim - 2, x.ndim - 1):
        n = x.shape[dim]
        phases = [
            weighted_sum(
                x,
                dim=dim,
                weights=taps(
                    kernel, half_width=half_width, centre=(2 * p + 1 - scale) / (2 * scale)
                ),
                count=n,
                step=1,
            )
            for p in range(scale)
        ]
        x = torch.stack(phases, dim=dim + 1).flatten(dim, dim + 1)
    return x


def reduce(x: Tensor, *, scale: int, method: str) -> Tensor:
    """Reduce ``(..., h, w)`` to ``(..., h / scale, w / scale)``, antialiased as in MATLAB.

    Raises:
        ValueError: if a side is no multiple of `scale`.
    """
    rows, cols = x.shape[-2:]
    if rows % scale or cols % scale:
        raise ValueError(f"picture is {rows}x{cols}, expected sides that are multiples of {scale}")
    kernel, half_width = KERNELS[method]
    weights = taps(kernel, half_width=half_width, centre=(scale - 1) / 2, stretch=scale)
    for dim in (x.ndim - 2, x.ndim - 1):
        x = weighted_sum(x, dim=dim, weights=weights, count=x.shape[dim] // scale, step=scale)
    return x


class Nearest(nn.Module):
    """Every pixel becomes a square of `scale` x `scale` equal pixels."""

    def __init__(self, *, scale: int, channels: int = 3) -> None:
        super().__init__()
        self.scale = scale
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to ``(n, c, scale * h, scale * w)``."""
        return x.repeat_interleave(self.scale, dim=2).repeat_interleave(self.scale, dim=3)


class KernelInterpolation(nn.Module):
    """Enlargement with one of `KERNELS`."""

    def __init__(self, *, scale: int, channels: int = 3, method: str) -> None:
        super().__init__()
        self.scale = scale
        self.channels = channels
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to ``(n, c, scale * h, scale * w)``."""
        return enlarge(x, scale=self.scale, method=self.method)


class NeighbourAverage(nn.Module):
    """Double by inserting the mean of the neighbours, as often as the scale asks for.

    ``out[2i] = x[i]`` and ``out[2i + 1] = (x[i] + x[i + 1]) / 2`` along rows, then columns; the
    last pixel is repeated. Pixels keep their place, so the picture moves by half an output pixel
    for each doubling: the method of the early enhancement reports, kept as they had it.
    """

    def __init__(self, *, scale: int, channels: int = 3) -> None:
        super().__init__()
        if scale < 2 or scale & (scale - 1):
            raise ValueError(f"scale is {scale}, expected a power of two: this method doubles")
        self.scale = scale
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to ``(n, c, scale * h, scale * w)``."""
        for _ in range(self.scale.bit_length() - 1):
            for dim in (2, 3):
                following = mirror(x, dim=dim, before=0, after=1).narrow(dim, 1, x.shape[dim])
                x = torch.stack((x, (x + following) / 2), dim=dim + 1).flatten(dim, dim + 1)
        return x
