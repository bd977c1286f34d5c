# numpy without type arguments and scikit-image give Any.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from pipeline.degradation.apply import crop_to_multiple, degrade_bicubic
from pipeline.errors import PictureError
from tests.examples import examples

SIDES = st.integers(1, 40)
SCALES = st.sampled_from([2, 3, 4])


def matlab_weights(length: int, *, scale: int) -> np.ndarray:
    """MATLAB's antialiased bicubic `imresize` of one axis: a (length / scale, length) matrix."""

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = (1.5 * x**3 - 2.5 * x**2 + 1) * (x <= 1)
        far = (-0.5 * x**3 + 2.5 * x**2 - 4 * x + 2) * ((x > 1) & (x <= 2))
        return near + far

    width = 4.0 * scale
    out = np.arange(1, length // scale + 1)
    centre = out * scale + 0.5 * (1 - scale)
    left = np.floor(centre - width / 2)
    indices = left[:, None] + np.arange(math.ceil(width) + 2)
    weights = kernel((centre[:, None] - indices) / scale) / scale
    weights /= weights.sum(axis=1, keepdims=True)
    there_and_back = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    dense = np.zeros((len(out), length))
    for row, (columns, values) in enumerate(zip(indices, weights, strict=True)):
        mirrored = there_and_back[np.mod(columns.astype(int) - 1, 2 * length)]
        np.add.at(dense[row], mirrored, values)
    return dense


def matlab_reduced(hr: np.ndarray, *, scale: int) -> np.ndarray:
    rows, cols = (matlab_weights(side // scale * scale, scale=scale) for side in hr.shape[1:])
    cropped = hr[:, : rows.shape[1], : cols.shape[1]].astype(np.float64)
    return rows @ cropped @ cols.T


def random_picture(channels: int, height: int, width: int, *, extreme: bool = False) -> np.ndarray:
    rng = np.random.default_rng([channels, height, width])
    if extreme:
        return rng.integers(0, 2, (channels, height, width), dtype=np.uint8) * np.uint8(255)
    return rng.integers(0, 256, (channels, height, width), dtype=np.uint8)


def camera() -> np.ndarray:
    return data.camera()[None]


@examples(60)
@given(height=SIDES, width=SIDES, scale=SCALES, extreme=st.booleans())
def test_uint8_is_matlabs_reduction_rounded_to_the_nearest(
    height: int, width: int, scale: int, extreme: bool
) -> None:
    hr = random_picture(1, max(height, scale), max(width, scale), extreme=extreme)
    exact = np.clip(matlab_reduced(hr, scale=scale), 0, 255)
    lr = degrade_bicubic(hr, scale)
    assert lr.dtype == np.uint8
    assert lr.shape == exact.shape
    assert np.abs(lr - exact).max() <= 0.5 + 1e-9


@examples(30)
@given(height=SIDES, width=SIDES, scale=SCALES)
def test_rounding_between_the_passes_moves_no_pixel_by_more_than_one_level_without_overshoot(
    height: int, width: int, scale: int
) -> None:
    hr = random_picture(1, max(height, scale), max(width, scale)) // 2 + 64
    cropped = crop_to_multiple(hr, scale)
    rows, cols = (matlab_weights(side, scale=scale) for side in cropped.shape[1:])
    between = np.floor(rows @ cropped.astype(np.float64) + 0.5)
    twice = np.floor(between @ cols.T + 0.5)
    assert np.abs(degrade_bicubic(hr, scale) - twice).max() <= 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_photograph_is_reduced_as_by_pillow_away_from_the_borders(scale: int) -> None:
    hr = crop_to_multiple(camera(), scale)
    size = (hr.shape[2] // scale, hr.shape[1] // scale)
    # As floats, as Pillow clips and rounds uint8 between its passes.
    exact = Image.fromarray(hr[0].astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    difference = degrade_bicubic(hr, scale)[0] - np.clip(np.asarray(exact), 0, 255)
    assert np.abs(difference[2:-2, 2:-2]).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pillows_own_uint8_is_within_one_level_nearly_everywhere(scale: int) -> None:
    hr = crop_to_multiple(camera(), scale)
    size = (hr.shape[2] // scale, hr.shape[1] // scale)
    pillow = np.asarray(Image.fromarray(hr[0]).resize(size, Image.Resampling.BICUBIC))
    difference = np.abs(degrade_bicubic(hr, scale)[0].astype(int) - pillow)[2:-2, 2:-2]
    assert (difference <= 1).mean() > 0.999


def test_leaving_out_the_antialiasing_would_be_seen() -> None:
    hr = camera()
    without = hr[:, 1::4, 1::4].astype(int)
    assert np.abs(degrade_bicubic(hr, 4) - without).max() > 20


@examples()
@given(value=st.integers(0, 255), scale=SCALES)
def test_a_constant_picture_stays_constant(value: int, scale: int) -> None:
    lr = degrade_bicubic(np.full((3, 13, 17), value, dtype=np.uint8), scale)
    assert (lr == value).all()


def test_overshoot_is_clipped_and_does_not_wrap_around() -> None:
    hr = np.zeros((1, 32, 32), dtype=np.uint8)
    hr[:, :, 16:] = 255
    lr = degrade_bicubic(hr, 2)[0, 0].astype(int)
    assert (np.diff(lr) >= 0).all()


def test_halves_are_rounded_up() -> None:
    hr = np.tile(np.array([0, 1, 0, 1], dtype=np.uint8), (1, 4, 1))
    exact = matlab_reduced(hr, scale=4)
    assert exact.item() == 0.5
    assert degrade_bicubic(hr, 4).item() == 1


@examples(30)
@given(height=st.integers(4, 40), width=st.integers(4, 40), scale=st.sampled_from([2, 4]))
def test_a_mirrored_picture_gives_the_mirrored_reduction(
    height: int, width: int, scale: int
) -> None:
    hr = crop_to_multiple(random_picture(1, height, width), scale)
    mirrored = degrade_bicubic(hr[:, ::-1, ::-1], scale)
    np.testing.assert_array_equal(mirrored, degrade_bicubic(hr, scale)[:, ::-1, ::-1])


def test_channels_do_not_mix() -> None:
    hr = random_picture(4, 16, 20)
    alone = [degrade_bicubic(hr[c : c + 1], 4) for c in range(4)]
    np.testing.assert_array_equal(degrade_bicubic(hr, 4), np.concatenate(alone))


def test_sixteen_bits_keep_their_depth() -> None:
    hr = np.random.default_rng(0).integers(0, 65536, (2, 24, 36), dtype=np.uint16)
    lr = degrade_bicubic(hr, 4)
    assert lr.dtype == np.uint16
    exact = np.clip(matlab_reduced(hr, scale=4), 0, 65535)
    assert np.abs(lr - exact).max() <= 0.5 + 1e-6


def test_floats_are_neither_rounded_nor_clipped() -> None:
    hr = np.zeros((1, 32, 32), dtype=np.float32)
    hr[:, :, 16:] = 1.0
    lr = degrade_bicubic(hr, 4)
    assert lr.dtype == np.float32
    np.testing.assert_allclose(lr, matlab_reduced(hr, scale=4), atol=1e-6)
    assert lr.min() < 0
    assert lr.max() > 1


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.bool_])
def test_other_dtypes_are_refused(dtype: type) -> None:
    with pytest.raises(PictureError, match="expected uint8, uint16 or float32"):
        degrade_bicubic(np.zeros((1, 8, 8), dtype=dtype), 2)


@examples()
@given(height=SIDES, width=SIDES, scale=SCALES)
def test_the_crop_is_the_largest_multiple_at_the_top_left(
    height: int, width: int, scale: int
) -> None:
    hr = random_picture(1, max(height, scale), max(width, scale))
    cropped = crop_to_multiple(hr, scale)
    rows, cols = cropped.shape[1:]
    assert rows % scale == cols % scale == 0
    assert 0 <= hr.shape[1] - rows < scale
    assert 0 <= hr.shape[2] - cols < scale
    np.testing.assert_array_equal(cropped, hr[:, :rows, :cols])


def test_pixels_beyond_the_multiple_have_no_say() -> None:
    hr = random_picture(1, 23, 19)
    np.testing.assert_array_equal(degrade_bicubic(hr, 4), degrade_bicubic(hr[:, :20, :16], 4))


def test_a_picture_smaller_than_the_scale_is_refused() -> None:
    with pytest.raises(PictureError, match="picture is 3x9 px, expected at least 4x4"):
        degrade_bicubic(np.zeros((1, 3, 9), dtype=np.uint8), 4)


def test_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="scale is 0"):
        crop_to_multiple(np.zeros((1, 3, 9), dtype=np.uint8), 0)
