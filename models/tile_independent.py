"""What keeps the bits of a pixel from depending on the size of the tile it stands in.

Here belongs what torch's convolutions need for it, and its functions of single elements.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

# Measured on torch 2.13: a single picture of at most so many values is convolved in fp32 with 3x3
# by another algorithm, which rounds otherwise; a batch of two never is, nor are larger kernels.
_FEW_VALUES = 20_480

# Measured on torch 2.13 and OpenVINO 2026.4 on a Xeon with AMX: in bf16, what takes fewer channels
# is summed in an order that depends on the picture's width; from 16 channels on it is not.
_FEW_CHANNELS = 16

_THREAD_SHARE = 32_768
"""How many values torch gives a CPU thread at least (`GRAIN_SIZE`)."""
_VECTORS = 64
"""A multiple of what any CPU kernel computes at once."""


def evenly(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``function(x)``, element by element, with equal bits for equal elements.

    torch's CPU kernels compute the last elements of each thread's share one by one, with an
    exponential that rounds otherwise than the vectors' one: so a pixel would depend on where its
    tile ends. Here these are computed once more, as whole vectors. Training does not ask for it,
    and GPUs have no such ends.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return function(x)
    x = x.contiguous(memory_format=torch.channels_last)
    y = function(x)
    inputs, outputs = (t.permute(0, 2, 3, 1).view(-1) for t in (x, y))
    size = len(inputs)
    threads = min(torch.get_num_threads(), -(-size // _THREAD_SHARE))
    share = -(-size // threads)
    for end in range(share, size + share, share):
        last = slice(max(0, min(end, size) - _VECTORS), min(end, size))
        few = inputs[last]
        outputs[last] = function(functional.pad(few, (0, _VECTORS - len(few))))[: len(few)]
    return y


def in_pairs(function: Callable[[Tensor], Tensor], x: Tensor, *, channels: int) -> Tensor:
    """Return ``function(x)``, computed for a small single picture as one of two equal ones.

    `channels` is the least number that a convolution of at most 3x3 inside `function` takes; it
    decides what is small. Training does not ask for equal bits, and GPUs know no such size.
    """
    needs_bits = x.device.type == "cpu" and not torch.is_grad_enabled()
    if needs_bits and len(x) == 1 and x.shape[2] * x.shape[3] * channels <= _FEW_VALUES:
        return function(x.repeat(2, 1, 1, 1))[:1]
    return function(x)


def widened(network: nn.Module) -> nn.Module:
    """Return a copy of `network` whose bits in bf16 do not depend on a picture's size, on a CPU.

    Its convolutions that take fewer than 16 channels, as the first one does, take 16: what is
    added is zero, and so are its weights.
    """
    return _widen(copy.deepcopy(network))


def _widen(module: nn.Module) -> nn.Module:
    if type(module) is nn.Conv2d and _is_thin(module):
        return _Widened(module)
    for name, child in list(module.named_children()):
        setattr(module, name, _widen(child))
    return module


def _is_thin(conv: nn.Conv2d) -> bool:
    return conv.in_channels < _FEW_CHANNELS and conv.groups == 1 and conv.kernel_size != (1, 1)


class _Widened(nn.Module):
    """A convolution with channels of zeros added to what it takes."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.zeros = (0, 0, 0, 0, 0, _FEW_CHANNELS - conv.in_channels)
        self.conv = nn.Conv2d(
            _FEW_CHANNELS,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            padding_mode=conv.padding_mode,
        )
        self.conv.weight = nn.Parameter(functional.pad(conv.weight.detach(), self.zeros))
        self.conv.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to what the convolution makes of it."""
        y: Tensor = self.conv(functional.pad(x, self.zeros))
        return y
