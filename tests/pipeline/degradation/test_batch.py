# scikit-image gives Any.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from skimage import data

from pipeline.compute.threads import in_threads
from pipeline.degradation.apply import degrade_patches
from pipeline.degradation.batch import degrade_batch
from pipeline.degradation.chain import Degradation
from pipeline.degradation.presets import PRESETS
from pipeline.errors import PictureError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = {"op": "resize", "of": "current", "factor": [0.3, 1.5], "kernel": ["box", "bicubic"]}
RESIZE = {"op": "resize"}
ANY_BLUR = {"op": "blur", "sigma": [0.3, 3], "sigma_y": [0.3, 3], "angle": [-180, 180]}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: on tensors this small, several spend their time waiting."""
    with in_threads(1):
        yield


def chain(*steps: dict, scale: int = 4) -> Degradation:
    return Degradation.from_table({"name": "x", "steps": list(steps)}, scale=scale)


def photographs(count: int, *, side: int = 48) -> np.ndarray:
    picture = np.moveaxis(data.astronaut(), 2, 0)
    places = np.random.default_rng(side).integers(0, 512 - side, (count, 2))
    return np.stack([picture[:, r : r + side, c : c + side] for r, c in places])


def both(degradation: Degradation, hr: np.ndarray, *, scale: int = 4) -> tuple:
    """Return the levels of the batch, and those of the patches one by one."""
    seeds = list(range(len(hr)))
    batch = degrade_batch(torch.from_numpy(hr).float() / 255, seeds, degradation, scale=scale)
    patches = degrade_patches(hr, seeds, degradation, scale=scale)
    return batch.numpy() * 255, patches.astype(float)


@pytest.mark.parametrize("name", ["bicubic", "bilinear", "box", "lanczos", "blur", "unknown"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_preset_without_noise_is_within_a_level_of_the_exact_one(name: str, scale: int) -> None:
    degradation = Degradation.from_table({"name": name}, scale=scale)
    batch, patches = both(degradation, photographs(8), scale=scale)
    assert np.abs(batch - patches).max() <= 1 + 1e-3
    assert np.abs(batch - patches).mean() < 0.01


@pytest.mark.parametrize(
    "steps",
    [
        [ANY_BLUR],
        [{**ANY_BLUR, "kind": "generalized", "beta": [0.5, 4], "size": [7, 21]}],
        [{**ANY_BLUR, "kind": "plateau", "beta": [1, 2], "size": [7, 21]}],
        [{"op": "motion", "length": [0, 20], "angle": [-180, 180]}],
        [{"op": "sinc", "cutoff": [0.3, 1], "size": [7, 21]}],
        [SIZES],
        [{**SIZES, "antialias": False}],
        [SIZES, {**ANY_BLUR, "chance": 0.5}, SIZES, {"op": "sinc", "cutoff": [0.4, 1]}],
        [{"op": "choice", "options": [{"steps": [SIZES, ANY_BLUR]}, {"steps": []}]}, SIZES],
        [SIZES, {"op": "webp", "quality": [90, 95], "chance": 0}],
    ],
)
def test_patches_that_draw_their_own_numbers_and_sizes_are_within_a_level(steps: list) -> None:
    batch, patches = both(chain(*steps, RESIZE), photographs(24))
    assert np.abs(batch - patches).max() <= 1 + 1e-3


@pytest.mark.parametrize("side", [48, 72])
@pytest.mark.parametrize("quality", [30, 60, 95])
def test_simulated_jpeg_is_near_the_real_one_at_sides_of_no_whole_unit(
    side: int, quality: int
) -> None:
    jpeg = {"op": "jpeg", "quality": quality}
    batch, patches = both(chain(RESIZE, jpeg), photographs(16, side=side))
    assert np.abs(batch - patches).mean() < 1.5


def test_webp_goes_through_the_codec() -> None:
    batch, patches = both(chain(RESIZE, {"op": "webp", "quality": [50, 90]}), photographs(6))
    np.testing.assert_allclose(batch, patches, atol=1e-3)


@pytest.mark.parametrize("step", [{"op": "noise", "sigma": 9}, {"op": "poisson", "scale": 0.8}])
@pytest.mark.parametrize("grey", [0, 1])
def test_noise_has_the_variance_of_the_exact_one(step: dict, grey: int) -> None:
    hr = np.full((24, 3, 48, 48), 100, dtype=np.uint8)
    batch, patches = both(chain({**step, "grey": grey}, scale=1), hr, scale=1)
    assert batch.std() == pytest.approx(patches.std(), rel=0.05)
    assert abs(batch.mean() - 100) < 0.2
    assert (batch[:, 0] == batch[:, 1]).all() == bool(grey)


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("scale", [1, 3])
def test_every_preset_gives_levels_of_the_right_shape_and_mean(name: str, scale: int) -> None:
    degradation = Degradation.from_table({"name": name}, scale=scale)
    batch, patches = both(degradation, photographs(8), scale=scale)
    assert batch.shape == patches.shape
    np.testing.assert_allclose(batch, np.round(batch), atol=1e-3)
    assert batch.min() >= 0
    assert batch.max() <= 255.001
    assert abs(batch.mean() - patches.mean()) < 2
    grey = degrade_batch(torch.rand(2, 1, 12, 24), [0, 1], degradation, scale=scale)
    assert grey.shape == (2, 1, 12 // scale, 24 // scale)


def test_the_same_seeds_give_the_same_batch_and_others_another() -> None:
    hr = torch.from_numpy(photographs(4)).float() / 255
    degradation = Degradation.from_table({"name": "real-esrgan"}, scale=4)
    first, again, other = (
        degrade_batch(hr, seeds, degradation, scale=4)
        for seeds in ([1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8])
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_autocast_and_gradients_stay_outside() -> None:
    hr = (torch.from_numpy(photographs(4)).float() / 255).requires_grad_()
    degradation = Degradation.from_table({"name": "unknown"}, scale=4)
    plain = degrade_batch(hr, range(4), degradation, scale=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = degrade_batch(hr, range(4), degradation, scale=4)
    assert torch.equal(plain, inside)
    assert not plain.requires_grad


def test_half_precision_comes_back_as_it_was() -> None:
    hr = torch.rand(2, 3, 16, 16).half()
    degradation = Degradation.from_table({"name": "bicubic"}, scale=4)
    assert degrade_batch(hr, [0, 1], degradation, scale=4).dtype == torch.float16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    hr = torch.from_numpy(photographs(24)).float() / 255
    degradation = chain(SIZES, ANY_BLUR, SIZES, {"op": "sinc", "cutoff": [0.4, 1]}, RESIZE)
    on_cpu = degrade_batch(hr, range(24), degradation, scale=4)
    on_gpu = degrade_batch(hr.cuda(), range(24), degradation, scale=4)
    assert on_gpu.device.type == "cuda"
    assert (on_gpu.cpu() - on_cpu).abs().max() * 255 <= 1 + 1e-3


def test_what_does_not_fit_is_refused() -> None:
    degradation = Degradation.from_table({"name": "bicubic"}, scale=4)
    with pytest.raises(PictureError, match="h and w multiples of 4"):
        degrade_batch(torch.zeros(1, 3, 10, 12), [0], degradation, scale=4)
    with pytest.raises(RecipeError, match="there are 2 seeds"):
        degrade_batch(torch.zeros(1, 3, 12, 12), [0, 1], degradation, scale=4)
