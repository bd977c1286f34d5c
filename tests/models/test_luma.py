"""Luma goes out of a picture and back in; chroma stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.interpolation import enlarge
from models.luma import luma, with_luma
from models.registry import BUILDERS
from pipeline.pictures import metrics


def rgb(*size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, *size, dtype=torch.float64, generator=generator)


def chroma(x: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(
        [[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], dtype=torch.float64
    )
    return torch.einsum("dc,nchw->ndhw", weights / 255, x)


def test_luma_is_that_of_the_scores() -> None:
    x = rgb(5, 7)
    wanted = metrics.luma(x[0].numpy(), data_range=1.0)
    assert np.allclose(255 * luma(x)[0, 0].numpy(), wanted, atol=1e-10)
    assert torch.equal(luma(x[:, :1]), x[:, :1])


def test_luma_that_is_put_back_is_found_again_and_chroma_stays() -> None:
    x, y = rgb(6, 5), rgb(6, 5)[:, :1] * 0.5
    changed = with_luma(x, y)
    assert torch.allclose(luma(changed), y, atol=1e-12)
    assert torch.allclose(chroma(changed), chroma(x), atol=1e-12)
    assert torch.equal(with_luma(x, luma(x)), x)
    assert torch.equal(with_luma(y, y / 2), y / 2)


def test_two_channels_have_no_luma() -> None:
    with pytest.raises(ValueError, match="has 2 channels, expected 1"):
        luma(torch.rand(1, 2, 4, 4))


@pytest.mark.parametrize("name", ["srcnn", "vdsr"])
def test_a_network_of_luma_leaves_chroma_bicubic(name: str) -> None:
    torch.manual_seed(0)
    network = BUILDERS[name](scale=3, channels=3, features=8).double().eval()
    x = rgb(6, 7)
    large = enlarge(x, scale=3, method="bicubic")
    with torch.no_grad():
        y = network(x)
    assert torch.allclose(chroma(y), chroma(large), atol=1e-10)
    assert not torch.allclose(luma(y), luma(large), atol=1e-3)


def test_a_vdsr_that_finds_nothing_lacking_is_bicubic() -> None:
    network = BUILDERS["vdsr"](scale=2, channels=3, features=4)
    torch.nn.init.zeros_(network.last.weight)
    x = rgb(5, 4).float()
    assert torch.allclose(network(x), enlarge(x, scale=2, method="bicubic"), atol=1e-6)


def test_layers_that_are_added_to_a_vdsr_change_nothing_at_first() -> None:
    """So a training may begin with a shallow network and go on with a deep one."""
    torch.manual_seed(0)
    shallow, deep = (BUILDERS["vdsr"](scale=2, features=16, layers=n) for n in (4, 6))
    torch.nn.init.normal_(shallow.last.weight, std=0.1)
    deep.load_state_dict(deep.state_dict() | shallow.state_dict())
    x = rgb(12, 9).float()
    with torch.no_grad():
        one, two = shallow(x), deep(x)
    assert torch.allclose(one, two, atol=1e-6)
    assert not torch.allclose(one, enlarge(x, scale=2, method="bicubic"), atol=1e-2)
