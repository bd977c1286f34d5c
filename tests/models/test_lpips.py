"""LPIPS: that of torchmetrics where it can run, and the published figures where files are there."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from models.interpolation import enlarge, reduce
from models.lpips import Lpips, LpipsLoss, alexnet, heads_file, load_lpips, read_heads
from models.vgg import Features, vgg
from pipeline.compute.threads import in_threads
from pipeline.pictures.files import read_picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with in_threads(1):
        yield


@cache
def network(net: str) -> Features:
    torch.manual_seed(0)
    return alexnet() if net == "alex" else vgg("vgg16")


def lpips(net: str) -> Lpips:
    return Lpips(network(net), read_heads(heads_file(net).read_bytes()), net=net)


@pytest.mark.parametrize(
    ("net", "channels"),
    [("alex", (64, 192, 384, 256, 256)), ("vgg", (64, 128, 256, 512, 512))],
)
def test_heads_are_read_without_unpickling_as_torch_unpickles_them(
    net: str, channels: tuple[int, ...]
) -> None:
    heads = read_heads(heads_file(net).read_bytes())
    assert tuple(len(head) for head in heads) == channels
    wanted = torch.load(heads_file(net), map_location="cpu", weights_only=True)
    for number, head in enumerate(heads):
        assert torch.equal(head, wanted[f"lin{number}.model.1.weight"].flatten())
        assert float(head.min()) >= 0


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"\x80\x02." * 5])
def test_what_is_no_file_of_heads_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="the weights of LPIPS cannot be read"):
        read_heads(content)


def test_heads_that_were_cut_off_are_refused() -> None:
    content = heads_file("alex").read_bytes()
    with pytest.raises(ValueError, match="values are announced"):
        read_heads(content[:-8])


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_distance_is_that_of_torchmetrics(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = pytest.importorskip("torchmetrics.functional.image.lpips")

    def features(_name: str, pretrained: bool = False) -> nn.Sequential:
        return network(net).features

    # The only place where it asks torchvision for anything.
    monkeypatch.setattr(reference, "_get_tv_model_features", features)
    theirs = reference._NoTrainLpips(net=net)
    a, b = torch.rand(2, 3, 47, 40), torch.rand(2, 3, 47, 40)
    wanted = theirs(a, b, normalize=True).flatten()
    assert torch.allclose(lpips(net)(a, b), wanted, rtol=1e-4)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_equal_pictures_have_distance_0_and_grey_is_repeated(net: str) -> None:
    distance = lpips(net)
    x, y = torch.rand(2, 1, 33, 40), torch.rand(2, 1, 33, 40)
    assert torch.equal(distance(x, x), torch.zeros(2))
    assert torch.equal(distance(x, y), distance(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)))
    assert bool((distance(x, y) > 0).all())


def test_the_distance_can_be_learned_by() -> None:
    a = torch.rand(1, 3, 33, 33, requires_grad=True)
    lpips("alex")(a, torch.rand(1, 3, 33, 33)).sum().backward()
    assert a.grad is not None
    assert bool(a.grad.abs().sum() > 0)


def test_pictures_too_small_or_of_two_sizes_are_refused() -> None:
    for a, b in (((30, 40), (30, 40)), ((40, 40), (40, 41))):
        with pytest.raises(ValueError, match="sides of at least 31 px"):
            lpips("alex")(torch.rand(1, 3, *a), torch.rand(1, 3, *b))
    assert lpips("alex")(torch.rand(1, 3, 31, 31), torch.rand(1, 3, 31, 31)).shape == (1,)
    assert lpips("vgg")(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)).shape == (1,)


def test_missing_and_wrong_feature_files_are_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"features of alexnet are needed, but no file is named"):
        load_lpips(None)
    with pytest.raises(ValueError, match=r"vgg16.*--features FILE, or install torchvision"):
        load_lpips(tmp_path / "none", net="vgg")
    with pytest.raises(ValueError, match=r"net is 'squeeze', expected one of \['alex', 'vgg'\]"):
        load_lpips(None, net="squeeze")
    save_file(
        alexnet().state_dict(), tmp_path / "caffe.safetensors", metadata={"input": "BGR 0..255"}
    )
    with pytest.raises(ValueError, match="is of the Caffe convention"):
        load_lpips(tmp_path / "caffe.safetensors")


def test_a_saved_file_gives_the_distance_of_what_was_saved(tmp_path: Path) -> None:
    save_file(network("alex").state_dict(), tmp_path / "alex.safetensors")
    a, b = torch.rand(1, 3, 40, 40), torch.rand(1, 3, 40, 40)
    assert torch.equal(load_lpips(tmp_path / "alex.safetensors")(a, b), lpips("alex")(a, b))


@pytest.mark.slow
def test_bicubic_on_set14_has_the_known_distance() -> None:
    folders = os.environ.get("UPRES_FEATURES"), os.environ.get("UPRES_SET14")
    if not all(folders):
        pytest.skip("UPRES_FEATURES and UPRES_SET14 name no folders")
    features, pictures = (Path(str(folder)) for folder in folders)
    distance = load_lpips(features / "alexnet_features.safetensors")
    found = [_of_bicubic(path, distance) for path in sorted(pictures.glob("*.png"))]
    assert len(found) == 14
    assert sum(found) / 14 == pytest.approx(0.4400, abs=0.0005)


@torch.inference_mode()
def _of_bicubic(path: Path, distance: Lpips) -> float:
    """Return the distance of a picture from its bicubic x4: nothing cut, grey repeated."""
    pixels = read_picture(path.read_bytes(), name=path.name).pixels
    hr = torch.from_numpy(pixels)[None].float() / 255
    rows, cols = (side // 4 * 4 for side in hr.shape[2:])
    hr = hr[..., :rows, :cols]
    lr = (reduce(hr, scale=4, method="bicubic") * 255).round().clamp(0, 255) / 255
    sr = (enlarge(lr, scale=4, method="bicubic") * 255).round().clamp(0, 255) / 255
    return float(distance(sr, hr))


def test_the_loss_is_the_mean_distance_and_a_generator_can_follow_it_from_anywhere() -> None:
    loss, distance = LpipsLoss(lpips("vgg")), lpips("vgg")
    hr = torch.rand(2, 3, 32, 40)
    for sr in (torch.zeros(2, 3, 32, 40), torch.rand(2, 3, 32, 40), hr.clone()):
        sr.requires_grad_()
        value = loss(sr, hr)
        value.backward()
        assert value.shape == ()
        assert torch.allclose(value, distance(sr, hr).mean())
        assert bool(sr.grad.isfinite().all())
    assert loss(hr, hr) == 0
