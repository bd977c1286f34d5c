"""Reach: beyond it no pixel changes anything, and a network that sees all has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from models import registry
from models.checkpoint import load
from models.reach import reach_of, reach_px
from models.span import Span
from pipeline.compute.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

BASELINES = {"nearest": 0, "neighbour-average": 1, "bicubic": 2, "lanczos": 3}


class ShutRelu(nn.Module):
    """Looks 2 px far, but only at pixels that are nearly white."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1)
        self.second = nn.Conv2d(1, 1, 3, padding=1)
        for convolution, weight, bias in ((self.first, 0.1, -0.85), (self.second, 1.0, 0.0)):
            nn.init.constant_(convolution.weight, weight)
            nn.init.constant_(convolution.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


class GlobalMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(dim=(2, 3), keepdim=True)


def convolutions(kernel: int, count: int, *between: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(3, 3, kernel, padding=kernel // 2), *between]
    return nn.Sequential(*layers)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with in_threads(1):
        yield


def span(features: int) -> nn.Module:
    """Return the default network with weights large enough for what is far away to show."""
    torch.manual_seed(0)
    network = Span(scale=4, features=features).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network


@pytest.mark.parametrize(("name", "reach"), BASELINES.items())
@pytest.mark.parametrize("scale", [2, 4])
def test_a_baseline_reaches_half_its_kernel(name: str, scale: int, reach: int) -> None:
    model = load(f"{name}-x{scale}")
    assert reach_px(model.network, channels=3) == reach


def test_the_default_network_reaches_21_px() -> None:
    assert reach_px(span(48), channels=3) == 21


@pytest.mark.parametrize("features", [1, 4])
@pytest.mark.parametrize("scale", [2, 3])
def test_the_reach_depends_on_the_layers_and_not_on_width_or_scale(
    features: int, scale: int
) -> None:
    assert reach_px(Span(scale=scale, features=features), channels=3) == 21


@pytest.mark.parametrize(("kernel", "count"), [(1, 3), (3, 1), (3, 7), (3, 8), (3, 9), (5, 16)])
def test_plain_convolutions_reach_as_far_as_their_kernels_add_up(kernel: int, count: int) -> None:
    assert reach_px(convolutions(kernel, count), channels=3) == kernel // 2 * count


def test_a_relu_that_is_shut_and_a_maximum_elsewhere_still_count() -> None:
    assert reach_px(ShutRelu(), channels=1) == 2
    assert reach_px(nn.MaxPool2d(5, stride=1, padding=2), channels=3) == 2


@pytest.mark.parametrize(
    "network",
    [
        convolutions(3, 1, GlobalMean()),
        convolutions(3, 2, nn.GroupNorm(3, 3)),
        convolutions(3, 1, nn.InstanceNorm2d(3)),
    ],
    ids=["global mean", "GroupNorm", "InstanceNorm"],
)
def test_a_network_that_sees_the_whole_picture_has_no_reach(network: nn.Module) -> None:
    assert reach_px(network, channels=3) is None


def test_batch_norm_sees_one_place_at_a_time() -> None:
    assert reach_px(convolutions(3, 2, nn.BatchNorm2d(3)).train(), channels=3) == 2


def test_measuring_leaves_the_network_as_it_was() -> None:
    network = convolutions(3, 2, nn.BatchNorm2d(3)).train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    reach_px(network, channels=3)
    assert network.training
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("name", ["span", *BASELINES])
def test_a_pixel_changes_nothing_beyond_the_reach_and_something_at_it(name: str) -> None:
    network = span(12) if name == "span" else load(f"{name}-x4").network
    network = network.double()
    reach = reach_px(network, channels=3)
    assert reach is not None
    side = 2 * reach + 9
    x = torch.rand(
        1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    changed = x.clone()
    centre = side // 2
    changed[:, :, centre, centre] += 0.5
    with torch.no_grad():
        moved = (network(x) != network(changed)).any(dim=1)[0]
    far = (torch.arange(side) - centre).abs()
    distance = torch.maximum(far[:, None], far[None, :])
    distance = distance.repeat_interleave(4, dim=0).repeat_interleave(4, dim=1)
    assert not moved[distance > reach].any()
    assert moved[distance == reach].any()


def test_every_shipped_model_can_be_tiled() -> None:
    for name in registry.shipped():
        assert reach_of(load(name)) is not None


def test_models_that_differ_in_their_weights_alone_are_measured_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.reach._KNOWN", {})
    measured = []

    def counted(network: nn.Module, *, channels: int) -> int | None:
        measured.append(network)
        return reach_px(network, channels=channels)

    monkeypatch.setattr("models.reach.reach_px", counted)
    names = ("span-x4", "span-x4-gan", "span-x4-archive", "span-x2", "bicubic-x2", "lanczos-x2")
    assert [reach_of(load(name)) for name in names] == [21, 21, 21, 21, 2, 3]
    assert len(measured) == 5
