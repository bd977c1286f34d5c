"""Opaque stays opaque, transparent transparent, and hidden colours never show."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.registry import names, shipped
from pipeline.compute.inference import Inference, load_model
from pipeline.compute.transparency import without_hidden
from pipeline.geometry import Rect, Span
from pipeline.jobs.spec import UpscaleSpec
from pipeline.jobs.upscale.worker import Workbench

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import SavePicture, TakePhoto, Upscale

PEAK = {"uint8": 255, "uint16": 65535, "float32": 1}


@cache
def network(model: str) -> Inference:
    found = load_model(model)
    return Inference.of(
        found.network, scale=found.spec.scale, channels=found.spec.channels, precision="fp32"
    )


def colour_models() -> list[str]:
    return [name for name in names() if network(name).channels == 3]


def with_alpha(photo: TakePhoto, channels: int, dtype: str, side: int = 16) -> NDArray[Any]:
    pixels = photo(side, side, channels, dtype).copy()
    pixels[-1] = PEAK[dtype]
    return pixels


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("model", ["span-x2", "span-x4", "bicubic-x2", "lanczos-x3"])
def test_an_opaque_picture_stays_opaque(
    model: str, dtype: str, channels: int, photo: TakePhoto
) -> None:
    run = network(model)
    lr = with_alpha(photo, channels, dtype)
    sr = run.enlarge(lr)
    assert np.all(sr[-1] == PEAK[dtype])
    np.testing.assert_array_equal(sr[:-1], run.enlarge(np.ascontiguousarray(lr[:-1])))


@pytest.mark.parametrize("model", names())
def test_every_model_keeps_the_two_ends_of_alpha(model: str, photo: TakePhoto) -> None:
    run = network(model)
    lr = with_alpha(photo, 4, "uint8")
    lr[-1, :, :8] = 0
    alpha = run.enlarge(lr)[-1]
    assert np.all(alpha[:, : 7 * run.scale] == 0)
    assert np.all(alpha[:, 9 * run.scale :] == 255)


@pytest.mark.parametrize("model", [*sorted(shipped()), "bicubic-x4", "lanczos-x2"])
def test_colours_below_alpha_0_change_no_visible_pixel(model: str, photo: TakePhoto) -> None:
    run = network(model)
    if run.channels != 3:
        pytest.skip("a grey network")
    lr = with_alpha(photo, 4, "uint8", side=24)
    lr[-1, 5:15, 9:] = 0
    other = lr.copy()
    other[:3, 5:15, 9:] = np.random.default_rng(1).integers(0, 256, (3, 10, 15))
    one, two = run.enlarge(lr), run.enlarge(other)
    np.testing.assert_array_equal(one[-1], two[-1])
    visible = one[-1] > 0
    assert visible.mean() > 0.5
    np.testing.assert_array_equal(one[:, visible], two[:, visible])


def test_a_white_sprite_on_hidden_black_has_no_dark_fringe() -> None:
    lr = np.zeros((4, 24, 24), dtype=np.uint8)
    lr[:, 6:18, 6:18] = 255
    for model in ("span-x4", "bicubic-x4"):
        sr = network(model).enlarge(lr)
        assert sr[:3, sr[-1] > 0].min() >= 250


def test_hidden_colours_are_kept_where_they_stay_hidden(photo: TakePhoto) -> None:
    lr = with_alpha(photo, 4, "uint8")
    lr[-1, :, :8] = 0
    sr = network("bicubic-x2").enlarge(lr)
    hidden = sr[:, :, :14]
    np.testing.assert_array_equal(hidden, lr[:, :, :7].repeat(2, axis=1).repeat(2, axis=2))


def test_a_constant_alpha_stays_what_it_is(photo: TakePhoto) -> None:
    lr = with_alpha(photo, 4, "uint8")
    lr[-1] = 77
    assert np.all(network("span-x2").enlarge(lr)[-1] == 77)


def test_visible_colours_reach_as_far_as_they_are_to() -> None:
    lr = np.zeros((2, 1, 9), dtype=np.uint8)
    lr[:, 0, 4] = 200, 255
    filled = without_hidden(lr, 2)
    assert filled[0, 0].tolist() == [0, 0, 200, 200, 200, 200, 200, 0, 0]
    np.testing.assert_array_equal(filled[1], lr[1])
    assert lr[0].sum() == 200


def test_a_part_is_filled_as_the_whole_is(photo: TakePhoto) -> None:
    rng = np.random.default_rng(0)
    lr = photo(60, 70, 4).copy()
    lr[-1] = rng.random((60, 70)) < 0.004
    depth = 6
    whole, part = without_hidden(lr, depth), without_hidden(lr[:, 10:50, 20:60], depth)
    inner = slice(depth, -depth)
    np.testing.assert_array_equal(
        part[:, inner, inner], whole[:, 10 + depth : 50 - depth, 20 + depth : 60 - depth]
    )


@pytest.mark.parametrize("model", ["span-x2", "bicubic-x2"])
def test_tiles_of_a_picture_with_hidden_colours_equal_the_whole(
    model: str, tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    lr = photo(70, 90, 4).copy()
    lr[-1] = 0
    lr[-1, 20:40, 30:37] = 255
    lr[-1, 60:, :5] = 128
    save(tmp_path / "source" / "a.png", lr)
    done = upscale(tmp_path / "source", tmp_path / "job", model=model, tile_px=16)
    image = done.job.open_sr().image("a.png")
    sr = image.read(Rect(Span(0, 140), Span(0, 180)))
    np.testing.assert_array_equal(sr, network(model).enlarge(lr))


@pytest.mark.parametrize("size", [(20, 24), (2, 30)])
def test_pictures_of_a_stack_equal_each_one_alone(size: tuple[int, int], photo: TakePhoto) -> None:
    run = network("span-x2")
    pictures = np.stack([photo(*size, 4, at=at) for at in (0, 60, 200)])
    pictures[1, -1, :, 9:] = 0
    pictures[2, -1] = 0
    bench = Workbench(run, 512 * 512)
    for picture, sr in zip(pictures, bench.enlarge_pictures(pictures, 21), strict=True):
        np.testing.assert_array_equal(sr, run.enlarge(picture))


def test_what_was_made_before_is_stale_where_it_has_alpha() -> None:
    spec = UpscaleSpec(
        model="span-x4",
        weights_sha256="0" * 64,
        scale=4,
        tile_px=32,
        halo_px=21,
        precision="fp32",
        backend="torch",
    )
    rules = {c: spec.rules_of(channels=c, height=50, width=50) for c in (1, 2, 3, 4)}
    assert not rules[1]
    assert not rules[3]
    assert rules[2] == rules[4] != ""
