# numpy without type arguments and scikit-image give Any.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.interpolation import (
    KERNELS,
    KernelInterpolation,
    Nearest,
    NeighbourAverage,
    cubic,
    enlarge,
    mirror,
    reduce,
    resampling,
    resize,
    resize_each,
    taps,
)
from pipeline.geometry import TileGrid
from tests.examples import examples

METHODS = sorted(KERNELS)
SCALES = [2, 3, 4]

MODELS: list[tuple[nn.Module, int, int]] = [
    *[(Nearest(scale=s), s, 0) for s in SCALES],
    *[(KernelInterpolation(scale=s, method="bicubic"), s, 2) for s in SCALES],
    *[(KernelInterpolation(scale=s, method="lanczos"), s, 3) for s in SCALES],
    *[(NeighbourAverage(scale=s), s, 1) for s in (2, 4, 8)],
]
"""Model, scale, reach in LR pixels."""


def random_batch(channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand((1, channels, height, width), generator=generator)


def imresize_weights(
    length: int, *, factor: float, half_width: float, method: str, antialias: bool
) -> np.ndarray:
    """MATLAB's `imresize` along one axis as a dense (factor * length, length) matrix."""

    def kernel(x: np.ndarray) -> np.ndarray:
        if method == "lanczos":
            return np.sinc(x) * np.sinc(x / 3) * (np.abs(x) < 3)
        if method == "bilinear":
            return np.maximum(1 - np.abs(x), 0)
        if method == "box":
            return ((x >= -0.5) & (x < 0.5)).astype(np.float64)
        x = np.abs(x)
        near = (1.5 * x**3 - 2.5 * x**2 + 1) * (x <= 1)
        return near + (-0.5 * x**3 + 2.5 * x**2 - 4 * x + 2) * ((x > 1) & (x <= 2))

    stretch = 1 / factor if antialias else 1.0
    width = 2 * half_width * stretch
    out = np.arange(1, round(length * factor) + 1)
    centre = out / factor + 0.5 * (1 - 1 / factor)
    indices = np.floor(centre - width / 2)[:, None] + np.arange(math.ceil(width) + 2)
    weights = kernel((indices - centre[:, None]) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    there_and_back = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    dense = np.zeros((len(out), length))
    for row, (columns, values) in enumerate(zip(indices, weights, strict=True)):
        np.add.at(dense[row], there_and_back[np.mod(columns.astype(int) - 1, 2 * length)], values)
    return dense


def imresize(x: Tensor, *, factor: float, method: str) -> np.ndarray:
    rows, cols = (
        imresize_weights(
            side,
            factor=factor,
            half_width=KERNELS[method][1],
            method=method,
            antialias=factor < 1,
        )
        for side in x.shape[-2:]
    )
    resized: np.ndarray = rows @ x.numpy() @ cols.T
    return resized


def tiled(model: nn.Module, x: Tensor, *, scale: int, tile_px: int, halo_px: int) -> Tensor:
    height, width = x.shape[-2:]
    out = torch.full((*x.shape[:2], height * scale, width * scale), torch.nan)
    grid = TileGrid(height=height, width=width, tile_px=tile_px, halo_px=halo_px)
    for tile in grid:
        core, window = grid.core(tile), grid.window(tile)
        enlarged = model(x[(slice(None), *window.index)])
        inside = core.scaled(scale).within(window.scaled(scale))
        out[(slice(None), *core.scaled(scale).index)] = enlarged[(slice(None), *inside)]
    return out


@examples()
@given(
    method=st.sampled_from(METHODS),
    centre=st.floats(-0.5, 0.5),
    stretch=st.sampled_from([1, 2, 3, 4]),
)
def test_the_weights_of_every_phase_sum_to_one(method: str, centre: float, stretch: int) -> None:
    kernel, half_width = KERNELS[method]
    weights = taps(kernel, half_width=half_width, centre=centre, stretch=stretch)
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-12)


@examples()
@given(method=st.sampled_from(METHODS), centre=st.floats(-0.5, 0.5))
def test_no_weight_lies_beyond_half_the_kernel(method: str, centre: float) -> None:
    kernel, half_width = KERNELS[method]
    weights = taps(kernel, half_width=half_width, centre=centre)
    assert all(abs(offset - centre) <= half_width for offset in weights)


@examples()
@given(x=st.floats(-3, 3))
def test_keys_kernel_sums_to_one_before_any_normalisation(x: float) -> None:
    assert sum(cubic(x - o) for o in range(-6, 7)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_kernel_is_one_at_its_centre_and_zero_at_every_other_pixel(method: str) -> None:
    kernel, half_width = KERNELS[method]
    assert kernel(0.0) == 1.0
    for x in range(1, int(half_width) + 2):
        assert kernel(float(x)) == pytest.approx(0.0, abs=1e-15)
        assert kernel(-float(x)) == pytest.approx(0.0, abs=1e-15)


@examples()
@given(n=st.integers(1, 6), before=st.integers(0, 20), after=st.integers(0, 20))
def test_the_mirror_repeats_the_edge_pixel_however_far_it_reaches(
    n: int, before: int, after: int
) -> None:
    want = np.pad(np.arange(n), (before, after), mode="symmetric")
    np.testing.assert_array_equal(mirror(torch.arange(n), dim=0, before=before, after=after), want)


@examples(60)
@given(
    method=st.sampled_from(METHODS),
    scale=st.sampled_from(SCALES),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
)
def test_enlarging_equals_the_dense_matrices_of_imresize(
    method: str, scale: int, height: int, width: int
) -> None:
    x = random_batch(2, height, width).double()
    got = enlarge(x, scale=scale, method=method)
    assert got.shape == (1, 2, scale * height, scale * width)
    np.testing.assert_allclose(got, imresize(x, factor=scale, method=method), atol=1e-12)


@examples(60)
@given(
    method=st.sampled_from(METHODS),
    scale=st.sampled_from(SCALES),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_reducing_equals_the_dense_matrices_of_imresize(
    method: str, scale: int, height: int, width: int
) -> None:
    x = random_batch(2, scale * height, scale * width).double()
    got = reduce(x, scale=scale, method=method)
    assert got.shape == (1, 2, height, width)
    np.testing.assert_allclose(got, imresize(x, factor=1 / scale, method=method), atol=1e-12)


def imresize_to(x: Tensor, size: tuple[int, int], *, method: str, antialias: bool) -> np.ndarray:
    rows, cols = (
        imresize_weights(
            side,
            factor=length / side,
            half_width=KERNELS[method][1],
            method=method,
            antialias=antialias and length < side,
        )
        for side, length in zip(x.shape[-2:], size, strict=True)
    )
    return rows @ x.numpy() @ cols.T


LENGTHS = st.integers(1, 23)


@examples(80)
@given(
    # At any size, a pixel may lie on the box's border to the last bit: either side is right.
    method=st.sampled_from(["bicubic", "bilinear", "lanczos"]),
    before=st.tuples(LENGTHS, LENGTHS),
    after=st.tuples(LENGTHS, LENGTHS),
    antialias=st.booleans(),
)
def test_any_size_is_reached_as_by_the_dense_matrices_of_imresize(
    method: str, before: tuple[int, int], after: tuple[int, int], antialias: bool
) -> None:
    x = random_batch(2, *before).double()
    got = resize(x, size=after, method=method, antialias=antialias)
    assert got.shape == (1, 2, *after)
    want = imresize_to(x, after, method=method, antialias=antialias)
    np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", SCALES)
def test_resizing_by_a_whole_factor_is_reducing_and_enlarging(method: str, scale: int) -> None:
    x = random_batch(1, 5 * scale, 7 * scale).double()
    small = resize(x, size=(5, 7), method=method)
    torch.testing.assert_close(small, reduce(x, scale=scale, method=method), atol=1e-12, rtol=0)
    large = resize(small, size=(5 * scale, 7 * scale), method=method)
    torch.testing.assert_close(
        large, enlarge(small, scale=scale, method=method), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_kernels_over_tensors_are_the_kernels(method: str) -> None:
    # 16 to 5 has a weight of every phase; MATLAB's definition of them is the scalar kernel.
    kernel, half_width = KERNELS[method]
    sources, weights = resampling([16], [5], method=method)
    dense = torch.zeros(5, 16, dtype=torch.float64).scatter_add_(1, sources[0], weights[0])
    for place in range(5):
        centre = (place + 0.5) * 16 / 5 - 0.5
        values = {o: kernel((o - centre) / 3.2) for o in range(-16, 32)}
        row = torch.zeros(16, dtype=torch.float64)
        for offset, value in values.items():
            period = offset % 32
            row[min(period, 31 - period)] += value / sum(values.values())
        torch.testing.assert_close(dense[place], row, atol=1e-12, rtol=0)
    assert half_width in (0.5, 1, 2, 3)


@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_their_own_sizes_are_resized_together_as_alone(method: str) -> None:
    before, after = [(9, 12), (16, 16), (3, 5), (7, 7)], [(4, 5), (10, 21), (3, 5), (14, 3)]
    x = torch.full((4, 2, 16, 16), 1e6, dtype=torch.float64)
    for picture, (rows, cols) in zip(x, before, strict=True):
        picture[:, :rows, :cols] = random_batch(2, rows, cols)[0]
    got = resize_each(x, before=before, after=after, method=method)
    assert got.shape == (4, 2, 14, 21)
    for i, ((rows, cols), size) in enumerate(zip(before, after, strict=True)):
        alone = resize(x[i, :, :rows, :cols], size=size, method=method)
        torch.testing.assert_close(got[i, :, : size[0], : size[1]], alone, atol=1e-10, rtol=0)


def test_without_antialiasing_a_shorter_axis_keeps_the_narrow_kernel() -> None:
    x = random_batch(1, 12, 12)
    picked = resize(x, size=(4, 4), method="bilinear", antialias=False)
    torch.testing.assert_close(picked, x[..., 1::3, 1::3])


@pytest.mark.parametrize("shape", [(1, 1, 7, 8), (1, 1, 8, 7)])
def test_reducing_refuses_sides_that_the_scale_does_not_divide(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected sides that are multiples of 4"):
        reduce(torch.zeros(shape), scale=4, method="bicubic")


@pytest.mark.parametrize(("model", "scale", "reach"), MODELS)
@examples(12)
@given(
    height=st.integers(1, 23),
    width=st.integers(1, 23),
    tile_px=st.integers(1, 12),
    extra=st.integers(0, 2),
)
def test_tiles_equal_the_whole_to_the_last_bit_when_the_halo_covers_the_reach(
    model: nn.Module, scale: int, reach: int, height: int, width: int, tile_px: int, extra: int
) -> None:
    x = random_batch(3, height, width)
    tile_px = max(tile_px, height // 4, width // 4)
    got = tiled(model, x, scale=scale, tile_px=tile_px, halo_px=reach + extra)
    assert torch.equal(got, model(x))


@pytest.mark.parametrize(("model", "scale", "reach"), [m for m in MODELS if m[2] > 0])
def test_tiles_leave_a_seam_when_the_halo_is_one_short_of_the_reach(
    model: nn.Module, scale: int, reach: int
) -> None:
    x = random_batch(3, 24, 24)
    got = tiled(model, x, scale=scale, tile_px=8, halo_px=reach - 1)
    assert not torch.allclose(got, model(x), atol=1e-4)


@pytest.mark.parametrize(("model", "scale", "reach"), MODELS)
def test_a_constant_picture_stays_constant(model: nn.Module, scale: int, reach: int) -> None:
    x = torch.full((1, 3, 5 + reach, 7), 0.6)
    want = torch.full((1, 3, (5 + reach) * scale, 7 * scale), 0.6)
    torch.testing.assert_close(model(x), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("model", "scale", "reach"), MODELS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_odd_and_single_pixel_sides_become_scale_times_as_long(
    model: nn.Module, scale: int, reach: int, size: tuple[int, int]
) -> None:
    out = model(random_batch(3, *size))
    assert out.shape == (1, 3, size[0] * scale, size[1] * scale)
    assert torch.isfinite(out).all()
    if reach == 0:
        assert torch.equal(out[..., ::scale, ::scale], random_batch(3, *size))


@pytest.mark.parametrize(("model", "scale", "reach"), MODELS)
def test_a_picture_of_one_row_does_not_vary_along_its_columns(
    model: nn.Module, scale: int, reach: int
) -> None:
    out = model(random_batch(3, 1, 6 + reach))
    torch.testing.assert_close(out, out[:, :, :1].expand(-1, -1, scale, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("model", "scale", "reach"), MODELS)
def test_pictures_of_a_batch_do_not_touch_each_other(
    model: nn.Module, scale: int, reach: int
) -> None:
    a, b = random_batch(3, 6, 7 + reach), random_batch(3, 6, 7 + reach).flip(3)
    both = model(torch.cat([a, b]))
    assert both.shape[2:] == (6 * scale, (7 + reach) * scale)
    assert torch.equal(both, torch.cat([model(a), model(b)]))


def test_nearest_makes_squares_of_equal_pixels() -> None:
    out = Nearest(scale=2, channels=1)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    want = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert out[0, 0].tolist() == want


def test_bicubic_at_an_odd_scale_keeps_the_pixels_that_it_hits() -> None:
    x = random_batch(1, 6, 5)
    out = KernelInterpolation(scale=3, channels=1, method="bicubic")(x)
    torch.testing.assert_close(out[..., 1::3, 1::3], x, atol=1e-7, rtol=0)


def test_the_neighbour_average_of_four_pixels_is_as_computed_by_hand() -> None:
    out = NeighbourAverage(scale=2, channels=1)(torch.tensor([[[[0.0, 4.0], [8.0, 16.0]]]]))
    assert out[0, 0].tolist() == [
        [0.0, 2.0, 4.0, 4.0],
        [4.0, 7.0, 10.0, 10.0],
        [8.0, 12.0, 16.0, 16.0],
        [8.0, 12.0, 16.0, 16.0],
    ]


def test_the_neighbour_average_at_four_is_that_at_two_done_twice() -> None:
    x = random_batch(3, 5, 3)
    twice = NeighbourAverage(scale=2)(NeighbourAverage(scale=2)(x))
    assert torch.equal(NeighbourAverage(scale=4)(x), twice)


def test_the_neighbour_average_keeps_every_pixel_in_its_place() -> None:
    x = random_batch(3, 5, 3)
    assert torch.equal(NeighbourAverage(scale=4)(x)[..., ::4, ::4], x)


@pytest.mark.parametrize("scale", [0, 1, 3, 6])
def test_the_neighbour_average_refuses_a_scale_that_is_no_power_of_two(scale: int) -> None:
    with pytest.raises(ValueError, match=f"scale is {scale}, expected a power of two"):
        NeighbourAverage(scale=scale)
