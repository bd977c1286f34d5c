"""The 20-channel swish GANs: grey faces doubled, and colour pictures enlarged four times.

Sources: S. Jameel and M. M. Arif, "Enhance! A Generative Adversarial Network for Image Upscaling",
2018 (grey, 56x46 to 112x92); A. Watanabe and Y. Zeng, "Super-Resolution", 2019 (colour, DIV2K).
Both follow SRGAN (arXiv 1609.04802) at a third of its width, with swish (arXiv 1710.05941).

Where the reports are silent: convolutions are 3x3; the grey generator's blocks hold BatchNorm as
the colour one's do; the last convolution gives ``channels * scale**2`` channels, and one pixel
shuffle is the whole upsampling (an upsampling after a last convolution to one channel could add
no detail); nothing bounds the output. In the discriminators the second convolution of a pair
halves the picture, as in SRGAN, and the widths start at the generator's 20: the grey reads 20,
40, 80, 160 in pairs, the colour 20, then 20, 40, 40, 80, 80, 160, 160, 320 ("a factor of 2 every
even number of layers").
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from models.architectures import discriminator, generator
from models.blocks import Residual, Swish, conv3x3, conv_norm
from models.tile_independent import in_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "swish": Swish,
    "leaky-relu": lambda: nn.LeakyReLU(0.01),
}


@generator("swishgan-grey", blocks=16)
@generator("swishgan-colour", blocks=18)
class SwishGenerator(nn.Module):
    """A head of 20 channels, residual blocks (16 for grey, 18 for colour), one pixel shuffle."""

    def __init__(
        self,
        *,
        scale: int,
        channels: int,
        blocks: int,
        features: int = 20,
        activation: str = "swish",
    ) -> None:
        super().__init__()
        self.scale = scale
        self.thinnest = min(channels, features)
        make = _activation(activation)
        self.head = nn.Sequential(conv3x3(channels, features), make())
        self.blocks = nn.Sequential(*(Residual(features, make()) for _ in range(blocks)))
        self.enlarge = nn.Sequential(
            conv3x3(features, channels * scale * scale), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to ``(n, c, scale * h, scale * w)``."""
        return in_pairs(self._enlarge, x, channels=self.thinnest)

    def _enlarge(self, x: Tensor) -> Tensor:
        y: Tensor = self.enlarge(self.blocks(self.head(x)))
        return y


@discriminator("swishgan-grey")
class GreyDiscriminator(nn.Module):
    """Four pairs of convolutions, each with BatchNorm and swish: one widens, one keeps.

    Takes pictures of any size; `patch_px` is there since all discriminators are built alike.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        patch_px: int | None = None,
        features: int = 20,
        activation: str = "swish",
    ) -> None:
        super().__init__()
        make = _activation(activation)
        widths = [channels, *(features << pair for pair in range(4))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [*conv_norm(inputs, outputs), make()]
            layers += [*conv_norm(outputs, outputs, stride=2), make()]
        self.body = nn.Sequential(*layers, conv3x3(widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures ``(n, c, h, w)`` of any size, in 0..1, to logits ``(n,)``: large is real."""
        return _averaged(self.body(x))


@discriminator("swishgan-colour")
class ColourDiscriminator(nn.Module):
    """A head, then eight convolutions with BatchNorm, every second of which doubles the width.

    Takes pictures of any size; `patch_px` is there since all discriminators are built alike.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        patch_px: int | None = None,
        features: int = 20,
        activation: str = "swish",
    ) -> None:
        super().__init__()
        make = _activation(activation)
        layers: list[nn.Module] = [conv3x3(channels, features), make()]
        for pair in range(4):
            width = features << pair
            layers += [*conv_norm(width, width), make()]
            layers += [*conv_norm(width, 2 * width, stride=2), make()]
        self.body = nn.Sequential(*layers, conv3x3(16 * features, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures ``(n, c, h, w)`` of any size, in 0..1, to logits ``(n,)``: large is real."""
        return _averaged(self.body(x))


def _activation(name: str) -> Callable[[], nn.Module]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}, expected one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _averaged(judged: Tensor) -> Tensor:
    """Return the mean ``(n,)`` of the maps ``(n, 1, h, w)``."""
    return judged.mean(dim=(1, 2, 3))
