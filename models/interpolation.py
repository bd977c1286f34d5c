"""Interpolation kernels, and the baselines built from them as models like any other.

Both directions follow MATLAB's `imresize`: pixel centres at half-integers, mirrored borders,
weights that sum to one, and, when reducing, a kernel stretched by the factor (antialiasing).
Source: Keys, "Cubic convolution interpolation for digital image processing", 1981 (a = -0.5).
The models' factors are integers, so every output pixel of one phase has the very same weights:
that is what makes them bit-exact under tiling. `resize` goes to any size, with weights of its own
for each output pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from models.architectures import baseline

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


def triangle(x: float) -> float:
    """Return the kernel of linear interpolation, which is 0 outside -1..1."""
    return max(0.0, 1.0 - abs(x))


def box(x: float) -> float:
    """Return 1 on -0.5 <= x < 0.5 and 0 elsewhere: of two equally near pixels, the first."""
    return 1.0 if -0.5 <= x < 0.5 else 0.0


KERNELS: dict[str, tuple[Kernel, float]] = {
    "bicubic": (cubic, 2),
    "bilinear": (triangle, 1),
    "box": (box, 0.5),
    "lanczos": (lanczos3, 3),
}
"""Name to (kernel, half its width in pixels)."""


def taps(kernel: Kernel, *, half_width: float, centre: float, stretch: int = 1) -> dict[int, float]:
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
        ValueError: if a side is not a multiple of `scale`.
    """
    rows, cols = x.shape[-2:]
    if rows % scale or cols % scale:
        raise ValueError(f"picture is {rows}x{cols}, expected sides that are multiples of {scale}")
    kernel, half_width = KERNELS[method]
    weights = taps(kernel, half_width=half_width, centre=(scale - 1) / 2, stretch=scale)
    for dim in (x.ndim - 2, x.ndim - 1):
        x = weighted_sum(x, dim=dim, weights=weights, count=x.shape[dim] // scale, step=scale)
    return x


def resize(x: Tensor, *, size: tuple[int, int], method: str, antialias: bool = True) -> Tensor:
    """Resize ``(..., h, w)`` to ``(..., *size)`` as MATLAB's `imresize` to given rows and columns.

    An axis that keeps its length keeps its values. Without `antialias` the kernel is not stretched
    where an axis gets shorter. The sum is taken tap by tap in a fixed order, so a picture's result
    has the same bits in every batch and with every number of threads.
    """
    for dim, length in zip((x.ndim - 2, x.ndim - 1), size, strict=True):
        if x.shape[dim] != length:
            sources, weights = _one_axis(x.shape[dim], length, method=method, antialias=antialias)
            x = _gathered_sum(x, dim=dim, sources=sources.to(x.device), weights=weights.to(x))
    return x


def _gathered_sum(x: Tensor, *, dim: int, sources: Tensor, weights: Tensor) -> Tensor:
    """Return ``out[j] = sum(weights[k, j] * x[sources[k, j]])`` along `dim`."""
    shape = [-1 if axis == dim else 1 for axis in range(x.ndim)]
    total: Tensor | None = None
    for source, weight in zip(sources, weights, strict=True):
        term = x.index_select(dim, source) * weight.view(shape)
        total = term if total is None else total.add_(term)
    if total is None:
        raise ValueError("weights is empty, expected at least one tap")
    return total


@lru_cache(maxsize=1024)
def _one_axis(before: int, after: int, *, method: str, antialias: bool) -> tuple[Tensor, Tensor]:
    """Return what `resampling` says of one axis as ``(taps, after)`` tensors."""
    sources, weights = resampling([before], [after], method=method, antialias=antialias)
    return sources[0].T.contiguous(), weights[0].T.contiguous()


def resize_each(
    x: Tensor,
    *,
    before: Sequence[tuple[int, int]],
    after: Sequence[tuple[int, int]],
    method: str,
    antialias: bool = True,
) -> Tensor:
    """Resize each picture of ``(n, c, h, w)`` from a size of its own to a size of its own.

    Picture i fills the first ``before[i]`` rows and columns of `x`, and the first ``after[i]`` of
    the result, which is as large as the largest; beyond, it is zero. By matrix products, which
    is what a GPU likes best; the values are those of `resize` but for rounding.
    """
    for dim, axis in ((2, 0), (3, 1)):
        old, new = [size[axis] for size in before], [size[axis] for size in after]
        if old == new and x.shape[dim] == max(new):
            continue
        sources, weights = resampling(old, new, method=method, antialias=antialias, device=x.device)
        dense = x.new_zeros((len(old), max(new), x.shape[dim]))
        dense.scatter_add_(2, sources, weights.to(x.dtype))
        dense = dense.unsqueeze(1)
        x = dense @ x if dim == 2 else x @ dense.transpose(2, 3)
    return x


def resampling(
    before: Sequence[int],
    after: Sequence[int],
    *,
    method: str,
    antialias: bool = True,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Return where the pixels of resized axes come from, and with which weights.

    Axis i goes from ``before[i]`` to ``after[i]`` pixels:
    ``out[j] = sum(weights[i, j, k] * x[sources[i, j, k]])``. Both are ``(n, max(after), taps)``;
    weights are float64, sum to one for ``j < after[i]``, and are 0 beyond. Positions are those of
    `imresize`: ``centre = (j + 1/2) * before / after - 1/2``.
    """
    old = torch.tensor(before, dtype=torch.int64, device=device).view(-1, 1, 1)
    new = torch.tensor(after, dtype=torch.int64, device=device).view(-1, 1, 1)
    ratio = old.double() / new
    stretch = ratio.clamp(min=1) if antialias else torch.ones_like(ratio)
    places = torch.arange(max(after), device=device).view(1, -1, 1)
    centre = (places + 0.5) * ratio - 0.5
    half_width = KERNELS[method][1]
    widest = max([o / n for o, n in zip(before, after, strict=True)] if antialias else [1.0])
    count = math.floor(2 * half_width * max(1.0, widest)) + 2
    offsets = torch.floor(centre - half_width * stretch) + torch.arange(count, device=device)
    weights = _CURVES[method]((offsets - centre) / stretch)
    # Tap by tap, as a library's own sum may take another order in another batch.
    total = weights[..., 0].clone()
    for tap in range(1, count):
        total += weights[..., tap]
    period = offsets.long() % (2 * old)
    sources = torch.where(period < old, period, 2 * old - 1 - period)
    return sources, weights / total.unsqueeze(-1) * (places < new)


def _cubic_curve(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, 0))


def _triangle_curve(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _box_curve(x: Tensor) -> Tensor:
    return ((x >= -0.5) & (x < 0.5)).to(x.dtype)


def _lanczos3_curve(x: Tensor) -> Tensor:
    safe = torch.where(x.abs() < 1e-9, 1.0, x)
    inside = 3 * _sine_of_pi_times(safe) * _sine_of_pi_times(safe / 3) / (math.pi * safe) ** 2
    return torch.where(x.abs() < 1e-9, 1.0, torch.where(x.abs() < 3, inside, 0))


def _sine_of_pi_times(x: Tensor) -> Tensor:
    """Return sin(pi x) to 1e-15 from sums and products alone.

    A library's sine may differ in its last bit with the place in the tensor.
    """
    whole = torch.round(x)
    angle = (x - whole) * math.pi
    square = angle * angle
    series = torch.zeros_like(x)
    for order in range(23, 0, -2):
        series = series * square + (-1) ** (order // 2) / math.factorial(order)
    return series * angle * (1 - 2 * (whole % 2))


_CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "bicubic": _cubic_curve,
    "bilinear": _triangle_curve,
    "box": _box_curve,
    "lanczos": _lanczos3_curve,
}
"""The `KERNELS` over tensors, for weights that are too many to compute one by one."""


@baseline("nearest", summary="every pixel becomes a square of equal pixels")
class Nearest(nn.Module):
    """Every pixel becomes a square of `scale` x `scale` equal pixels."""

    def __init__(self, *, scale: int, channels: int = 3) -> None:
        super().__init__()
        self.scale = scale
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to ``(n, c, scale * h, scale * w)``."""
        return x.repeat_interleave(self.scale, dim=2).repeat_interleave(self.scale, dim=3)


@baseline("lanczos", summary="windowed sinc of width 3", method="lanczos")
@baseline(
    "bicubic", summary="Keys' cubic convolution, a = -0.5, as MATLAB's imresize", method="bicubic"
)
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


@baseline(
    "neighbour-average",
    summary="doubling by inserting the mean of the neighbours, repeated",
    only_doubles=True,
)
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


def interpolates(network: nn.Module) -> bool:
    """Return whether `network` is one of the methods of this module, which learned nothing."""
    return isinstance(network, (Nearest, KernelInterpolation, NeighbourAverage))
