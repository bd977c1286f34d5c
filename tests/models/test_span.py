"""SPAN: its shape and size, and that tiles of it are the whole picture bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.reach import reach_px
from models.span import Span
from models.tile_independent import evenly
from pipeline.compute.inference import Inference
from pipeline.compute.threads import in_threads
from tests.examples import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

REACH = 21


def network(scale: int = 4, features: int = 48, channels: int = 3) -> Span:
    torch.manual_seed(0)
    return Span(scale=scale, features=features, channels=channels)


def lively(model: nn.Module) -> nn.Module:
    """Make the weights larger, so that what is far away shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


ENGINES = {
    precision: Inference.of(lively(network()), scale=4, channels=3, precision=precision)
    for precision in ("fp32", "bf16")
}


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Compute on one thread, as each worker of many does, or on as many as a test asks for."""
    wanted = getattr(request, "param", 1)
    with in_threads(wanted):
        yield wanted


def picture(height: int, width: int, dtype: str = "float32") -> NDArray[Any]:
    rng = np.random.default_rng(height * 1000 + width)
    x = rng.random((3, height, width), dtype=np.float32)
    return x if dtype == "float32" else (x * 255).round().astype(np.uint8)


@pytest.mark.parametrize(("scale", "parameters"), [(4, 426_288), (2, 410_700)])
def test_the_network_has_as_many_parameters_as_designed(scale: int, parameters: int) -> None:
    assert sum(p.numel() for p in network(scale).parameters()) == parameters


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (8, 9)])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_size_and_batch_is_enlarged_by_the_scale(
    scale: int, size: tuple[int, int], batch: int
) -> None:
    for channels in (1, 3):
        y = network(scale, features=4, channels=channels).eval()(torch.rand(batch, channels, *size))
        assert y.shape == (batch, channels, size[0] * scale, size[1] * scale)


def test_a_network_of_zeros_enlarges_as_nearest_neighbour_does() -> None:
    model = network()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(2, 3, 5, 6)
    wanted = x.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert torch.equal(model(x), wanted)


def test_every_parameter_learns() -> None:
    model = network(2, features=4)
    model(torch.rand(1, 3, 6, 6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


def test_training_and_inference_compute_the_same() -> None:
    model = network()
    x = torch.rand(2, 3, 31, 33).contiguous(memory_format=torch.channels_last)
    trained = model(x).detach()
    with torch.inference_mode():
        assert torch.allclose(model(x), trained, atol=1e-6)


# --- tiles -------------------------------------------------------------------------------------

sizes = st.integers(1, 60) | st.sampled_from([1, 2, 3, 97])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@examples(12, few=4)
@given(height=sizes, width=sizes, tile_px=st.integers(16, 60))
@example(height=1, width=120, tile_px=17)
@example(height=97, width=1, tile_px=56)
@example(height=57, width=8, tile_px=24)
@example(height=29, width=40, tile_px=36)
@example(height=13, width=67, tile_px=33)
@example(height=97, width=97, tile_px=18)
def test_tiles_are_the_whole_picture_bit_for_bit_when_the_halo_covers_the_reach(
    precision: str, height: int, width: int, tile_px: int
) -> None:
    run = ENGINES[precision]
    x = picture(height, width)
    tiled = run.enlarge_tiled(x, tile_px=tile_px, halo_px=REACH)
    # float32 in, float32 out: nothing is hidden by rounding to 256 steps.
    assert np.array_equal(tiled, run.enlarge(x))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 3], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tiles_are_the_whole_picture_on_several_threads_too(precision: str) -> None:
    run = ENGINES[precision]
    x = picture(31, 43)
    tiled = run.enlarge_tiled(x, tile_px=20, halo_px=REACH)
    assert np.array_equal(tiled, run.enlarge(x))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_wider_halo_and_uint8_change_nothing(precision: str) -> None:
    run = ENGINES[precision]
    x = picture(29, 37, "uint8")
    for halo_px in (REACH, REACH + 1, 40):
        tiled = run.enlarge_tiled(x, tile_px=24, halo_px=halo_px)
        assert np.array_equal(tiled, run.enlarge(x))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [(20, 21), (7, 9), (1, 30), (22, 21)])
def test_a_window_is_enlarged_the_same_alone_and_in_a_batch(
    precision: str, size: tuple[int, int]
) -> None:
    run = ENGINES[precision]
    x = picture(*size)
    others = picture(size[0] * 15, size[1]).reshape(3, 15, *size).swapaxes(0, 1)
    batch = run.enlarge_batch(np.concatenate((x[np.newaxis], others)))
    assert np.array_equal(batch[0], run.enlarge_batch(x[np.newaxis])[0])
    assert np.array_equal(run.enlarge_batch(others[:1])[0], batch[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tiles_leave_a_seam_when_there_is_no_halo(precision: str) -> None:
    run = ENGINES[precision]
    x = picture(46, 60)
    tiled, whole = run.enlarge_tiled(x, tile_px=30, halo_px=0), run.enlarge(x)
    wrong = (tiled != whole).any(axis=0)
    assert wrong[4 * 29 : 4 * 31].any()
    assert not wrong[: 4 * (30 - REACH), : 4 * (30 - REACH)].any()


def test_one_pixel_of_halo_too_few_leaves_a_seam_in_double_precision() -> None:
    assert reach_px(network(), channels=3) == REACH
    model = lively(lively(network(2, features=8))).double().eval()
    x = torch.rand(1, 3, 80, 40, dtype=torch.float64)
    with torch.no_grad():
        whole = model(x)[:, :, :80]
        exact = model(x[:, :, : 40 + REACH])[:, :, :80]
        short = model(x[:, :, : 40 + REACH - 1])[:, :, :80]
    assert torch.equal(exact, whole)
    assert not torch.equal(short, whole)


# --- elementwise functions ---------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", [nn.functional.silu, torch.sigmoid])
def test_equal_elements_have_equal_bits_wherever_they_stand(
    dtype: torch.dtype, function: Callable[[Tensor], Tensor]
) -> None:
    values = torch.linspace(-9, 9, 64).to(dtype)
    once = function(values)
    shapes = [(1, 48, 1, 1), (1, 7, 3, 1), (2, 48, 7, 9), (1, 48, 25, 31), (3, 47, 29, 31)]
    for shape in [*shapes, (1, 48, 61, 67)]:
        generator = torch.Generator().manual_seed(0)
        index = torch.randint(64, shape, generator=generator)
        x = values[index].contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            assert torch.equal(evenly(function, x), once[index])
