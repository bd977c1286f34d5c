"""Traces: what a file says of its compression, and what the pixels of a lossless one show."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from pipeline.pictures.traces import Traces, of_file, of_pixels, traces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[Any]

PHOTO = Image.fromarray(data.astronaut()[:384, :384])
SMALL = PHOTO.resize((192, 192), Image.Resampling.BICUBIC)
"""No compression of the original is to be seen in it."""


def compressed(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def pixels(picture: Image.Image) -> Pixels:
    found = np.asarray(picture)
    return found[np.newaxis] if found.ndim == 2 else np.moveaxis(found, 2, 0)


def decoded(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def jpeg(quality: int, *, picture: Image.Image = SMALL, **options: Any) -> Image.Image:
    return decoded(compressed(picture, "JPEG", quality=quality, **options))


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [10, 40, 75, 90, 100])
@pytest.mark.parametrize(("code", "name"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_a_jpeg_tells_its_quality_and_subsampling(quality: int, code: int, name: str) -> None:
    found = of_file(compressed(SMALL, "JPEG", quality=quality, subsampling=code), "jpeg")
    assert found is not None
    assert (found.codec, found.subsampling, found.once) == ("JPEG", name, False)
    assert abs((found.quality or 0) - quality) <= 1


def test_a_grey_jpeg_has_no_subsampling() -> None:
    found = of_file(compressed(SMALL.convert("L"), "JPEG", quality=75), "jpeg")
    assert found == Traces(codec="JPEG", quality=75)


def test_a_jpeg_of_other_tables_has_the_quality_of_like_steps() -> None:
    coarse = of_file(compressed(SMALL, "JPEG", qtables=[[12] * 64] * 2), "jpeg")
    fine = of_file(compressed(SMALL, "JPEG", qtables=[[1] * 64] * 2), "jpeg")
    assert coarse is not None
    assert fine is not None
    assert 60 < (coarse.quality or 0) < 90
    assert (fine.quality or 0) > 93


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 100])
def test_a_lossy_webp_tells_about_its_quality(quality: int) -> None:
    found = of_file(compressed(SMALL, "WEBP", quality=quality), "webp")
    assert found is not None
    assert found.codec == "WebP"
    assert abs((found.quality or 0) - quality) <= 12


def test_webp_with_alpha_is_told_from_lossless_webp() -> None:
    with_alpha = SMALL.copy()
    with_alpha.putalpha(Image.linear_gradient("L").resize(SMALL.size))
    lossy = of_file(compressed(with_alpha, "WEBP", quality=60), "webp")
    assert lossy is not None
    assert lossy.codec == "WebP"
    assert of_file(compressed(with_alpha, "WEBP", lossless=True), "webp") is None
    assert of_file(compressed(SMALL, "WEBP", lossless=True), "webp") is None


def test_an_avif_is_lossy_unless_it_stores_red_green_and_blue() -> None:
    assert of_file(compressed(SMALL, "AVIF", quality=60), "avif") == Traces(codec="AVIF")


@pytest.mark.parametrize("content", [b"", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8 \1\0\0\0x"])
def test_a_damaged_file_is_no_error(content: bytes) -> None:
    for kind in ("jpeg", "webp", "avif", "png"):
        of_file(content, kind)


# --- pixels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [40, 60, 75, 90])
@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (4, 0)])
def test_pixels_that_once_were_a_jpeg_show_its_quality_cropped_or_not(
    quality: int, corner: tuple[int, int]
) -> None:
    row, col = corner
    found = of_pixels(pixels(jpeg(quality))[:, row:, col:])
    assert (found.codec, found.once) == ("JPEG", True)
    assert abs((found.quality or 0) - quality) <= 2


def test_grey_pixels_show_it_too() -> None:
    assert of_pixels(pixels(jpeg(75, picture=SMALL.convert("L")))).quality == 75


@pytest.mark.parametrize("side", [32, 33, 64, 100, 192])
def test_pixels_of_a_photograph_that_never_was_a_jpeg_show_none(side: int) -> None:
    for corner in (0, 40, 90):
        part = pixels(SMALL)[:, corner : corner + side, corner : corner + side]
        assert of_pixels(part).codec == ""


def _checks() -> Pixels:
    rows, cols = np.indices((160, 160))
    return ((rows // 16 + cols // 16) % 2 * 255).astype(np.uint8)[np.newaxis]


def _ramp() -> Pixels:
    return np.broadcast_to(np.arange(192, dtype=np.uint8), (3, 192, 192))


def _enlarged() -> Pixels:
    return np.repeat(np.repeat(pixels(SMALL)[:, :40, :40], 8, axis=1), 8, axis=2)


@pytest.mark.parametrize(
    "drawn",
    [
        _checks(),
        _ramp(),
        _enlarged(),
        np.zeros((3, 64, 64), np.uint8),
        np.full((1, 7, 900), 9, np.uint8),
        pixels(SMALL.quantize(16).convert("RGB")),
    ],
    ids=["checks", "ramp", "enlarged", "black", "narrow", "few colours"],
)
def test_drawings_are_not_taken_for_jpegs(drawn: Pixels) -> None:
    assert of_pixels(drawn) == Traces()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_depths_are_looked_at_for_noise_alone(dtype: str) -> None:
    deep = pixels(jpeg(40)).astype(dtype) * (257 if dtype == "uint16" else np.float32(1 / 255))
    assert of_pixels(deep.astype(dtype)).codec == ""


def test_pixels_that_are_not_numbers_are_no_error() -> None:
    broken = np.full((3, 64, 64), np.nan, np.float32)
    broken[0, :8] = np.inf
    assert of_pixels(broken).noise == 0


def test_noise_is_measured_and_texture_is_not_taken_for_it() -> None:
    smooth = np.asarray(PHOTO.resize((24, 24)).resize((256, 256), Image.Resampling.BICUBIC))
    added = np.random.default_rng(0).normal(0, 8, smooth.shape)
    noisy = np.clip(smooth + added, 0, 255).round().astype(np.uint8)
    # Of luma, which is the mean of three that vary by themselves.
    assert of_pixels(np.moveaxis(noisy, 2, 0)).noise == pytest.approx(8 * 0.668, rel=0.2)
    assert of_pixels(np.moveaxis(smooth, 2, 0)).noise < 1


def test_a_jpeg_that_was_saved_again_at_high_quality_shows_the_lower_one() -> None:
    again = compressed(jpeg(50), "JPEG", quality=98, subsampling=0)
    found = traces(again, "jpeg", pixels(decoded(again)))
    assert found.once
    assert abs((found.quality or 0) - 50) <= 3
    once = compressed(SMALL, "JPEG", quality=98, subsampling=0)
    assert traces(once, "jpeg", pixels(decoded(once))).quality == 98


def test_traces_are_read_back_as_they_were_written() -> None:
    found = Traces(codec="JPEG", quality=75, subsampling="4:2:0", noise=1.5)
    assert Traces.from_json(found.to_json() | {"later": 1}) == found
