"""LPIPS: how differently people would see two pictures, learned from their judgements.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018 (arXiv 1801.03924), version 0.1. The features come from a file that the user names (as in
`models.vgg`), the learned weights of their channels from the files inside torchmetrics, which is
not imported for it, and whose files are read without unpickling them.
"""

from __future__ import annotations

import importlib.util
import io
import pickletools
from pathlib import Path

import torch
from torch import Tensor, nn

from models.vgg import TORCHVISION, Features, in_colour, vgg

_TORCHVISION = {"alex": "alexnet", "vgg": "vgg16"}
_LAYERS = {
    "alex": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
}
_LEAST_PX = {"alex": 31, "vgg": 16}
_PICKLES = 5
_TINY = 1e-8


class Lpips(nn.Module):
    """``sum over layers of mean over pixels of sum over channels of w * (f(a) - f(b)) ** 2``.

    `f` are features of unit length at each pixel. The network is frozen, the distance can be
    learned by.
    """

    def __init__(self, network: Features, heads: list[Tensor], *, net: str) -> None:
        super().__init__()
        self.network = network
        self.layers = _LAYERS[net]
        self.least_px = _LEAST_PX[net]
        for name, weights in zip(self.layers, heads, strict=True):
            self.register_buffer(name, weights.view(1, -1, 1, 1), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distances ``(n,)`` of two batches ``(n, c, h, w)`` in 0..1, c of 1 or 3.

        Equal pictures have distance 0. Grey is repeated to RGB; nothing is cut off or resized.

        Raises:
            ValueError: if the shapes differ, or a side is shorter than the network can take.
        """
        if a.shape != b.shape or min(a.shape[2:]) < self.least_px:
            raise ValueError(
                f"pictures are {tuple(a.shape)} and {tuple(b.shape)}, expected one shape with "
                f"sides of at least {self.least_px} px; score larger pictures"
            )
        of_a = self.network(in_colour(a), self.layers)
        of_b = self.network(in_colour(b), self.layers)
        distances = [
            (self.get_buffer(k) * (_unit(of_a[k]) - _unit(of_b[k])) ** 2).sum(1).mean((1, 2))
            for k in self.layers
        ]
        return torch.stack(distances).sum(0)


class LpipsLoss(nn.Module):
    """LPIPS as a loss: the mean distance of a batch.

    Source: Zhang et al., as above, section 4; learned by on VGG16, measured on AlexNet, so that
    no network is trained on its own score.
    """

    def __init__(self, lpips: Lpips) -> None:
        super().__init__()
        self.lpips = lpips

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return a scalar for two batches ``(n, c, h, w)`` in 0..1, c of 1 or 3.

        Raises:
            ValueError: as `Lpips.forward`.
        """
        distances: Tensor = self.lpips(sr, hr)
        return distances.mean()


def load_lpips(path: Path | str | None, *, net: str = "alex") -> Lpips:
    """Return LPIPS on AlexNet (``alex``) or VGG16 (``vgg``), with the features of a file.

    Raises:
        ValueError: if there is no such file, it holds another network's weights, or torchmetrics
            is not installed.
    """
    if net not in _LAYERS:
        raise ValueError(f"net is {net!r}, expected one of {sorted(_LAYERS)}")
    network = alexnet() if net == "alex" else vgg("vgg16")
    network.load(path, network=_TORCHVISION[net])
    if network.convention != TORCHVISION:
        raise ValueError(
            f"{path} is of the Caffe convention, expected torchvision's {_TORCHVISION[net]}: LPIPS "
            "was learned on that alone; name its file"
        )
    heads = heads_file(net)
    return Lpips(network, read_heads(heads.read_bytes()), net=net)


def alexnet() -> Features:
    """Return AlexNet's features with random weights, as torchvision has them.

    Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014
    (arXiv 1404.5997).
    """
    return Features(
        {
            "conv1": nn.Conv2d(3, 64, 11, stride=4, padding=2),
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(3, stride=2),
            "conv2": nn.Conv2d(64, 192, 5, padding=2),
            "relu2": nn.ReLU(),
            "pool2": nn.MaxPool2d(3, stride=2),
            "conv3": nn.Conv2d(192, 384, 3, padding=1),
            "relu3": nn.ReLU(),
            "conv4": nn.Conv2d(384, 256, 3, padding=1),
            "relu4": nn.ReLU(),
            "conv5": nn.Conv2d(256, 256, 3, padding=1),
            "relu5": nn.ReLU(),
        }
    )


def heads_file(net: str) -> Path:
    """Return where torchmetrics keeps the channels' weights for ``alex`` or ``vgg``.

    Raises:
        ValueError: if it is not installed, or keeps them elsewhere.
    """
    package = importlib.util.find_spec("torchmetrics")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "functional", "image", "lpips_models", f"{net}.pth")
        if path.is_file():
            return path
    raise ValueError(
        f"the weights of LPIPS ({net}.pth) are not where torchmetrics 1.9 keeps them; pip install "
        "torchmetrics==1.9.0"
    )


def read_heads(content: bytes) -> list[Tensor]:
    """Return the weights of the channels of each layer, from the first to the fifth.

    The file is of torch's format before 1.6: five pickles, then all tensors, each as the number of
    its float32 values (int64) and the values, little-endian. The pickles are only looked through
    for names, opcode by opcode, so nothing in the file can be executed.

    Raises:
        ValueError: if the content is something else.
    """
    try:
        stream = io.BytesIO(content)
        words = [_words(stream) for _ in range(_PICKLES)]
        # The fourth names each tensor, then its storage; the fifth has the storages' order.
        storages = {name: _storage(stream) for name in words[4]}
        keys = [words[3][words[3].index(f"lin{k}.model.1.weight") :] for k in range(_PICKLES)]
        heads = [storages[next(word for word in after if word in storages)] for after in keys]
    except (KeyError, ValueError, StopIteration) as error:
        raise ValueError(
            f"the weights of LPIPS cannot be read ({error!r}); pip install torchmetrics==1.9.0"
        ) from error
    return heads


def _words(stream: io.BytesIO) -> list[str]:
    """Return all strings in one pickle, and leave the stream after it."""
    return [word for _, word, _ in pickletools.genops(stream) if isinstance(word, str)]


def _storage(stream: io.BytesIO) -> Tensor:
    count = int.from_bytes(stream.read(8), "little")
    values = stream.read(4 * count)
    if len(values) != 4 * count or not count:
        raise ValueError(f"{count} values are announced, {len(values) // 4} are there")
    return torch.frombuffer(bytearray(values), dtype=torch.float32)


def _unit(features: Tensor) -> Tensor:
    return features / torch.sqrt(_TINY + (features**2).sum(dim=1, keepdim=True))
