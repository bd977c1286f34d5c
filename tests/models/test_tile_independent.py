"""What convolutions need, so that a pixel's bits do not depend on the picture around it."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from models.tile_independent import widened


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def bf16(network: nn.Module, x: Tensor) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        y: Tensor = network(x)
    return y


@pytest.mark.parametrize("size", [3, 4, 5, 9])
@pytest.mark.parametrize("channels", [1, 3, 4, 8])
def test_in_bf16_a_pixel_is_the_same_in_a_picture_of_every_width(channels: int, size: int) -> None:
    """Without `widened` it is not, on CPUs whose matrix unit oneDNN asks for."""
    conv = widened(nn.Conv2d(channels, 48, size).to(memory_format=torch.channels_last))
    x = torch.randn(1, channels, 40, 97)
    whole = bf16(conv, x)
    for width in range(size + 1, 97, 3):
        part = bf16(conv, x[..., :width])
        assert torch.equal(part, whole[..., : part.shape[3]]), width


@pytest.mark.parametrize("options", [{}, {"padding": 1}, {"stride": 2}, {"dilation": 2}])
@pytest.mark.parametrize("bias", [True, False])
def test_a_widened_network_computes_the_same(options: dict[str, int], bias: bool) -> None:
    layers = [nn.Conv2d(3, 20, 3, bias=bias, **options), nn.ReLU(), nn.Conv2d(20, 3, 3)]
    network = nn.Sequential(*layers).double()
    x = torch.randn(2, 3, 20, 30, dtype=torch.float64)
    torch.testing.assert_close(widened(network)(x), network(x))


def test_only_what_is_thin_is_widened_and_the_network_itself_stays() -> None:
    kept = {
        "one": nn.Conv2d(3, 8, 1),
        "wide": nn.Conv2d(16, 8, 3),
        "grouped": nn.Conv2d(4, 8, 3, groups=2),
    }
    network = nn.Sequential(OrderedDict(kept | {"thin": nn.Sequential(nn.Conv2d(15, 8, 3))}))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    wide = widened(network)
    for name in kept:
        assert type(getattr(wide, name)) is nn.Conv2d
        assert getattr(wide, name).in_channels == kept[name].in_channels
    assert [m.in_channels for m in wide.thin.modules() if isinstance(m, nn.Conv2d)] == [16]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.thin[0].in_channels == 15
