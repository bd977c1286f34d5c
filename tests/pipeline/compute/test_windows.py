"""Windows: pieces have the bits of the whole, and are taken where they are faster."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.span import Span
from pipeline.compute.backends import TORCH, resolve_backend
from pipeline.compute.inference import Inference, resolve_precision
from pipeline.compute.speeds import Speeds
from pipeline.compute.windows import Cut, WindowedBackend, fastest_cut
from pipeline.errors import NotFiniteError, TileShapeError
from tests.examples import examples, pairs
from tests.pipeline.compute.even_sum import summing, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.compute.backends import Backend

REACH = 21
SMALL_IS_FAST = Speeds(((30, 1e6), (110, 9e5), (120, 1.0)))
XEON_48 = Speeds(((128, 8.7), (170, 8.5), (212, 7.7), (298, 5.1), (554, 5.4)))
XEON_64 = Speeds(((128, 6.4), (170, 7.7), (212, 7.1), (298, 3.9), (554, 4.4)))
EPYC_48 = Speeds(((128, 3.18), (170, 3.28), (213, 3.34), (298, 3.33)))

HAS_BF16 = resolve_precision("auto", device="cpu") == "bf16"

pytestmark = pytest.mark.skipif(
    resolve_backend("auto", device="cpu", model="span-x4") != "openvino",
    reason="pieces are for x86 CPUs",
)

ENGINES = [("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")]
engines = pytest.mark.parametrize(("backend", "precision"), ENGINES)
backends = pytest.mark.parametrize("backend", ["torch", "openvino"])
unhurried = settings(
    deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Counted:
    """A backend that keeps the shapes it was given."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.shapes: list[tuple[int, ...]] = []

    @property
    def name(self) -> str:
        return self.backend.name

    def run(self, x: torch.Tensor, precision: str) -> torch.Tensor:
        self.shapes.append((len(x), *x.shape[2:]))
        return self.backend.run(x, precision)


def random_span(features: int) -> Span:
    torch.manual_seed(0)
    network = Span(scale=2, features=features)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)  # So that what is far away shows.
    return network


@cache
def whole(backend: str, precision: str, features: int = 16) -> Inference:
    if (backend, precision) == ("openvino", "bf16") and not HAS_BF16:
        pytest.skip("this CPU does not compute in bf16, and openvino says so")
    return Inference.of(
        random_span(features), scale=2, channels=3, precision=precision, backend=backend
    )


def in_pieces(run: Inference, reach_px: int = REACH) -> tuple[Inference, Counted]:
    """Return what computes the same in small pieces, and what counts them."""
    counted = Counted(run.backend)
    pieces = WindowedBackend(counted, scale=run.scale, reach_px=reach_px, speeds=SMALL_IS_FAST)
    return replace(run, backend=pieces), counted


