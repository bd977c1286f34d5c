"""Small pictures get mirrored context, which is cut off again; larger ones keep their bits."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.registry import shipped
from pipeline.compute.inference import Inference, load_model
from pipeline.compute.small_sides import SMALL_PX, Context
from pipeline.constants import LEAST_TILE_PX
from pipeline.geometry import Rect, Span
from pipeline.jobs.spec import UpscaleSpec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import SavePicture, TakePhoto, Upscale

SIZES = [(1, 1), (1, 2), (2, 2), (1, 23), (23, 1), (3, 7), (SMALL_PX, SMALL_PX - 1)]


@cache
def network(model: str, backend: str = "torch") -> Inference:
    found = load_model(model)
    return Inference.of(
        found.network,
        scale=found.spec.scale,
        channels=found.spec.channels,
        precision="fp32",
        backend=backend,
    )


def rms(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


def spec(model: str) -> UpscaleSpec:
    return UpscaleSpec(
        model=model,
        weights_sha256="0" * 64,
        scale=4,
        tile_px=32,
        halo_px=2,
        precision="fp32",
        backend="torch",
    )


@pytest.mark.parametrize("model", sorted(shipped()))
def test_a_picture_of_one_pixel_keeps_its_colour_through_every_network(model: str) -> None:
    run = network(model)
    colour = np.array([200, 120, 40], dtype=np.uint8)[: run.channels].reshape(-1, 1, 1)
    sr = run.enlarge(colour)
    assert sr.shape == (len(colour), run.scale, run.scale)
    assert np.abs(sr.astype(int) - colour).max() <= 8


@pytest.mark.parametrize("model", sorted(shipped()))
def test_a_strip_of_one_row_is_near_its_interpolation(model: str, photo: TakePhoto) -> None:
    run = network(model)
    lr = photo(1, 40, run.channels)
    plain = network(f"bicubic-x{run.scale}").enlarge(lr)
    assert rms(run.enlarge(lr), plain) < 16
    bare = run.enlarge_batch(lr[np.newaxis])[0]
    assert rms(run.enlarge(lr), plain) <= rms(bare, plain) + 1


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_small_picture_is_cut_out_of_its_mirrored_extension(
    backend: str, height: int, width: int, photo: TakePhoto
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    run = network("span-x2", backend)
    lr = photo(height, width)
    rows, cols = (8 if side < 4 else 0 for side in lr.shape[1:])
    large = np.pad(lr, ((0, 0), (rows, rows), (cols, cols)), mode="symmetric")
    sr = run.enlarge_batch(large[np.newaxis])[0]
    inside = sr[:, 2 * rows : 2 * (rows + height), 2 * cols : 2 * (cols + width)]
    np.testing.assert_array_equal(run.enlarge(lr), inside)


@pytest.mark.parametrize("size", [(SMALL_PX, SMALL_PX), (SMALL_PX, 31), (40, 9)])
def test_pictures_of_four_pixels_and_more_keep_their_bits(
    size: tuple[int, int], photo: TakePhoto
) -> None:
    lr = photo(*size)
    run = network("span-x2")
    np.testing.assert_array_equal(run.enlarge(lr), run.enlarge_batch(lr[np.newaxis])[0])


@pytest.mark.parametrize("model", ["nearest-x2", "bicubic-x2", "lanczos-x2"])
def test_interpolations_need_no_context(model: str, photo: TakePhoto) -> None:
    lr = photo(1, 5)
    run = network(model)
    np.testing.assert_array_equal(run.enlarge(lr), run.enlarge_batch(lr[np.newaxis])[0])


@pytest.mark.parametrize("size", [(1, 75), (3, 40), (50, 2)])
def test_tiles_of_a_narrow_picture_equal_the_whole(size: tuple[int, int], photo: TakePhoto) -> None:
    lr = photo(*size)
    run = network("span-x2")
    tiled = run.enlarge_tiled(lr, tile_px=16, halo_px=21)
    np.testing.assert_array_equal(tiled, run.enlarge(lr))


@pytest.mark.slow
def test_a_job_makes_of_narrow_pictures_what_the_network_makes_of_the_whole(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    sizes = [(1, 1), (2, 90), (70, 3), (3, 8)]
    for height, width in sizes:
        save(tmp_path / "source" / f"{height}x{width}.png", photo(height, width))
    done = upscale(tmp_path / "source", tmp_path / "job", model="span-x2")
    assert done.status.complete
    sr = done.job.open_sr()
    for height, width in sizes:
        found = sr.image(f"{height}x{width}.png")
        pixels = found.read(Rect(Span(0, 2 * height), Span(0, 2 * width)))
        np.testing.assert_array_equal(pixels, network("span-x2").enlarge(photo(height, width)))


def test_a_small_side_is_never_cut_into_tiles() -> None:
    assert SMALL_PX <= LEAST_TILE_PX


def test_what_was_made_without_context_is_stale_and_nothing_else() -> None:
    old = spec("span-x4").item_fingerprint("1")

    def fingerprint(model: str, height: int, width: int) -> str:
        rules = spec(model).rules_of(channels=3, height=height, width=width)
        return spec(model).item_fingerprint("1", rules=rules)

    assert fingerprint("span-x4", 3, 100) != old
    assert fingerprint("span-x4", 4, 100) == old
    assert fingerprint("bicubic-x4", 1, 1) == spec("bicubic-x4").item_fingerprint("1")


def test_context_is_symmetric_and_cut_off_exactly() -> None:
    context = Context.of(2, 9)
    pixels = np.arange(18, dtype=np.uint8).reshape(1, 2, 9)
    around = context.around(pixels)
    assert around.shape == (1, 2 + 16, 9)
    np.testing.assert_array_equal(around[:, 7], pixels[:, 0])
    np.testing.assert_array_equal(context.cut(around, 1), pixels)
