"""A U-Net that judges every pixel, under spectral norm.

Sources: Schonfeld et al., "A U-Net Based Discriminator for Generative Adversarial Networks", CVPR
2020 (arXiv 2002.12655); Wang et al., "Real-ESRGAN", ICCV Workshops 2021 (arXiv 2107.10833), which
has spectral norm (Miyato et al., arXiv 1802.05957), skips that are added and no global judgement.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.architectures import discriminator

_LEAST_PX = 8


@discriminator("unet")
class UNetDiscriminator(nn.Module):
    """Three times half the size, three times back, with the way down added on the way up.

    Takes pictures of any size; `patch_px` is there since all discriminators are built alike.
    """

    def __init__(
        self, *, channels: int = 3, patch_px: int | None = None, features: int = 64
    ) -> None:
        super().__init__()
        widths = [features << level for level in range(4)]
        self.head = nn.Conv2d(channels, features, 3, padding=1)
        self.down = nn.ModuleList(
            _normed(narrow, wide, kernel=4, stride=2) for narrow, wide in pairwise(widths)
        )
        self.up = nn.ModuleList(
            _normed(wide, narrow) for narrow, wide in reversed([*pairwise(widths)])
        )
        self.tail = nn.Sequential(
            _normed(features, features),
            nn.LeakyReLU(0.2),
            _normed(features, features),
            nn.LeakyReLU(0.2),
            nn.Conv2d(features, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures ``(n, c, h, w)`` in 0..1 to a map of logits ``(n, 1, h, w)``: large is real.

        Raises:
            ValueError: if a side is shorter than 8 px, which cannot be halved three times.
        """
        if min(x.shape[2:]) < _LEAST_PX:
            raise ValueError(
                f"discriminator got {x.shape[2]}x{x.shape[3]} px, expected sides of at least "
                f"{_LEAST_PX} px; train with larger patches"
            )
        levels = [_leaky(self.head(x))]
        for narrower in self.down:
            levels.append(_leaky(narrower(levels[-1])))
        y = levels.pop()
        for wider in self.up:
            skip = levels.pop()
            # To the skip's own size, as an odd side is not twice its half.
            y = nn.functional.interpolate(y, size=skip.shape[2:], mode="bilinear")
            y = _leaky(wider(y)) + skip
        logits: Tensor = self.tail(y)
        return logits


def _normed(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=1, bias=False))


def _leaky(x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, 0.2)
