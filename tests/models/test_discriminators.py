"""The discriminators: one logit a picture or a pixel, and that all of them learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from models.registry import DISCRIMINATORS
from pipeline.compute.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

PARAMETERS = {
    "srgan": 23_563_649,
    "dcgan": 25_185_921,
    "swishgan-grey": 460_021,
    "swishgan-colour": 923_241,
    # 4.38 M in Real-ESRGAN.
    "unet": 4_376_897,
}
DENSE = ("srgan", "dcgan")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with in_threads(1):
        yield


def discriminator(name: str, *, patch_px: int = 32, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    channels = 1 if name == "swishgan-grey" else 3
    return DISCRIMINATORS[name](channels=channels, patch_px=patch_px, **arguments)


def pictures(name: str, *size: int) -> torch.Tensor:
    return torch.rand(3, 1 if name == "swishgan-grey" else 3, *size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_a_discriminator_has_as_many_parameters_as_designed(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = DISCRIMINATORS[name](channels=1 if "grey" in name else 3, patch_px=96)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("patch_px", [16, 41])
def test_a_discriminator_returns_one_logit_a_picture_or_a_pixel(name: str, patch_px: int) -> None:
    network = discriminator(name, patch_px=patch_px, features=4)
    logits = network(pictures(name, patch_px, patch_px))
    assert logits.shape == ((3, 1, patch_px, patch_px) if name == "unet" else (3,))


@pytest.mark.parametrize("name", sorted(set(DISCRIMINATORS) - set(DENSE)))
def test_a_discriminator_of_convolutions_takes_any_size(name: str) -> None:
    network = discriminator(name, features=4)
    for size in ((112, 92), (17, 30)):
        assert network(pictures(name, *size)).shape in ((3,), (3, 1, *size))


@pytest.mark.parametrize("name", DENSE)
def test_dense_layers_refuse_another_size_than_they_were_built_for(name: str) -> None:
    network = discriminator(name, patch_px=32, features=4)
    with pytest.raises(ValueError, match="got 32x48 px, expected 32x32"):
        network(pictures(name, 32, 48))


def test_the_unet_refuses_what_it_cannot_halve_three_times() -> None:
    with pytest.raises(ValueError, match="got 7x9 px, expected sides of at least 8 px"):
        discriminator("unet", features=4)(pictures("unet", 7, 9))


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_every_parameter_of_a_discriminator_learns(name: str) -> None:
    network = discriminator(name, features=4)
    network(pictures(name, 32, 32)).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.abs().sum() > 0), parameter_name


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_gradient_comes_back_to_the_picture(name: str) -> None:
    x = pictures(name, 32, 32).requires_grad_()
    discriminator(name, features=4)(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum(dim=(1, 2, 3)) > 0).all())


def test_the_unet_holds_its_inner_convolutions_to_a_spectral_norm_of_one() -> None:
    network = discriminator("unet", features=4)
    with torch.no_grad():
        for _ in range(30):
            network(torch.rand(1, 3, 8, 8))
    for layer in (*network.down, *network.up):  # type: ignore[misc]
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        assert norm.item() == pytest.approx(1.0, abs=0.02)


def test_the_unet_tells_apart_the_halves_of_a_picture() -> None:
    network = discriminator("unet", features=4).eval()
    x = torch.full((1, 3, 64, 64), 0.5)
    x[..., 40:] = torch.rand(1, 3, 64, 24)
    with torch.no_grad():
        logits = network(x)
    assert float(logits[..., :8].std()) < 0.5 * float(logits[..., 48:].std())
