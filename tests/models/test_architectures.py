"""A network is one file: what it calls itself is what the registry builds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import architectures, registry
from models.architectures import baseline, discriminator, generator
from models.spec import ModelSpec


@pytest.fixture(autouse=True)
def forget_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what a test marks."""
    for names in ("BUILDERS", "DISCRIMINATORS", "BASELINES"):
        copied = dict(getattr(architectures, names))
        for module in (architectures, registry):
            monkeypatch.setattr(module, names, copied)


class Brighter(nn.Module):
    def __init__(self, *, scale: int, channels: int = 3, by: float = 0.25) -> None:
        super().__init__()
        self.scale, self.channels, self.by = scale, channels, by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def spec(architecture: str, **arguments: float) -> ModelSpec:
    return ModelSpec(
        name="x", architecture=architecture, scale=1, channels=3, arguments=dict(arguments)
    )


def test_a_marked_network_is_built_by_its_name_and_takes_arguments() -> None:
    generator("brighter")(Brighter)
    generator("much-brighter", by=0.5)(Brighter)
    x = torch.zeros(1, 3, 2, 2)
    assert float(registry.build(spec("brighter"))(x).mean()) == 0.25
    assert float(registry.build(spec("much-brighter"))(x).mean()) == 0.5
    assert float(registry.build(spec("much-brighter", by=0.75))(x).mean()) == 0.75


def test_a_marked_baseline_is_listed_at_the_scales_that_it_has() -> None:
    baseline("brightest", summary="adds one", only_doubles=True)(Brighter)
    assert [name for name in registry.names() if "brightest" in name] == [
        "brightest-x2",
        "brightest-x4",
    ]
    assert registry.baseline_spec("brightest", 2).summary == "adds one"
    assert registry.is_interpolation("brightest-x4")


def test_two_networks_cannot_have_one_name() -> None:
    with pytest.raises(TypeError, match="architecture 'span' is taken"):
        generator("span")(Brighter)
    with pytest.raises(TypeError, match="architecture 'unet' is taken"):
        discriminator("unet")(Brighter)


def test_every_network_of_the_folder_is_there() -> None:
    assert {"span", "srresnet", "dcgan", "swishgan-grey", "srcnn", "vdsr"} < set(registry.BUILDERS)
    assert list(registry.BASELINES) == ["nearest", "bicubic", "lanczos", "neighbour-average"]
