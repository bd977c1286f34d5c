# scikit-image gives Any.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from pipeline.degradation.jpeg import simulate_jpeg
from pipeline.errors import PictureError
from pipeline.pictures.codecs.lossy import recompress


def photograph(channels: int = 3) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(data.astronaut()[:96, 100:196], 2, 0)[:channels])


@pytest.mark.parametrize("quality", [1, 30, 75, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_recompressing_as_jpeg_is_writing_and_reading_with_pillow(
    channels: int, quality: int
) -> None:
    pixels = photograph(channels)
    image = Image.fromarray(pixels[0] if channels == 1 else np.moveaxis(pixels, 0, 2))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=2)
    want = np.atleast_3d(np.asarray(Image.open(file)))
    got = recompress(pixels, format="jpeg", quality=quality)
    np.testing.assert_array_equal(np.moveaxis(got, 0, 2), want)


@pytest.mark.parametrize("quality", [1, 60, 100])
def test_recompressing_as_webp_is_the_codecs_own(quality: int) -> None:
    pixels = photograph()
    encoded = imagecodecs.webp_encode(
        np.ascontiguousarray(np.moveaxis(pixels, 0, 2)), level=quality, lossless=False
    )
    got = recompress(pixels, format="webp", quality=quality)
    np.testing.assert_array_equal(np.moveaxis(got, 0, 2), imagecodecs.webp_decode(encoded))


def test_grey_stays_grey_through_webp() -> None:
    pixels = photograph(1)
    got = recompress(pixels, format="webp", quality=80)
    assert got.shape == pixels.shape
    assert np.abs(got.astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_a_lower_quality_is_farther_from_the_picture(format: str) -> None:
    pixels = photograph()
    far, near = (
        np.abs(recompress(pixels, format=format, quality=q).astype(int) - pixels).mean()
        for q in (10, 95)
    )
    assert far > 1.5 * near > 0


@pytest.mark.parametrize(("channels", "quality"), [(4, 50), (3, 0), (3, 101)])
def test_what_no_file_could_hold_is_refused(channels: int, quality: int) -> None:
    with pytest.raises(PictureError, match=r"JPEG cannot hold|at quality"):
        recompress(np.zeros((channels, 8, 8), np.uint8), format="jpeg", quality=quality)


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95, 100])
@pytest.mark.parametrize(("channels", "bound"), [(1, 0.3), (3, 1.0)])
def test_the_simulation_is_the_real_codec_but_for_rounding(
    channels: int, bound: float, quality: int
) -> None:
    pixels = photograph(channels)
    got = simulate_jpeg(torch.from_numpy(pixels).float()[None], qualities=[quality])[0].numpy()
    real = recompress(pixels, format="jpeg", quality=quality)
    assert np.abs(got - real).mean() < bound
    lost = np.abs(real.astype(int) - pixels).mean()
    assert np.abs(got - pixels).mean() == pytest.approx(lost, rel=0.05, abs=0.05)


def test_each_patch_has_its_own_quality() -> None:
    x = torch.from_numpy(photograph()).float()
    both = simulate_jpeg(torch.stack([x, x]), qualities=[20, 90])
    for got, quality in zip(both, (20, 90), strict=True):
        assert torch.equal(got, simulate_jpeg(x[None], qualities=[quality])[0])


def test_sides_of_half_a_unit_are_refused() -> None:
    with pytest.raises(ValueError, match="24x16, expected sides that are multiples of 16"):
        simulate_jpeg(torch.zeros(1, 3, 24, 16), qualities=[50])
