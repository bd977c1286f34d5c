"""VDSR: twenty convolutions that learn what the bicubic enlargement lacks.

Source: Kim et al., "Accurate Image Super-Resolution Using Very Deep Convolutional Networks",
CVPR 2016 (arXiv 1511.04587). It learns luma; chroma is enlarged bicubically.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures import generator
from models.blocks import conv3x3, he_normal
from models.interpolation import enlarge
from models.luma import luma, with_luma
from models.tile_independent import in_pairs


@generator("vdsr")
class Vdsr(nn.Module):
    """``bicubic + f(bicubic)`` with `f` of twenty 3x3 convolutions and ReLU between them."""

    def __init__(
        self, *, scale: int, channels: int = 3, features: int = 64, layers: int = 20
    ) -> None:
        super().__init__()
        self.scale = scale
        self.channels = channels
        self.first = conv3x3(1, features)
        body = [conv3x3(features, features) for _ in range(layers - 2)]
        self.body = nn.ModuleList(body)
        self.last = conv3x3(features, 1)
        self.apply(he_normal)
        # What is between two ReLUs passes on what it is given, so that twenty layers without
        # skips learn in a fraction of the steps, and a network trained with fewer layers can go on
        # with more (Chen et al., "Net2Net", arXiv 1511.05641).
        for layer in body:
            nn.init.dirac_(layer.weight)
        # What is added is little at first: it begins near the bicubic enlargement.
        nn.init.normal_(self.last.weight, std=0.1 * (2 / (9 * features)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)``, c of 1 or 3, to ``(n, c, scale * h, scale * w)``."""
        large = enlarge(x, scale=self.scale, method="bicubic")
        y = luma(large).contiguous(memory_format=torch.channels_last)
        return with_luma(large, y + in_pairs(self._lacking, y, channels=1))

    def _lacking(self, y: Tensor) -> Tensor:
        x = torch.relu(self.first(y))
        for layer in self.body:
            x = torch.relu(layer(x))
        missing: Tensor = self.last(x)
        return missing
