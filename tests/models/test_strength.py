"""Strengths: networks between two of one origin, whatever their widths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from models import registry
from models.checkpoint import load, to_bytes
from models.spec import ModelSpec
from models.strength import Strength, between, of_pair, widened

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

NARROW, WIDE = 4, 6


def network(features: int, *, seed: int, scale: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    spec = ModelSpec(
        name="n", architecture="span", scale=scale, channels=3, arguments={"features": features}
    )
    return registry.build(spec).eval()


def run(weights: dict[str, Tensor], x: Tensor, *, scale: int = 4) -> Tensor:
    built = network(WIDE, seed=9, scale=scale)
    built.load_state_dict(weights)
    with torch.inference_mode():
        return built(x)


def picture() -> Tensor:
    return torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(3))


def put(folder: Path, name: str, features: int, *, seed: int, scale: int = 4) -> None:
    spec = ModelSpec(
        name=name, architecture="span", scale=scale, channels=3, arguments={"features": features}
    )
    weights = network(features, seed=seed, scale=scale).state_dict()
    (folder / f"{name}.safetensors").write_bytes(to_bytes(spec, weights))


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of span-x4, its span-x4-archive, and one without a pair."""
    put(tmp_path, "span-x4", NARROW, seed=1)
    put(tmp_path, "span-x4-archive", WIDE, seed=2)
    put(tmp_path, "span-x4-gan", NARROW, seed=4)
    monkeypatch.setattr("models.shipped.WEIGHTS_DIR", tmp_path)
    return tmp_path


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4])
def test_a_wider_network_computes_what_the_narrow_one_does_to_rounding(scale: int) -> None:
    narrow, wide = (network(f, seed=f, scale=scale) for f in (NARROW, WIDE))
    grown = widened(narrow.state_dict(), wide.state_dict(), features=(NARROW, WIDE))
    x = picture()
    with torch.inference_mode():
        torch.testing.assert_close(run(grown, x, scale=scale), narrow(x), rtol=0, atol=1e-5)


def test_the_ends_are_the_two_networks_and_halfway_is_neither() -> None:
    narrow, wide = network(NARROW, seed=1), network(WIDE, seed=2)
    x, both = picture(), (narrow.state_dict(), wide.state_dict())
    start, half, end = (
        run(between(*both, value, features=(NARROW, WIDE)), x) for value in (0.0, 0.5, 1.0)
    )
    with torch.inference_mode():
        torch.testing.assert_close(start, narrow(x), rtol=0, atol=1e-5)
        assert torch.equal(end, wide(x))
    assert (half - start).abs().max() > 1e-4
    assert (half - end).abs().max() > 1e-4


def test_halfway_between_networks_of_one_width_is_the_mean_of_their_weights() -> None:
    one, other = (network(NARROW, seed=seed).state_dict() for seed in (1, 2))
    mean = between(one, other, 0.5, features=(NARROW, NARROW))
    for name, weights in mean.items():
        torch.testing.assert_close(weights, (one[name] + other[name]) / 2, rtol=0, atol=1e-7)


def test_networks_of_other_layers_have_none_between_them() -> None:
    one, other = network(NARROW, seed=1).state_dict(), network(WIDE, seed=2).state_dict()
    with pytest.raises(ValueError, match="different layers"):
        between(dict(list(one.items())[1:]), other, 0.5, features=(NARROW, WIDE))
    with pytest.raises(ValueError, match="none between"):
        between(other, one, 0.5, features=(WIDE, NARROW))


# --- names -----------------------------------------------------------------------------------


def test_a_strength_is_a_model_of_its_own(pair: Path) -> None:
    half, quarter = load("span-x4-archive@0.5"), load("span-x4-archive@0.25")
    assert half.spec.name == "span-x4-archive@0.5"
    assert half.spec.arguments == {"features": WIDE}
    assert half.spec.scores == {}
    assert len({half.sha256, quarter.sha256, load("span-x4-archive").sha256}) == 3
    assert half.sha256 == load("span-x4-archive@0.50").sha256


def test_other_weights_of_either_network_are_another_digest(pair: Path) -> None:
    before = load("span-x4-archive@0.5").sha256
    put(pair, "span-x4", NARROW, seed=11)
    assert load("span-x4-archive@0.5").sha256 != before


def test_the_ends_of_a_strength_are_the_very_models(pair: Path) -> None:
    for end, name in (("0", "span-x4"), ("1", "span-x4-archive")):
        model = load(f"span-x4-archive@{end}")
        assert (model.spec.name, model.sha256) == (name, load(name).sha256)


@pytest.mark.parametrize("model", ["span-x4", "span-x4-archive"])
def test_either_of_a_pair_has_its_strengths(pair: Path, model: str) -> None:
    assert of_pair(model, 0.3, registry.shipped()).name == "span-x4-archive@0.3"


@pytest.mark.parametrize("model", ["span-x4-gan", "bicubic-x4", "mine.safetensors"])
def test_models_without_a_pair_have_none(pair: Path, model: str) -> None:
    with pytest.raises(ValueError, match=r"has no strengths.*there are span-x4-archive$"):
        of_pair(model, 0.3, registry.shipped())


@pytest.mark.parametrize("name", ["a-archive@1.5", "a-archive@1..2"])
def test_a_strength_outside_of_0_to_1_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Strength.of_name(name)


@pytest.mark.parametrize("name", ["span-x4", "span-x4@0.5", "a-archive@", "a-archive@x"])
def test_other_names_ask_for_no_strength(name: str) -> None:
    assert Strength.of_name(name) is None
