"""VGG features and the losses on them; what needs real weights looks in UPRES_FEATURES."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from models.lpips import alexnet
from models.vgg import (
    CAFFE,
    CAFFE_GAIN,
    TORCHVISION,
    ContentLoss,
    Features,
    PerceptualLoss,
    load_vgg,
    vgg,
)
from pipeline.compute.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

VGG19 = "vgg19_features_q8_caffe.safetensors"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with in_threads(1):
        yield


def feature_file(name: str) -> Path:
    folder = os.environ.get("UPRES_FEATURES")
    if not folder or not Path(folder, name).is_file():
        pytest.skip(f"UPRES_FEATURES names no folder with {name}")
    return Path(folder, name)


@pytest.fixture(scope="module")
def vgg19() -> Features:
    torch.manual_seed(0)
    return vgg("vgg19")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of random VGG16 weights with torchvision's keys, in half precision."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("features") / "vgg16.safetensors"
    save_file({k: t.half() for k, t in vgg("vgg16").state_dict().items()}, path)
    return path


@pytest.mark.parametrize(
    ("network", "last", "key", "parameters"),
    [("vgg16", "conv5_3", 28, 14_714_688), ("vgg19", "conv5_4", 34, 20_024_384)],
)
def test_layers_stand_where_torchvision_has_them(
    network: str, last: str, key: int, parameters: int
) -> None:
    with torch.device("meta"):
        found = vgg(network)
    assert found.names.index(last) == key
    assert f"features.{key}.weight" in found.state_dict()
    assert sum(p.numel() for p in found.parameters()) == parameters


def test_features_are_frozen_but_let_gradients_through() -> None:
    network = vgg("vgg16")
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    network(x, ["conv2_2"])["conv2_2"].sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)
    assert not any(p.requires_grad for p in network.parameters())


def test_a_layer_before_its_activation_is_negative_somewhere_and_after_it_nowhere() -> None:
    found = vgg("vgg16")(torch.rand(1, 3, 16, 16), ["conv1_2", "relu1_2", "pool1"])
    assert torch.equal(torch.relu(found["conv1_2"]), found["relu1_2"])
    assert found["conv1_2"].min().item() < 0
    assert found["pool1"].shape == (1, 64, 8, 8)


def test_an_unknown_layer_or_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['conv5_4'\] are not in the network"):
        vgg("vgg16")(torch.rand(1, 3, 16, 16), ["conv5_4"])
    with pytest.raises(ValueError, match=r"network is 'vgg11', expected one of \['vgg16'"):
        vgg("vgg11")


def test_a_file_is_loaded_whatever_else_it_holds(saved: Path, tmp_path: Path) -> None:
    network = load_vgg(saved, network="vgg16")
    assert network.convention == TORCHVISION
    more = {k: t.contiguous() for k, t in network.state_dict().items()}
    more["classifier.0.weight"] = torch.rand(3, 3)
    save_file(more, tmp_path / "whole.safetensors")
    again = load_vgg(tmp_path / "whole.safetensors", network="vgg16")
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(again(x, ["relu3_3"])["relu3_3"], network(x, ["relu3_3"])["relu3_3"])


def test_the_caffe_convention_is_taken_from_the_files_metadata(saved: Path, tmp_path: Path) -> None:
    plain = load_vgg(saved, network="vgg16")
    path = tmp_path / "caffe.safetensors"
    weights = {k: t.contiguous() for k, t in plain.state_dict().items()}
    save_file(weights, path, metadata={"input": "BGR 0..255 minus (103.939,116.779,123.68)"})
    network = load_vgg(path, network="vgg16")
    assert network.convention == CAFFE
    x = torch.rand(1, 3, 16, 16)
    means = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    wanted = plain.features[0](255 * x.flip(1) - means)
    found = network(x, ["conv1_1"])["conv1_1"]
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("layer", "stage"), [("conv5_4", 5), ("relu2_2", 2), ("pool4", 4)])
def test_a_content_loss_of_caffe_features_is_divided_by_how_much_larger_they_are(
    layer: str, stage: int
) -> None:
    torch.manual_seed(0)
    network = vgg("vgg19")
    sr, hr = torch.rand(2, 1, 3, 32, 32)
    plain = ContentLoss(network, layer=layer)(sr, hr)
    # Fed as before, so that only the convention's name differs.
    network.convention = CAFFE
    found = ContentLoss(network, layer=layer)(sr, hr)
    assert found.item() == pytest.approx(plain.item() / CAFFE_GAIN[stage - 1] ** 2, rel=1e-5)


@pytest.mark.parametrize("path", [None, "nowhere.safetensors"])
def test_a_missing_file_is_answered_with_both_ways_to_get_one(path: str | None) -> None:
    with pytest.raises(ValueError, match="features of vgg19 are needed") as met:
        load_vgg(path)
    message = str(met.value)
    assert "name a safetensors file with torchvision's keys" in message
    assert "install torchvision and say --features torchvision" in message
    assert "\n" not in message


def test_a_file_of_another_network_is_refused(saved: Path, tmp_path: Path) -> None:
    save_file(alexnet().state_dict(), tmp_path / "alexnet.safetensors")
    (tmp_path / "noise").write_bytes(b"no safetensors at all")
    for path in (saved, tmp_path / "alexnet.safetensors", tmp_path / "noise"):
        with pytest.raises(ValueError, match="holds no features of vgg19") as met:
            load_vgg(path)
        assert "\n" not in str(met.value)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = vgg("vgg16").state_dict()
    weights["features.0.weight"][0] = float("nan")
    save_file(weights, tmp_path / "vgg16.safetensors")
    with pytest.raises(ValueError, match="NaN or infinite"):
        vgg("vgg16").load(tmp_path / "vgg16.safetensors", network="vgg16")


def test_the_content_loss_is_the_scaled_mean_square_of_one_layer(vgg19: Features) -> None:
    sr, hr = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    difference = vgg19(sr, ["conv5_4"])["conv5_4"] - vgg19(hr, ["conv5_4"])["conv5_4"]
    assert torch.allclose(ContentLoss(vgg19)(sr, hr), (difference / 12.75).square().mean())
    assert float(ContentLoss(vgg19, layer="relu5_4")(hr, hr)) == 0.0


def test_the_perceptual_loss_adds_five_layers_before_their_activations(vgg19: Features) -> None:
    weights = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
    loss = PerceptualLoss(vgg19)
    assert loss.weights == weights
    sr, hr = torch.rand(1, 1, 16, 16, requires_grad=True), torch.rand(1, 1, 16, 16)
    a, b = (vgg19(x.expand(-1, 3, -1, -1), weights) for x in (sr, hr))
    wanted = torch.stack([w * (a[k] - b[k]).abs().mean() for k, w in weights.items()]).sum()
    found = loss(sr, hr)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.backward()
    assert sr.grad is not None
    assert float(PerceptualLoss(vgg19, weights={"conv1_1": 1.0})(hr, hr)) == 0.0


def test_the_caffe_vgg19_gives_a_perceptual_loss_of_the_same_magnitude() -> None:
    network = load_vgg(feature_file(VGG19))
    assert network.convention == CAFFE
    loss = PerceptualLoss(network)
    assert list(loss.weights) == ["conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"]
    assert loss.weights["conv5_4"] == pytest.approx(1 / CAFFE_GAIN[-1])
    torch.manual_seed(0)
    hr = torch.rand(1, 3, 64, 64)
    assert 1 < float(loss(hr * 0.8, hr)) < 100