def pixels(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    random = np.random.default_rng(sum(shape)).random(shape, dtype=np.float32)
    if dtype == "float32":
        return random
    return (random * np.iinfo(dtype).max).astype(dtype)


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(getattr(request, "param", 1))
    yield torch.get_num_threads()
    torch.set_num_threads(before)


# --- exactness ----------------------------------------------------------------------------------


@engines
@unhurried
@given(n=st.integers(1, 3), height=st.integers(1, 200), width=st.integers(1, 200))
@example(n=1, height=200, width=199)
@example(n=2, height=127, width=150)
@example(n=1, height=3, width=200)
@example(n=1, height=115, width=126)
@example(n=9, height=24, width=31)
def test_pieces_have_the_bits_of_the_whole(
    backend: str, precision: str, n: int, height: int, width: int
) -> None:
    run = whole(backend, precision)
    pieces, counted = in_pieces(run)
    windows = pixels((n, 3, height, width))
    np.testing.assert_array_equal(pieces.enlarge_batch(windows), run.enlarge_batch(windows))
    # A side of less than six times the reach is not cut: most of the pieces would be margin.
    can_be_cut = max(height, width) > 6 * REACH or (n > 1 and height * width < 120**2)
    if can_be_cut and n * height * width > 120**2 and min(height, width) > 30:
        assert len(counted.shapes) > 1


@pytest.mark.parametrize(
    ("kind", "engine"),
    pairs(product([1, 2, 3, 4], ["uint8", "uint16", "float32"]), ENGINES),
    ids=str,
)
def test_grey_alpha_and_every_depth_have_the_bits_of_the_whole(
    kind: tuple[int, str], engine: tuple[str, str]
) -> None:
    channels, dtype = kind
    run = whole(*engine)
    pieces, counted = in_pieces(run)
    picture = pixels((channels, 131, 140), dtype)
    if channels in (2, 4):
        picture[-1, 20:90, 30:100] = 0
    np.testing.assert_array_equal(pieces.enlarge(picture), run.enlarge(picture))
    assert len(counted.shapes) > 1


@pytest.mark.slow
@engines
@pytest.mark.parametrize(("features", "threads"), [(48, 1), (64, 2)], indirect=["threads"])
def test_shipped_widths_have_the_bits_of_the_whole(
    backend: str, precision: str, features: int, threads: int
) -> None:
    if precision == "bf16" and not HAS_BF16:
        pytest.skip("this CPU does not compute in bf16, and to imitate it takes minutes")
    run = whole(backend, precision, features)
    windows = pixels((1, 3, 298, 554))
    counted = Counted(run.backend)
    speeds = Speeds(((128, 9e5), (213, 8e5), (298, 1.0)))
    backend_of_pieces = WindowedBackend(counted, scale=2, reach_px=REACH, speeds=speeds)
    pieces = replace(run, backend=backend_of_pieces)
    np.testing.assert_array_equal(pieces.enlarge_batch(windows), run.enlarge_batch(windows))
    assert len(counted.shapes) > 1


@backends
@examples(60)
@given(n=st.integers(1, 3), height=st.integers(1, 200), width=st.integers(1, 200))
@example(n=1, height=200, width=199)
@example(n=2, height=127, width=150)
@example(n=9, height=24, width=31)
def test_pieces_read_all_that_a_network_looks_at(
    backend: str, n: int, height: int, width: int
) -> None:
    run, windows = summing(backend, reach_px=REACH), whole_numbers(n, 3, height, width)
    pieces, _ = in_pieces(run)
    np.testing.assert_array_equal(pieces.enlarge_batch(windows), run.enlarge_batch(windows))


@backends
def test_pieces_with_one_pixel_less_around_them_than_the_network_looks_would_show(
    backend: str,
) -> None:
    run, windows = summing(backend, reach_px=REACH), whole_numbers(1, 3, 200, 199)
    pieces, counted = in_pieces(run, reach_px=REACH - 1)
    assert (pieces.enlarge_batch(windows) != run.enlarge_batch(windows)).any()
    assert len(counted.shapes) > 1


def test_a_window_that_is_not_finite_in_one_piece_is_mended_as_a_whole() -> None:
    class NanInBf16:
        """A backend whose bf16 is NaN at a white pixel."""

        name = TORCH

        def run(self, x: torch.Tensor, precision: str) -> torch.Tensor:
            y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            if precision == "fp32":
                return y / 2
            return torch.where(y == 1, torch.nan, y)

    run = Inference(NanInBf16(), 2, 3, torch.device("cpu"), "bf16", True, 0)
    pieces, counted = in_pieces(run)
    windows = pixels((1, 3, 200, 200)) * np.float32(0.9)
    windows[0, 0, 0, 0] = 1
    found = pieces.enlarge_batch(windows)
    np.testing.assert_array_equal(found, run.enlarge_batch(windows))
    np.testing.assert_array_equal(found[0, :, ::2, ::2], windows[0] / 2)
    assert len(counted.shapes) > 2
    windows[0, 0, 5, 5] = np.nan
    with pytest.raises(NotFiniteError, match="row 5, column 5"):
        pieces.enlarge_batch(windows)


def test_a_network_of_another_scale_is_named_as_before() -> None:
    run = whole("torch", "fp32")
    wrong = replace(run, scale=3)
    pieces, _ = in_pieces(wrong)
    windows = pixels((1, 3, 130, 200))
    with pytest.raises(TileShapeError) as said:
        pieces.enlarge_batch(windows)
    with pytest.raises(TileShapeError) as wanted:
        wrong.enlarge_batch(windows)
    assert str(said.value) == str(wanted.value)


# --- which pieces -------------------------------------------------------------------------------


def cut(n: int, height: int, width: int, speeds: Speeds) -> Cut:
    return fastest_cut(n, height, width, reach_px=REACH, speeds=speeds)


@pytest.mark.parametrize(
    ("speeds", "side", "pieces"),
    [
        (XEON_48, 554, 213),
        (XEON_64, 554, 213),
        (XEON_48, 298, 170),
        (XEON_64, 298, 170),
        (EPYC_48, 554, 554),
        (EPYC_48, 298, 298),
    ],
)
def test_a_tile_is_cut_where_that_is_faster_with_what_is_computed_twice(
    speeds: Speeds, side: int, pieces: int
) -> None:
    assert cut(1, side, side, speeds) == Cut(1, pieces, pieces)


def test_what_would_gain_less_than_the_noise_is_not_cut() -> None:
    # Three parts compute 1.33 times as many pixels.
    for fast, pieces in ((1.38, 554), (1.42, 213)):
        speeds = Speeds(((213, fast), (214, 1.0), (298, 1.0)))
        assert cut(1, 554, 554, speeds) == Cut(1, pieces, pieces)


def test_many_small_pictures_go_through_in_groups_of_the_fastest_size() -> None:
    grouped = cut(64, 64, 64, XEON_48)
    assert (grouped.height, grouped.width) == (64, 64)
    assert 128**2 <= grouped.together * 64 * 64 <= 170**2
    assert cut(64, 64, 64, EPYC_48) == Cut(64, 64, 64)


def test_a_tile_far_larger_than_what_was_measured_is_cut_only_where_that_pays() -> None:
    # What windows overlap costs more of it than the tile's own halo does.
    assert cut(1, 8234, 8234, EPYC_48) == Cut(1, 8234, 8234)
    assert cut(1, 8234, 8234, XEON_64) == Cut(1, 8234, 8234)
    steep = Speeds(((170, 8.0), (213, 8.0), (298, 3.0)))
    assert cut(1, 8234, 8234, steep) == Cut(1, 213, 213)


def test_a_network_that_looks_no_pixel_far_is_cut_too() -> None:
    found = fastest_cut(1, 554, 554, reach_px=0, speeds=XEON_48)
    assert 128**2 <= found.height * found.width <= 170**2
    assert fastest_cut(1, 1, 3, reach_px=0, speeds=XEON_48) == Cut(1, 1, 3)


@given(
    n=st.integers(1, 300),
    height=st.integers(1, 1200),
    width=st.integers(1, 1200),
    speeds=st.sampled_from([SMALL_IS_FAST, XEON_48, XEON_64, EPYC_48]),
)
def test_pieces_are_never_larger_than_the_whole_nor_too_small_for_the_reach(
    n: int, height: int, width: int, speeds: Speeds
) -> None:
    found = cut(n, height, width, speeds)
    assert 1 <= found.together <= n
    assert found.height == height or 2 * REACH < found.height < height
    assert found.width == width or 2 * REACH < found.width < width
    assert found.together == 1 or (found.height, found.width) == (height, width)
