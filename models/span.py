"""SPAN: the default network.

Source: Wan et al., "Swift Parameter-free Attention Network for Efficient Super-Resolution",
CVPR Workshops 2024 (arXiv 2311.12770). Differences from the paper: plain 3x3 convolutions where
the paper trains re-parameterised ones, and the input is repeated and added before the pixel
shuffle, so that the network only learns what nearest-neighbour enlargement lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

# Measured on torch 2.13: below this many values a single picture is convolved in fp32 by another
# algorithm, which rounds otherwise; a batch of two never is.
_FEW_VALUES = 20_480
_THREAD_SHARE = 32_768
"""How many values torch gives a CPU thread at least (`GRAIN_SIZE`)."""
_VECTORS = 64
"""A multiple of what any CPU kernel computes at once."""


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps rows and columns."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


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
    given, found = (t.permute(0, 2, 3, 1).view(-1) for t in (x, y))
    size = len(given)
    threads = min(torch.get_num_threads(), -(-size // _THREAD_SHARE))
    share = -(-size // threads)
    for end in range(share, size + share, share):
        last = slice(max(0, min(end, size) - _VECTORS), min(end, size))
        few = given[last]
        found[last] = function(nn.functional.pad(few, (0, _VECTORS - len(few))))[: len(few)]
    return y


class AttentionBlock(nn.Module):
    """Three convolutions whose own output is the attention: ``(f + x) * (sigmoid(f) - 0.5)``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(features, features)
        self.conv2 = conv3x3(features, features)
        self.conv3 = conv3x3(features, features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output and its first convolution's output, both like `x`."""
        first = self.conv1(x)
        f = self.conv3(evenly(nn.functional.silu, self.conv2(evenly(nn.functional.silu, first))))
        # sigmoid(f) - 0.5, without the cancellation that costs bf16 most of its digits.
        return (f + x) * (0.5 * evenly(torch.tanh, 0.5 * f)), first


class Span(nn.Module):
    """Six attention blocks, four of their outputs joined, one pixel shuffle."""

    def __init__(self, *, scale: int, channels: int = 3, features: int = 48) -> None:
        super().__init__()
        self.scale = scale
        self.features = features
        self.head = conv3x3(channels, features)
        self.blocks = nn.ModuleList(AttentionBlock(features) for _ in range(6))
        self.tail = conv3x3(features, features)
        self.join = nn.Conv2d(4 * features, features, kernel_size=1)
        self.enlarge = conv3x3(features, channels * scale * scale)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to ``(n, c, scale * h, scale * w)``."""
        if len(x) == 1 and x.shape[2] * x.shape[3] * self.features <= _FEW_VALUES:
            return self._enlarge(x.repeat(2, 1, 1, 1))[:1]
        return self._enlarge(x)

    def _enlarge(self, x: Tensor) -> Tensor:
        shallow = self.head(x - 0.5)
        out, _ = self.blocks[0](shallow)
        after_first = out
        for block in self.blocks[1:]:
            out, inside_last = block(out)
        joined = self.join(torch.cat((shallow, self.tail(out), after_first, inside_last), dim=1))
        repeated = x.repeat_interleave(self.scale * self.scale, dim=1)
        enlarged: Tensor = self.shuffle(self.enlarge(joined) + repeated)
        return enlarged
