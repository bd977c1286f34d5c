"""How far a network looks, measured on the network itself."""

from __future__ import annotations

import torch
from torch import nn

LIMIT_PX = 256
"""A network that looks further than this counts as looking at the whole picture."""


def reach_px(network: nn.Module, *, channels: int) -> int | None:
    """Return how many LR pixels beyond its own place an output pixel depends on, at most.

    Returns None where the dependence reaches `LIMIT_PX` or the border of the probe whatever its
    size: such a network (global pooling, GroupNorm) sees the whole picture and cannot be tiled.

    The gradient of the outputs of one LR pixel is taken in float64 at a random picture; a pixel
    belongs to the reach when its gradient is not exactly zero. The probe grows until the gradient
    stays clear of its border.
    """
    probe = _float64_copy(network)
    radius = 8
    while radius <= LIMIT_PX:
        seen = _influence(probe, radius=radius, channels=channels)
        if seen < radius:
            return seen
        radius *= 2
    return None


def _float64_copy(network: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(network).to(device="cpu", dtype=torch.float64).eval()


def _influence(network: nn.Module, *, radius: int, channels: int) -> int:
    """Return the largest row or column distance from the centre at which a gradient is not 0."""
    side = 2 * radius + 1
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, channels, side, side, dtype=torch.float64, generator=generator)
    x.requires_grad_()
    y = network(x)
    scale = y.shape[-1] // side
    centre = slice(radius * scale, (radius + 1) * scale)
    weights = torch.rand(y[..., centre, centre].shape, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad((y[..., centre, centre] * weights).sum(), x)
    touched = gradient.abs().amax(dim=(0, 1)) > 0
    rows, cols = torch.nonzero(touched, as_tuple=True)
    if not len(rows):
        return 0
    return int(max((rows - radius).abs().max(), (cols - radius).abs().max()))
