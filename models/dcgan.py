"""The DCGAN enhancer: it enlarges by 2 or 4, or cleans at the same size (denoises, deblurs).

Source: A. Tariq, "Image Enhancement (Low Resolution to High Resolution)", after Yan and Wang,
"DCGANs for image super-resolution, denoising and debluring", Stanford EE367, 2017. Weights are
drawn after He et al. (arXiv 1502.01852).

The report lists the layers and ends with "still trying to figure out the correct network layers
values". Taken literally it cannot fit: five blocks that each double enlarge 32 times, and a 4x4
convolution with padding 1 loses a row and a column. What had to be decided:

- Only the last ``log2(scale)`` of the five blocks double; the others end after the addition and
  its ReLU. So all scales have the same five blocks, and most work is done at the small size.
- The 4x4 convolution is padded by 1 px before and 2 px after, so sizes are kept.
- All other kernels are 3x3, stride 1, padding 1, the transposed one too: the upsampling before it
  (nearest neighbour) has doubled already, and a stride of 1 leaves no checkerboard.
- The block's input is added after its second BatchNorm, as in SRGAN.
- The discriminator's LeakyReLU has the slope 0.2 throughout, and BatchNorm comes before the
  activation everywhere; its sigmoid belongs to the loss.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.architectures import discriminator, generator
from models.blocks import DenseDiscriminator, bounded, conv3x3, conv_norm, doublings, he_normal
from models.tile_independent import in_pairs


@generator("dcgan")
class DcganGenerator(nn.Module):
    """A 4x4 head, five residual blocks, and three convolutions down to the colours."""

    def __init__(
        self, *, scale: int, channels: int = 3, features: int = 128, blocks: int = 5
    ) -> None:
        super().__init__()
        times = doublings(scale)
        if times > blocks:
            raise ValueError(f"scale is {scale}, expected at most {1 << blocks} of {blocks} blocks")
        self.scale = scale
        self.thinnest = features // 2
        self.head = nn.Sequential(
            nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(channels, features, 4), nn.ReLU()
        )
        plain = [_Block(features) for _ in range(blocks - times)]
        self.blocks = nn.Sequential(*plain, *(_DoublingBlock(features) for _ in range(times)))
        self.tail = nn.Sequential(
            conv3x3(features, features),
            nn.ReLU(),
            conv3x3(features, features // 2),
            nn.ReLU(),
            conv3x3(features // 2, channels),
        )
        self.apply(he_normal)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to ``(n, c, scale * h, scale * w)``, both in 0..1."""
        return in_pairs(self._enhance, x, channels=self.thinnest)

    def _enhance(self, x: Tensor) -> Tensor:
        # In the input's precision: bf16 has but 1/256 between neighbours near white.
        y = self.tail(self.blocks(self.head(x))).to(x.dtype)
        return bounded(y)


class _Block(nn.Module):
    """``ReLU(x + BN(conv(ReLU(BN(conv(x))))))``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(features, features), nn.ReLU(), *conv_norm(features, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x`."""
        return torch.relu(x + self.body(x))


class _DoublingBlock(_Block):
    """The block, then its output doubled: upsampling, BN, ReLU, transposed convolution."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.upsample = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.BatchNorm2d(features),
            nn.ReLU(),
            nn.ConvTranspose2d(features, features, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, f, h, w)`` to ``(n, f, 2 * h, 2 * w)``."""
        y: Tensor = self.upsample(super().forward(x))
        return y


@discriminator("dcgan")
class DcganDiscriminator(DenseDiscriminator):
    """A head, four convolutions that halve, two that keep, and two dense layers."""

    def __init__(self, *, patch_px: int, channels: int = 3, features: int = 64) -> None:
        widths = [features * factor for factor in (1, 1, 2, 4, 8)]
        first = nn.Conv2d(channels, features, 3, padding=1)
        layers: list[nn.Module] = [first, nn.LeakyReLU(0.2)]
        for inputs, outputs in pairwise(widths):
            layers += [*conv_norm(inputs, outputs, stride=2), nn.LeakyReLU(0.2)]
        for _ in range(2):
            layers += [*conv_norm(widths[-1], widths[-1]), nn.ReLU()]
        super().__init__(layers, width=widths[-1], patch_px=patch_px)
