"""What the networks of several systems are made of, and how BatchNorm is folded away.

Here belongs a layer or a block that two systems share; a whole network does not.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.tile_independent import evenly

if TYPE_CHECKING:
    from collections.abc import Iterable

_FLAT = 80.0
"""Beyond it a sigmoid is 0 or 1, and its exponential would overflow in fp32."""


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps rows and columns."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def conv_norm(inputs: int, outputs: int, *, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Return a 3x3 convolution and its BatchNorm; it has no bias, which BatchNorm would take out.

    ``(n, inputs, h, w)`` becomes ``(n, outputs, ceil(h / stride), ceil(w / stride))``.
    """
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


class Swish(nn.Module):
    """``x * sigmoid(x)``, with equal bits for equal elements (arXiv 1710.05941)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x`."""
        return evenly(nn.functional.silu, x)


def bounded(x: Tensor) -> Tensor:
    """Return ``sigmoid(x)``, with equal bits for equal elements.

    Spelt out, because openvino 2026.4 makes a sigmoid or tanh one with the convolution before it,
    and one of 5x5 or more to few channels then rounds otherwise at some widths.
    """
    return evenly(lambda y: 1 / (1 + torch.exp(-y.clamp(-_FLAT, _FLAT))), x)


class Residual(nn.Module):
    """``x + BN(conv(activation(BN(conv(x)))))`` of SRResNet (arXiv 1609.04802, figure 4)."""

    def __init__(self, features: int, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(features, features), activation, *conv_norm(features, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x`."""
        y: Tensor = self.body(x)
        return x + y


def doublings(scale: int) -> int:
    """Return how often a network that enlarges by doubling has to, to enlarge by `scale`.

    Raises:
        ValueError: if no number of doublings gives `scale`.
    """
    if scale < 1 or scale & (scale - 1):
        raise ValueError(f"scale is {scale}, expected 1, 2, 4 or 8: this network only doubles")
    return scale.bit_length() - 1


class DenseDiscriminator(nn.Module):
    """Convolutions that leave a sixteenth of each side, then dense layers ``-> 1024 -> 1``.

    So SRGAN's discriminator and the DCGAN's end, which therefore take one size of patch alone.
    """

    def __init__(self, layers: Iterable[nn.Module], *, width: int, patch_px: int) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.body = nn.Sequential(*layers)
        side = -(-patch_px // 16)
        dense = (nn.Linear(width * side * side, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1))
        self.judge = nn.Sequential(nn.Flatten(), *dense)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches ``(n, c, patch_px, patch_px)`` in 0..1 to logits ``(n,)``: large is real.

        Raises:
            ValueError: if the patches have another size, which the dense layers cannot take.
        """
        if x.shape[2:] != (self.patch_px, self.patch_px):
            raise ValueError(
                f"discriminator got {x.shape[2]}x{x.shape[3]} px, expected {self.patch_px}x"
                f"{self.patch_px}; build it with the patch_px of the training"
            )
        logits: Tensor = self.judge(self.body(2 * x - 1))
        return logits.squeeze(1)


@torch.no_grad()
def he_normal(module: nn.Module) -> None:
    """Draw the weights of a convolution as ReLU wants them (arXiv 1502.01852); no bias at first."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def folded(network: nn.Module) -> nn.Module:
    """Return a copy for inference without those BatchNorms that follow a convolution.

    ``folded(network)(x) == network.eval()(x)`` but for rounding: where a convolution and a
    BatchNorm are neighbours in an `nn.Sequential`, the convolution takes over what both do. The
    copy is in eval mode; its state dict is another's, so it is for computing, not for saving.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            _fold_neighbours(module)
    return network


def _fold_neighbours(layers: nn.Sequential) -> None:
    for at in reversed(range(1, len(layers))):
        before, norm = layers[at - 1], layers[at]
        if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[at - 1] = nn.utils.fuse_conv_bn_eval(before, norm)
            del layers[at]
