"""VGG16 and VGG19 as feature extractors, and the losses that compare pictures by them.

Sources: Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015 (arXiv 1409.1556); the
losses of SRGAN (arXiv 1609.04802), ESRGAN (arXiv 1809.00219) and Real-ESRGAN (arXiv 2107.10833).

The weights come from safetensors files that the user names, or that `models.imagenet` makes of
torchvision's; upres ships none. A file has torchvision's keys (``features.0.weight`` and on). Its
metadata may say what its network was fed: ``"input"`` that begins with ``BGR`` means the Caffe
convention (0..255 minus a mean a channel), else it is torchvision's (RGB, mean and deviation).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)

TORCHVISION, CAFFE = "torchvision", "caffe"
_FED = {
    TORCHVISION: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    CAFFE: ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}
"""Convention to (mean, deviation) of RGB in 0..1: ``(x - mean) / deviation`` is what is fed."""

_LEDIG_SCALE = 1 / 12.75
"""SRGAN's factor of VGG features, which brings their squared error nearer to that of pixels."""

_STAGE_WEIGHTS = (0.1, 0.1, 1.0, 1.0, 1.0)
CAFFE_GAIN = (54.0, 54.0, 87.0, 74.0, 6.9)
"""How much larger differences are in the Caffe VGG19 than in torchvision's VGG16, stage by stage.

Measured on the last convolutions of the stages, before ReLU: the median over eight photographs of
mean |f(bicubic x4) - f(original)| of the one by that of the other.
"""


class Features(nn.Module):
    """The convolutional part of an ImageNet network, frozen, with names for what its layers give.

    Pictures go in as RGB in 0..1; what the network itself was fed is made of them inside.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers.values())
        self.names = tuple(layers)
        self._feed(TORCHVISION)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Return the outputs of `layers`, by name, of ``(n, 3, h, w)`` in 0..1."""
        missing = set(layers)
        unknown = sorted(missing - set(self.names))
        if unknown:
            raise ValueError(f"layers {unknown} are not in the network, which has {self.names}")
        y, features = (x - self.mean) / self.deviation, {}
        for name, layer in zip(self.names, self.features, strict=True):
            if not missing:
                break
            y = layer(y)
            if name in missing:
                features[name] = y
                missing.remove(name)
        return features

    def load(self, path: Path | str | None, *, network: str) -> Features:
        """Take the weights of a safetensors file of torchvision's `network`; return itself.

        Raises:
            ValueError: if there is no such file, or it holds other weights.
        """
        if path is None or not Path(path).is_file():
            where = "no file is named" if path is None else f"{path} is not a file"
            raise ValueError(f"features of {network} are needed, but {where}; {_advice(network)}")
        try:
            weights, fed = _read(Path(path))
            weights = {f"features.{k}": t.float() for k, t in _numbered(weights).items()}
            self.load_state_dict({k: _finite(weights[k]) for k in self.state_dict()})
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise ValueError(
                f"{path} holds no features of {network} ({why}); {_advice(network)}"
            ) from error
        if fed.startswith("BGR"):
            first = next(m for m in self.features if isinstance(m, nn.Conv2d))
            first.weight.copy_(first.weight.flip(1))
            self._feed(CAFFE)
        return self

    def _feed(self, convention: str) -> None:
        self.convention = convention
        self.mean: Tensor
        self.deviation: Tensor
        for name, values in zip(("mean", "deviation"), _FED[convention], strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)


def vgg(network: str) -> Features:
    """Return ``vgg16`` or ``vgg19`` with random weights, up to its last convolution's ReLU.

    Layers are named as in the papers: ``conv5_4`` is the fourth convolution of the fifth stage
    before its activation, ``relu5_4`` the same after it, ``pool5`` the maximum of that.
    """
    if network not in _CONVOLUTIONS:
        raise ValueError(f"network is {network!r}, expected one of {sorted(_CONVOLUTIONS)}")
    layers: dict[str, nn.Module] = {}
    inputs = 3
    for stage, (count, width) in enumerate(
        zip(_CONVOLUTIONS[network], _WIDTHS, strict=True), start=1
    ):
        for number in range(1, count + 1):
            layers[f"conv{stage}_{number}"] = nn.Conv2d(inputs, width, 3, padding=1)
            layers[f"relu{stage}_{number}"] = nn.ReLU()
            inputs = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    return Features(layers)


