# numpy without type arguments and scikit-image give Any.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline.errors import PictureError
from pipeline.geometry import Rect, Span, TileGrid
from pipeline.pictures.metrics import (
    Scores,
    Similarity,
    SquaredError,
    luma,
    score_picture,
    score_region,
    score_tile,
    score_window,
    similarity,
    squared_error,
)
from tests.examples import examples


def noisy(pixels: np.ndarray, *, seed: int = 0, sigma: float = 12.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)


def random_pair(channels: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([channels, height, width])
    hr = rng.integers(0, 256, (channels, height, width), dtype=np.uint8)
    return noisy(hr, seed=height * width), hr


def astronaut() -> np.ndarray:
    return np.moveaxis(data.astronaut(), 2, 0)[:, 100:260, 150:330]


def skimage_ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    _, values = structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    return values[5:-5, 5:-5]


def tile_sum(sr: np.ndarray, hr: np.ndarray, *, tile_px: int, border_px: int) -> Scores:
    height, width = hr.shape[1:]
    region = score_region(height, width, border_px=border_px)
    total = Scores()
    if region is None:
        return total
    grid = TileGrid(height=height, width=width, tile_px=tile_px, halo_px=0)
    for core in map(grid.core, grid):
        window = score_window(core, region=region)
        if window is not None:
            total += score_tile(
                sr[window.index],
                hr[window.index],
                window=window,
                core=core,
                region=region,
                data_range=255,
            )
    return total


@pytest.mark.parametrize(
    ("rgb", "y"),
    [
        ((0, 0, 0), 16.0),
        ((255, 255, 255), 235.0),
        ((255, 0, 0), 16 + 65.481),
        ((0, 255, 0), 16 + 128.553),
        ((0, 0, 255), 16 + 24.966),
    ],
)
def test_luma_of_rgb_runs_from_16_to_235_as_in_bt601(rgb: tuple[int, ...], y: float) -> None:
    pixels = np.array(rgb, dtype=np.uint8).reshape(3, 1, 1)
    assert luma(pixels, data_range=255).item() == pytest.approx(y, abs=1e-12)


def test_luma_is_not_rounded() -> None:
    y = luma(np.full((3, 1, 1), 1, dtype=np.uint8), data_range=255).item()
    assert y == pytest.approx(16 + 219 / 255, abs=1e-12)


def test_grey_is_its_own_luma() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(luma(grey, data_range=255), grey[0])


@pytest.mark.parametrize("colours", [1, 3])
def test_alpha_changes_no_luma(colours: int) -> None:
    pixels, alpha = random_pair(colours, 4, 5)[0], random_pair(1, 4, 5)[0]
    np.testing.assert_array_equal(
        luma(np.concatenate([pixels, alpha]), data_range=255), luma(pixels, data_range=255)
    )


@pytest.mark.parametrize("colours", [1, 3])
def test_sixteen_bits_give_the_same_luma_as_eight(colours: int) -> None:
    pixels = random_pair(colours, 16, 16)[0]
    deep = pixels.astype(np.uint16) * 257
    np.testing.assert_array_equal(luma(deep, data_range=65535), luma(pixels, data_range=255))


@pytest.mark.parametrize("shape", [(5, 4, 4), (0, 4, 4), (4, 4)])
def test_luma_refuses_what_is_neither_grey_nor_rgb(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match="expected \\(c, h, w\\) with c of 1 to 4"):
        luma(np.zeros(shape, dtype=np.uint8), data_range=255)


def test_luma_refuses_a_data_range_of_zero() -> None:
    with pytest.raises(ValueError, match="data_range is 0"):
        luma(np.zeros((1, 2, 2), dtype=np.uint8), data_range=0)


def test_psnr_equals_that_of_scikit_image() -> None:
    hr = data.camera()[:200, :150]
    error = squared_error(noisy(hr), hr)
    want = peak_signal_noise_ratio(hr, noisy(hr), data_range=255)
    assert error.psnr(data_range=255) == pytest.approx(want, abs=1e-9)


def test_uint8_differences_do_not_wrap_around() -> None:
    a, b = np.array([0, 255], dtype=np.uint8), np.array([255, 0], dtype=np.uint8)
    assert squared_error(a, b) == SquaredError(total=2 * 255.0**2, count=2)
    assert squared_error(a, b).psnr(data_range=255) == 0.0


def test_psnr_is_infinite_only_where_all_is_equal() -> None:
    a = np.zeros((9, 9), dtype=np.uint8)
    b = a.copy()
    assert squared_error(a, b).psnr(data_range=255) == math.inf
    b[4, 4] = 1
    assert squared_error(a, b).psnr(data_range=255) == pytest.approx(10 * math.log10(255**2 * 81))


def test_where_nothing_was_compared_there_is_no_score() -> None:
    assert SquaredError().mse is None
    assert SquaredError().psnr(data_range=255) is None
    assert Similarity().mean is None
    assert (Scores().psnr_y, Scores().ssim_y) == (None, None)


def test_adding_an_empty_score_changes_nothing() -> None:
    scores = score_picture(*random_pair(3, 20, 20), border_px=2, data_range=255)
    assert scores + Scores() == Scores() + scores == sum([scores], Scores()) == scores


def test_arrays_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the same"):
        squared_error(np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="expected the same"):
        similarity(np.zeros((30, 40)), np.zeros((40, 30)), data_range=255)


@examples(40)
@given(height=st.integers(11, 150), width=st.integers(11, 40), flat=st.booleans())
def test_ssim_equals_that_of_scikit_image(height: int, width: int, flat: bool) -> None:
    sr, hr = (planes[0].astype(np.float64) for planes in random_pair(1, height, width))
    if flat:
        hr = np.full_like(hr, 200.0)
    want = skimage_ssim_map(sr, hr)
    got = similarity(sr, hr, data_range=255)
    assert got.count == want.size
    assert got.mean == pytest.approx(want.mean(), abs=1e-9)


def test_ssim_of_a_photograph_equals_that_of_scikit_image() -> None:
    hr = luma(astronaut(), data_range=255)
    sr = luma(noisy(astronaut()), data_range=255)
    want = skimage_ssim_map(sr, hr).mean()
    assert similarity(sr, hr, data_range=255).mean == pytest.approx(want, abs=1e-9)


def test_ssim_of_equal_pictures_is_one() -> None:
    hr = luma(astronaut(), data_range=255)
    assert similarity(hr, hr, data_range=255).mean == pytest.approx(1.0, abs=1e-12)


def test_ssim_depends_on_the_data_range() -> None:
    sr, hr = (planes[0] for planes in random_pair(1, 20, 20))
    assert similarity(sr, hr, data_range=255).mean != similarity(sr, hr, data_range=1).mean


@pytest.mark.parametrize("shape", [(10, 40), (40, 10), (1, 1)])
def test_planes_of_less_than_11_px_hold_no_ssim_window(shape: tuple[int, int]) -> None:
    assert similarity(np.zeros(shape), np.zeros(shape), data_range=255) == Similarity()


def test_planes_of_11_px_hold_exactly_one_ssim_window() -> None:
    assert similarity(np.zeros((11, 11)), np.ones((11, 11)), data_range=255).count == 1


@examples(20)
@given(row=st.integers(0, 100), col=st.integers(0, 30))
def test_the_ssim_of_a_window_is_the_same_bits_wherever_the_plane_ends(row: int, col: int) -> None:
    sr, hr = (planes[0] for planes in random_pair(1, 120, 48))
    alone = np.s_[row : row + 11, col : col + 11]
    longer = np.s_[row : row + 12, col : col + 11]
    last = np.s_[row + 1 : row + 12, col : col + 11]
    one, other = (similarity(sr[i], hr[i], data_range=255).total for i in (alone, last))
    assert similarity(sr[longer], hr[longer], data_range=255).total == one + other


def test_a_taller_picture_takes_no_more_memory_to_compare() -> None:
    def peak_bytes(height: int) -> int:
        plane = np.zeros((height, 100))
        tracemalloc.start()
        similarity(plane, plane, data_range=255)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # The least of a few turns: other threads of the test run allocate, too. Memory that grew with
    # the height would be ten times as much.
    assert min(peak_bytes(3000) for _ in range(5)) < 2 * min(peak_bytes(300) for _ in range(5))


def test_the_region_leaves_out_the_border_on_every_side() -> None:
    assert score_region(20, 30, border_px=4) == Rect(Span(4, 16), Span(4, 26))
    assert score_region(20, 30, border_px=0) == Rect(Span(0, 20), Span(0, 30))


def test_there_is_no_region_where_the_border_leaves_nothing() -> None:
    assert score_region(8, 30, border_px=4) is None
    assert score_region(30, 8, border_px=4) is None
    assert score_region(9, 9, border_px=4) == Rect(Span(4, 5), Span(4, 5))


def test_a_window_is_the_core_and_the_reach_of_ssim_inside_the_region() -> None:
    region = Rect(Span(4, 96), Span(4, 96))
    core = Rect(Span(0, 32), Span(32, 64))
    assert score_window(core, region=region) == Rect(Span(4, 37), Span(27, 69))


def test_a_core_outside_the_region_reads_nothing_and_scores_nothing() -> None:
    region = Rect(Span(8, 32), Span(8, 32))
    core = Rect(Span(0, 8), Span(0, 40))
    pixels = np.zeros((1, *core.shape), dtype=np.uint8)
    assert score_window(core, region=region) is None
    assert Scores() == score_tile(
        pixels, pixels + 1, window=core, core=core, region=region, data_range=255
    )


@examples(60)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile_px=st.integers(1, 64),
    border_px=st.integers(0, 6),
    channels=st.sampled_from([1, 2, 3, 4]),
)
def test_the_scores_of_the_tiles_add_up_to_the_pictures_own(
    height: int, width: int, tile_px: int, border_px: int, channels: int
) -> None:
    tile_px = max(tile_px, height // 6, width // 6)
    sr, hr = random_pair(channels, height, width)
    tiles = tile_sum(sr, hr, tile_px=tile_px, border_px=border_px)
    whole = score_picture(sr, hr, border_px=border_px, data_range=255)
    assert tiles.error.count == whole.error.count
    assert tiles.similarity.count == whole.similarity.count
    assert tiles.error.total == pytest.approx(whole.error.total, rel=1e-12, abs=0)
    assert tiles.similarity.total == pytest.approx(whole.similarity.total, rel=1e-12, abs=1e-12)


def test_every_pixel_and_every_ssim_window_is_counted_once() -> None:
    scores = tile_sum(*random_pair(3, 50, 61), tile_px=7, border_px=4)
    assert scores.error.count == 42 * 53
    assert scores.similarity.count == 32 * 43


def test_a_picture_of_several_tiles_scores_as_by_scikit_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.pictures.metrics._PICTURE_TILE_PX", 64)
    hr, sr = astronaut(), noisy(astronaut())
    inner = np.s_[3:-3, 3:-3]
    hr_y, sr_y = (luma(pixels, data_range=255)[inner] for pixels in (hr, sr))
    scores = score_picture(sr, hr, border_px=3, data_range=255)
    want = peak_signal_noise_ratio(hr_y, sr_y, data_range=255)
    assert scores.psnr_y == pytest.approx(want, abs=1e-9)
    assert scores.ssim_y == pytest.approx(skimage_ssim_map(sr_y, hr_y).mean(), abs=1e-9)


def test_a_window_without_the_reach_of_ssim_is_refused() -> None:
    sr, hr = random_pair(1, 40, 40)
    core = Rect(Span(10, 30), Span(10, 30))
    region = Rect(Span(0, 40), Span(0, 40))
    with pytest.raises(ValueError, match="is not inside"):
        score_tile(
            sr[core.index], hr[core.index], window=core, core=core, region=region, data_range=255
        )


def test_pixels_that_do_not_fill_the_window_are_refused() -> None:
    sr, hr = random_pair(1, 20, 20)
    region = Rect(Span(0, 40), Span(0, 40))
    with pytest.raises(ValueError, match="to fill"):
        score_tile(sr, hr, window=region, core=region, region=region, data_range=255)


def test_alpha_on_one_side_only_changes_no_score() -> None:
    sr, hr = random_pair(3, 24, 24)
    with_alpha = np.concatenate([hr, random_pair(1, 24, 24)[0]])
    assert score_picture(sr, with_alpha, border_px=2, data_range=255) == score_picture(
        sr, hr, border_px=2, data_range=255
    )


def test_grey_is_not_compared_with_rgb() -> None:
    grey, rgb = random_pair(1, 24, 24)[0], random_pair(3, 24, 24)[0]
    with pytest.raises(PictureError, match="1 and 3 colour channels"):
        score_picture(grey, rgb, border_px=2, data_range=255)


def test_pictures_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the same"):
        score_picture(
            random_pair(3, 24, 24)[0], random_pair(3, 24, 28)[0], border_px=2, data_range=255
        )


def test_a_picture_of_border_alone_has_no_score() -> None:
    assert score_picture(*random_pair(3, 8, 40), border_px=4, data_range=255) == Scores()
