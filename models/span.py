"""SPAN: the default network.

Source: Wan et al., "Swift Parameter-free Attention Network for Efficient Super-Resolution",
CVPR Workshops 2024 (arXiv 2311.12770). Differences from the paper: plain 3x3 convolutions where
the paper trains re-parameterised ones, and the input is repeated and added before the pixel
shuffle, so that the network only learns what nearest-neighbour enlargement lacks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures import generator
from models.blocks import conv3x3
from models.tile_independent import evenly

# Measured on torch 2.13: below this many values a single picture is convolved in fp32 by another
# algorithm, which rounds otherwise; a batch of two never is.
_FEW_VALUES = 20_480


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


@generator("span")
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
