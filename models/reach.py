"""How far a network looks, measured on the network itself."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from models.checkpoint import Model

LIMIT_PX = 256
"""A network that looks further than this counts as looking at the whole picture."""

_RADII_PX = (8, 24, 64, 128, LIMIT_PX)
"""Of the probes: most networks here look 21 px far, and a probe costs as much as it has pixels."""

_KNOWN: dict[tuple[str, int, int, str], int | None] = {}


def reach_of(model: Model) -> int | None:
    """Return `reach_px` of a model, which is measured once in a process.

    Networks that differ in their weights alone share it: no weight hides a NaN.
    """
    spec = model.spec
    arguments = json.dumps(spec.arguments, sort_keys=True)
    network = (spec.architecture, spec.scale, spec.channels, arguments)
    if network not in _KNOWN:
        _KNOWN[network] = reach_px(model.network, channels=spec.channels)
    return _KNOWN[network]


def reach_px(network: nn.Module, *, channels: int) -> int | None:
    """Return how many LR pixels beyond its own place an output pixel depends on, at most.

    Returns None where the dependence reaches `LIMIT_PX` or the border of the probe whatever its
    size: such a network (global pooling, GroupNorm) sees the whole picture and cannot be tiled.

    One LR pixel is NaN, and the outputs that become NaN are those it can influence: also through
    a ReLU that is shut or a maximum that is elsewhere in this very picture, where a gradient would
    be zero. Weights that are zero count too, so the reach is never too small for a network that
    treats all places alike. The probe grows until the influence stays clear of its border.
    """
    probe = _float64_copy(network)
    for radius in _RADII_PX:
        seen = _influence(probe, radius=radius, channels=channels)
        if seen < radius:
            return seen
    return None


class _Spread(nn.Module):
    """What a convolution does to NaN, and nothing else: where one is in sight, the output is NaN.

    The convolution itself would lay out every window of the probe in memory: eleven gigabytes for
    64 channels and kernels of 9x9.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.groups = convolution.groups
        self.outputs = convolution.out_channels
        self.spread = partial(
            nn.functional.conv2d,
            weight=torch.ones(self.groups, 1, *convolution.kernel_size, dtype=torch.float64),
            stride=convolution.stride,
            padding=convolution.padding,
            dilation=convolution.dilation,
            groups=self.groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to the convolution's shape: NaN, or 0.5 where none is in sight."""
        of_groups = x.isnan().unflatten(1, (self.groups, -1)).any(dim=2).to(torch.float64)
        met = self.spread(of_groups) > 0
        marked = torch.where(met, torch.nan, 0.5).to(torch.float64)
        return marked.repeat_interleave(self.outputs // self.groups, dim=1)


def _float64_copy(network: nn.Module) -> nn.Module:
    probe = copy.deepcopy(network).to(device="cpu", dtype=torch.float64).eval()
    for module in list(probe.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and child.padding_mode == "zeros":
                setattr(module, name, _Spread(child))
    return probe


@torch.no_grad()
def _influence(network: nn.Module, *, radius: int, channels: int) -> int:
    """Return the largest row or column distance from the centre that a NaN there reaches."""
    side = 2 * radius + 1
    # In float64 torch convolves plainly, place by place: faster methods would smear the NaN.
    x = torch.full((1, channels, side, side), 0.5, dtype=torch.float64)
    x[:, :, radius, radius] = torch.nan
    y = network(x)
    scale = y.shape[-1] // side
    rows, cols = torch.nonzero(y.isnan().any(dim=1)[0], as_tuple=True)
    if not len(rows):
        return 0
    far = [(at.div(scale, rounding_mode="floor") - radius).abs().max() for at in (rows, cols)]
    return int(max(far))
