"""SRCNN: three convolutions on the bicubic enlargement.

Source: Dong et al., "Image Super-Resolution Using Deep Convolutional Networks", TPAMI 2016
(arXiv 1501.00092), the network 9-5-5 with 64 and 32 filters. It learns luma; chroma is enlarged
bicubically. Differences from the paper: borders are padded with zeros, so sizes are kept, and
weights are drawn after He et al. (arXiv 1502.01852), as N(0, 0.001) learns for days.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures import generator
from models.blocks import he_normal
from models.interpolation import enlarge
from models.luma import luma, with_luma


@generator("srcnn")
class Srcnn(nn.Module):
    """Patch extraction 9x9, mapping 5x5, reconstruction 5x5."""

    def __init__(self, *, scale: int, channels: int = 3, features: int = 64) -> None:
        super().__init__()
        if features == 1:
            raise ValueError(
                "features is 1, expected at least 2: the second layer has half of them"
            )
        self.scale = scale
        self.channels = channels
        self.body = nn.Sequential(
            nn.Conv2d(1, features, 9, padding=4),
            nn.ReLU(),
            nn.Conv2d(features, features // 2, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(features // 2, 1, 5, padding=2),
        )
        self.apply(he_normal)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)``, c of 1 or 3, to ``(n, c, scale * h, scale * w)``."""
        large = enlarge(x, scale=self.scale, method="bicubic")
        y = luma(large).contiguous(memory_format=torch.channels_last)
        return with_luma(large, self.body(y))
