"""SRGAN: the residual generator SRResNet, and its discriminator.

Source: Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
Network", CVPR 2017 (arXiv 1609.04802), figure 4. What the paper leaves open: PReLU has one slope a
channel, and a convolution before BatchNorm has no bias. The generator knows -1..1 inside, as in
the paper; outside it is 0..1.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from models.architectures import discriminator, generator
from models.blocks import DenseDiscriminator, Residual, bounded, conv3x3, conv_norm, doublings
from models.tile_independent import in_pairs


@generator("srresnet")
class SRResNet(nn.Module):
    """The generator: residual blocks at the size of the input, then a pixel shuffle a doubling."""

    def __init__(
        self, *, scale: int, channels: int = 3, features: int = 64, blocks: int = 16
    ) -> None:
        super().__init__()
        self.scale = scale
        self.features = features
        self.head = nn.Sequential(nn.Conv2d(channels, features, 9, padding=4), nn.PReLU(features))
        self.blocks = nn.Sequential(
            *(Residual(features, nn.PReLU(features)) for _ in range(blocks))
        )
        self.join = nn.Sequential(*conv_norm(features, features))
        self.enlarge = nn.Sequential(*(_doubling(features) for _ in range(doublings(scale))))
        self.tail = nn.Conv2d(features, channels, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to ``(n, c, scale * h, scale * w)``, both in 0..1."""
        return in_pairs(self._enlarge, x, channels=self.features)

    def _enlarge(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        deep = self.join(self.blocks(shallow)) + shallow
        # In the input's precision: bf16 has but 1/256 between neighbours near white.
        y = self.tail(self.enlarge(deep)).to(x.dtype)
        # (1 + tanh(y)) / 2
        return bounded(2 * y)


def _doubling(features: int) -> nn.Sequential:
    return nn.Sequential(conv3x3(features, 4 * features), nn.PixelShuffle(2), nn.PReLU(features))


@discriminator("srgan")
class SrganDiscriminator(DenseDiscriminator):
    """Eight convolutions in pairs that halve the patch four times, then two dense layers."""

    def __init__(self, *, patch_px: int, channels: int = 3, features: int = 64) -> None:
        widths = [features * factor for factor in (1, 1, 2, 2, 4, 4, 8, 8)]
        first = nn.Conv2d(channels, features, 3, padding=1)
        layers: list[nn.Module] = [first, nn.LeakyReLU(0.2)]
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [*conv_norm(inputs, outputs, stride=2 - number % 2), nn.LeakyReLU(0.2)]
        super().__init__(layers, width=widths[-1], patch_px=patch_px)