def load_vgg(path: Path | str | None, *, network: str = "vgg19") -> Features:
    """Return ``vgg16`` or ``vgg19`` with the weights of a file.

    Raises:
        ValueError: if there is no such file, or it holds another network's weights.
    """
    return vgg(network).load(path, network=network)


class ContentLoss(nn.Module):
    """SRGAN's: the mean squared difference of one layer's features, each times 1/12.75.

    The default is phi 5,4 of VGG19 before its activation, as ESRGAN found better; the paper's own
    is ``relu5_4``. Features of the Caffe convention are divided by `CAFFE_GAIN` first, so that the
    loss weighs as much beside others with either.
    """

    def __init__(
        self, network: Features, *, layer: str = "conv5_4", feature_scale: float = _LEDIG_SCALE
    ) -> None:
        super().__init__()
        self.network = network
        self.layer = layer
        gain = CAFFE_GAIN[int(layer[4]) - 1] if network.convention == CAFFE else 1.0
        self.feature_scale = feature_scale / gain

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return a scalar for two batches ``(n, c, h, w)`` in 0..1, c of 1 or 3."""
        of_sr, of_hr = _features_of(self.network, sr, hr, [self.layer])
        squared = nn.functional.mse_loss(of_sr[self.layer], of_hr[self.layer])
        return squared * self.feature_scale**2


class PerceptualLoss(nn.Module):
    """ESRGAN's and Real-ESRGAN's: weighted mean absolute differences, before the activations.

    `weights` maps layers to weights; by default the last convolution of each of the five stages,
    with 0.1, 0.1, 1, 1, 1. These were found with torchvision's weights. Differences of the Caffe
    convention's features are larger, by a factor that `CAFFE_GAIN` has for each stage; the
    defaults are divided by it, so the loss is of one magnitude with either.
    """

    def __init__(self, network: Features, *, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.network = network
        self.weights = dict(weights or _stage_weights(network))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return a scalar for two batches ``(n, c, h, w)`` in 0..1, c of 1 or 3."""
        of_sr, of_hr = _features_of(self.network, sr, hr, self.weights)
        return torch.stack(
            [w * nn.functional.l1_loss(of_sr[k], of_hr[k]) for k, w in self.weights.items()]
        ).sum()


def _stage_weights(network: Features) -> dict[str, float]:
    last = {name[4]: name for name in network.names if name.startswith("conv")}
    gains = CAFFE_GAIN if network.convention == CAFFE else (1.0,) * len(_STAGE_WEIGHTS)
    return {
        name: weight / gain
        for name, weight, gain in zip(last.values(), _STAGE_WEIGHTS, gains, strict=True)
    }


def _features_of(
    network: Features, sr: Tensor, hr: Tensor, layers: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    of_sr = network(in_colour(sr), layers)
    with torch.no_grad():
        of_hr = network(in_colour(hr), layers)
    return of_sr, of_hr


def in_colour(x: Tensor) -> Tensor:
    """Return RGB ``(n, 3, h, w)`` as it is, and grey ``(n, 1, h, w)`` three times over."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return a file's tensors, and what its metadata says of the input."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, (file.metadata() or {}).get("input", "")


def _numbered(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by ``0.weight``; a whole network's file has its classifier left out."""
    return {
        k.removeprefix("features."): t for k, t in weights.items() if not k.startswith("classifier")
    }


def _finite(weights: Tensor) -> Tensor:
    if not bool(torch.isfinite(weights).all()):
        raise RuntimeError("some of its weights are NaN or infinite")
    return weights


def _advice(network: str) -> str:
    return (
        "name a safetensors file with torchvision's keys (features.0.weight, ...) that is called "
        f"{network}... with --features FILE, or install torchvision and say --features torchvision"
    )
