# scikit-image gives Any.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data, filters

from pipeline.degradation.convolution import convolve, fast_length
from pipeline.degradation.steps.blur import shaped
from pipeline.degradation.steps.motion import line
from pipeline.degradation.steps.sinc import circular_sinc
from tests.examples import examples


def values(**given_values: float) -> dict[str, np.ndarray]:
    every = {"angle": 0.0, "beta": 1.0, "size": 63.0, **given_values}
    return {name: np.array([float(value)]) for name, value in every.items()}


def moments(kernel: np.ndarray) -> np.ndarray:
    """Return the covariance of (column, row) under the kernel's weights."""
    half = len(kernel) // 2
    rows, cols = np.mgrid[-half : half + 1, -half : half + 1]
    mixed = (kernel * rows * cols).sum()
    return np.array([[(kernel * cols**2).sum(), mixed], [mixed, (kernel * rows**2).sum()]])


@pytest.mark.parametrize("kind", ["gaussian", "generalized", "plateau"])
@examples(30)
@given(
    sigma=st.floats(0.2, 5),
    sigma_y=st.floats(0.2, 5),
    angle=st.floats(-180, 180),
    beta=st.floats(0.5, 4),
    size=st.sampled_from([1, 7, 21]),
)
def test_a_kernel_sums_to_one_and_is_itself_when_turned_half_around(
    kind: str, sigma: float, sigma_y: float, angle: float, beta: float, size: int
) -> None:
    drawn = values(sigma=sigma, sigma_y=sigma_y, angle=angle, beta=beta, size=size)
    kernel = shaped(kind, drawn)[0]
    assert kernel.shape == (size, size)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-15)


@pytest.mark.parametrize("angle", [0, 30, 90, -45])
def test_a_gaussians_moments_are_its_sigmas_along_its_angle(angle: float) -> None:
    kernel = shaped("gaussian", values(sigma=4, sigma_y=1.5, angle=angle))[0]
    turn = np.deg2rad(angle)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    covariance = moments(kernel)
    assert along @ covariance @ along == pytest.approx(16, rel=1e-3)
    assert across @ covariance @ across == pytest.approx(2.25, rel=1e-3)
    assert along @ covariance @ across == pytest.approx(0, abs=1e-3)


def test_the_generalized_kernel_of_beta_one_is_the_gaussian() -> None:
    drawn = values(sigma=2, sigma_y=3, angle=20)
    np.testing.assert_allclose(shaped("generalized", drawn), shaped("gaussian", drawn), atol=1e-15)


def test_a_plateau_is_flatter_at_its_centre_than_a_gaussian() -> None:
    plateau = shaped("plateau", values(sigma=5, beta=4))[0]
    gaussian = shaped("gaussian", values(sigma=5))[0]
    assert plateau[31, 33] / plateau[31, 31] > gaussian[31, 33] / gaussian[31, 31] > 0.9


def test_each_kernel_of_a_batch_has_its_own_size() -> None:
    drawn = {"sigma": [2.0, 2.0], "angle": [0.0, 0.0], "beta": [1.0, 1.0], "size": [5.0, 9.0]}
    small, large = shaped("gaussian", {k: np.array(v) for k, v in drawn.items()})
    alone = shaped("gaussian", values(sigma=2, size=5))[0]
    np.testing.assert_array_equal(small[2:7, 2:7], alone)
    assert small.sum() == pytest.approx(1)
    assert (large > 0).all()


@pytest.mark.parametrize("cutoff", [0.2, 0.5, 0.8])
def test_a_sinc_passes_what_is_below_its_cutoff_and_stops_what_is_above(cutoff: float) -> None:
    kernel = circular_sinc(np.array([cutoff]), np.array([63.0]))[0]
    assert kernel.sum() == pytest.approx(1)
    response = np.abs(np.fft.fft2(kernel, (256, 256)))
    frequency = np.fft.fftfreq(256)
    radius = 2 * np.hypot(frequency[:, None], frequency[None])
    np.testing.assert_allclose(response[radius < cutoff - 0.1], 1, atol=0.15)
    np.testing.assert_allclose(response[radius > cutoff + 0.1], 0, atol=0.15)


@examples(30)
@given(length=st.floats(0, 30), angle=st.floats(-180, 180))
def test_motion_sums_to_one_and_lies_along_its_angle(length: float, angle: float) -> None:
    kernel = line(np.array([length]), np.array([angle]))[0]
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
    turn = np.deg2rad(angle)
    along = np.array([np.cos(turn), np.sin(turn)])
    # A line of length L has the variance L**2 / 12; sharing points adds up to a quarter.
    spread = length**2 / 12 * (1 + 2 / 126)
    assert -1e-9 <= along @ moments(kernel) @ along - spread <= 0.26
    across = np.array([-along[1], along[0]])
    assert -1e-9 <= across @ moments(kernel) @ across <= 0.26


def test_motion_of_no_length_changes_nothing() -> None:
    x = np.random.default_rng(0).random((1, 9, 9))
    still = line(np.array([0.0]), np.array([33.0]))[0]
    np.testing.assert_allclose(convolve(x, still), x, atol=1e-12)


@examples(30)
@given(rows=st.integers(1, 20), cols=st.integers(1, 20), half=st.integers(0, 15))
def test_convolution_is_the_sum_over_the_mirrored_picture(rows: int, cols: int, half: int) -> None:
    rng = np.random.default_rng([rows, cols, half])
    x, kernel = rng.random((2, rows, cols)), rng.random((2 * half + 1, 2 * half + 1))
    kernel = kernel + kernel[::-1, ::-1]
    extended = np.pad(x, ((0, 0), (half, half), (half, half)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(extended, kernel.shape, axis=(1, 2))
    np.testing.assert_allclose(
        convolve(x, kernel), np.einsum("cyxij,ij->cyx", windows, kernel), rtol=1e-10
    )


@pytest.mark.parametrize("sigma", [0.7, 2.0, 4.0])
def test_gaussian_blur_is_scikit_images(sigma: float) -> None:
    x = data.camera()[:96, 100:220].astype(np.float64)
    # To the kernel's border, in scikit-image's own units.
    want = filters.gaussian(x, sigma=sigma, truncate=31 / sigma, mode="reflect")
    got = convolve(x[None], shaped("gaussian", values(sigma=sigma))[0])[0]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_fast_lengths_have_small_factors_only() -> None:
    assert [fast_length(n) for n in (1, 7, 116, 121, 128)] == [1, 8, 120, 125, 128]
