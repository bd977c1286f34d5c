# scikit-image gives Any.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from models.interpolation import reduce
from pipeline.compute.threads import in_threads
from pipeline.degradation.apply import degrade_bicubic, degrade_patches
from pipeline.degradation.chain import Degradation
from pipeline.degradation.presets import PRESETS
from pipeline.errors import PictureError, RecipeError
from pipeline.pictures.codecs.lossy import recompress
from tests.examples import examples

NAMES = sorted(PRESETS)
RESIZE = {"op": "resize"}
NOISE_FREE = ["bicubic", "bilinear", "box", "lanczos", "blur", "unknown", "jpeg"]


def preset(name: str, *, scale: int = 4) -> Degradation:
    return Degradation.from_table({"name": name}, scale=scale)


def chain(*steps: dict, name: str = "x", scale: int = 4) -> Degradation:
    return Degradation.from_table({"name": name, "steps": list(steps)}, scale=scale)


def photographs(count: int, *, side: int = 48, channels: int = 3) -> np.ndarray:
    picture = np.moveaxis(data.astronaut(), 2, 0)[:channels]
    places = np.random.default_rng(side).integers(0, 512 - side, (count, 2))
    return np.stack([picture[:, r : r + side, c : c + side] for r, c in places])


def flat(level: int, *, count: int = 1, side: int = 48, channels: int = 3) -> np.ndarray:
    return np.full((count, channels, side, side), level, dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_is_degraded_alike_alone_and_anywhere_in_a_batch(name: str) -> None:
    hr, seeds = photographs(64), np.random.default_rng(1).integers(0, 2**63, 64)
    degradation = preset(name)
    with in_threads(2):
        whole = degrade_patches(hr, seeds, degradation, scale=4)
    order = np.random.default_rng(2).permutation(64)
    with in_threads(1):
        shuffled = degrade_patches(hr[order], seeds[order], degradation, scale=4)
        np.testing.assert_array_equal(shuffled, whole[order])
        for i in (0, 7, 8, 63):
            alone = degrade_patches(hr[i : i + 1], [int(seeds[i])], degradation, scale=4)
            np.testing.assert_array_equal(alone[0], whole[i])


@pytest.mark.parametrize("name", ["real-esrgan", "lanczos", "blur"])
def test_large_patches_do_not_depend_on_the_number_of_threads(name: str) -> None:
    hr = photographs(3, side=252)
    one, two = [], []
    for threads, results in ((1, one), (2, two)):
        with in_threads(threads):
            results.append(degrade_patches(hr, [1, 2, 3], preset(name, scale=3), scale=3))
    np.testing.assert_array_equal(one[0], two[0])


@pytest.mark.parametrize("name", ["noise", "mild", "difficult", "wild", "real-esrgan", "archive"])
def test_seeds_and_names_vary_the_result(name: str) -> None:
    hr = np.repeat(photographs(1), 4, axis=0)
    lr = degrade_patches(hr, [0, 1, 2, 3], preset(name), scale=4)
    assert len({patch.tobytes() for patch in lr}) == 4
    other = Degradation.from_table({"name": "other", "preset": name}, scale=4)
    again = degrade_patches(hr, [0, 1, 2, 3], other, scale=4)
    assert not (again == lr).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_preset_works_at_every_scale(name: str, scale: int, channels: int) -> None:
    hr = photographs(3, side=24, channels=channels)[..., :12]
    lr = degrade_patches(hr, [1, 2, 3], preset(name, scale=scale), scale=scale)
    assert lr.dtype == np.uint8
    assert lr.shape == (3, channels, 24 // scale, 12 // scale)


@examples(40)
@given(
    rows=st.integers(1, 12),
    cols=st.integers(1, 12),
    scale=st.sampled_from([1, 2, 3, 4, 8]),
    kind=st.sampled_from(["any", "extreme", "near halves"]),
    seed=st.integers(0, 99),
)
def test_the_bicubic_preset_is_degrade_bicubic_to_the_last_level(
    rows: int, cols: int, scale: int, kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (9, 3, rows * scale, cols * scale)
    hr = rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "extreme":
        hr = rng.integers(0, 2, shape, dtype=np.uint8) * np.uint8(255)
    if kind == "near halves":
        hr = np.repeat(rng.integers(0, 2, (*shape[:3], 1), dtype=np.uint8), shape[3], axis=3)
    lr = degrade_patches(hr, [0] * 9, preset("bicubic", scale=scale), scale=scale)
    for patch, want in zip(hr, lr, strict=True):
        np.testing.assert_array_equal(degrade_bicubic(patch, scale), want)


@pytest.mark.parametrize("name", ["bilinear", "box", "lanczos"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_reduction_is_the_kernels_rounded_once(name: str, scale: int) -> None:
    hr = photographs(4)
    exact = reduce(torch.from_numpy(hr).double(), scale=scale, method=name).numpy().clip(0, 255)
    lr = degrade_patches(hr, range(4), preset(name, scale=scale), scale=scale)
    assert np.abs(lr - exact).max() <= 0.5 + 1e-9


def test_the_box_is_the_mean_of_each_square() -> None:
    hr = photographs(4)
    means = hr.reshape(4, 3, 12, 4, 12, 4).mean(axis=(3, 5))
    want = np.floor(means + 0.5)
    np.testing.assert_array_equal(degrade_patches(hr, range(4), preset("box"), scale=4), want)


@pytest.mark.parametrize("name", NOISE_FREE)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_constant_patch_stays_constant_without_noise(name: str, scale: int) -> None:
    for level in (0, 1, 77, 255):
        lr = degrade_patches(flat(level), [5], preset(name, scale=scale), scale=scale)
        # JPEG quantises the mean of a block, so it may move by a few levels, but evenly.
        assert np.ptp(lr) == 0
        assert abs(int(lr.flat[0]) - level) <= (8 if name == "jpeg" else 0)


def test_blurs_of_every_kind_keep_a_constant_patch() -> None:
    blurs = [
        {"op": "blur", "kind": kind, "sigma": [0.2, 3], "sigma_y": [0.2, 3], "beta": [0.5, 4]}
        for kind in ("gaussian", "generalized", "plateau")
    ]
    steps = [*blurs, {"op": "motion", "length": [0, 9], "angle": [-180, 180]}]
    steps += [{"op": "sinc", "cutoff": [0.3, 1], "size": [7, 21]}]
    steps += [{"op": "resize", "of": "current", "factor": [0.3, 1.5], "kernel": ["box", "lanczos"]}]
    lr = degrade_patches(flat(200, count=20), range(20), chain(*steps, RESIZE), scale=4)
    assert (lr == 200).all()


def test_at_scale_one_the_reductions_change_nothing() -> None:
    hr = photographs(2)
    for name in ("bicubic", "bilinear", "box", "lanczos"):
        lr = degrade_patches(hr, [1, 2], preset(name, scale=1), scale=1)
        np.testing.assert_array_equal(lr, hr)


@pytest.mark.parametrize("sigma", [3.0, 10.0])
@pytest.mark.parametrize("grey", [0, 1])
def test_noise_has_its_sigma_and_grey_noise_is_equal_in_all_channels(
    sigma: float, grey: int
) -> None:
    step = {"op": "noise", "sigma": sigma, "grey": grey}
    lr = degrade_patches(flat(128, count=16), range(16), chain(step, scale=1), scale=1)
    noise = lr.astype(float) - 128
    assert noise.std() == pytest.approx(np.sqrt(sigma**2 + 1 / 12), rel=0.03)
    assert abs(noise.mean()) < 0.2
    assert (noise[:, 0] == noise[:, 1]).all() == bool(grey)
    if not grey:
        assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 0.05


def test_half_of_the_patches_have_grey_noise_at_a_chance_of_a_half() -> None:
    step = {"op": "noise", "sigma": 20, "grey": 0.5}
    lr = degrade_patches(flat(128, count=200, side=4), range(200), chain(step, scale=1), scale=1)
    assert 70 < (lr[:, 0] == lr[:, 1]).all(axis=(1, 2)).sum() < 130


@pytest.mark.parametrize("grey", [0, 1])
def test_poisson_variance_is_proportional_to_the_level(grey: int) -> None:
    step = {"op": "poisson", "scale": 1.5, "grey": grey}
    for level in (0, 20, 60, 120):
        lr = degrade_patches(flat(level, count=16), range(16), chain(step, scale=1), scale=1)
        noise = lr.astype(float) - level
        assert noise.var() == pytest.approx(1.5**2 * level, rel=0.08, abs=0.2 * (level > 0))
        assert abs(noise.mean()) < 0.3
        assert (noise[:, 0] == noise[:, 1]).all() == bool(grey or level == 0)


@pytest.mark.parametrize("op", ["jpeg", "webp"])
def test_compression_is_the_codecs_at_the_rounded_quality(op: str) -> None:
    hr = photographs(3)
    lr = degrade_patches(hr, [1, 2, 3], chain(RESIZE, {"op": op, "quality": 59.5}), scale=4)
    for patch, want in zip(hr, lr, strict=True):
        small = degrade_bicubic(patch, 4)
        np.testing.assert_array_equal(recompress(small, format=op, quality=60), want)


def test_a_chance_of_zero_is_no_step_and_of_one_is_the_step() -> None:
    hr, seeds = photographs(6), range(6)
    blur = {"op": "blur", "sigma": 3}
    without = degrade_patches(hr, seeds, preset("bicubic"), scale=4)
    never = degrade_patches(hr, seeds, chain({**blur, "chance": 0}, RESIZE), scale=4)
    always = degrade_patches(hr, seeds, chain({**blur, "chance": 1}, RESIZE), scale=4)
    some = degrade_patches(hr, seeds, chain({**blur, "chance": 0.5}, RESIZE), scale=4)
    np.testing.assert_array_equal(never, without)
    hit = [not (a == b).all() for a, b in zip(some, without, strict=True)]
    assert 0 < sum(hit) < 6
    for i, was_hit in enumerate(hit):
        np.testing.assert_array_equal(some[i], (always if was_hit else without)[i])


def test_resizing_there_and_back_loses_detail_once() -> None:
    hr = photographs(2)
    half = {"op": "resize", "of": "current", "factor": 0.5, "kernel": "bilinear"}
    lr = degrade_patches(hr, [0, 1], chain(half, RESIZE, scale=1), scale=1)
    assert lr.shape == hr.shape
    assert np.abs(lr.astype(int) - hr).mean() > 1


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 3, 47, 48), np.uint8, r"patches are \(1, 3, 47, 48\), expected .* multiples of 4"),
        ((1, 2, 48, 48), np.uint8, r"expected \(n, 1 or 3, h, w\)"),
        ((3, 48, 48), np.uint8, r"expected \(n, 1 or 3, h, w\)"),
        ((1, 3, 48, 48), np.float32, "patches are float32, expected uint8"),
    ],
)
def test_patches_of_another_kind_are_refused(shape: tuple, dtype: type, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        degrade_patches(np.zeros(shape, dtype), [0], preset("bicubic"), scale=4)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([0, 1], "there are 2 seeds, expected one for each of 1 patches"),
        ([-1], "seed is -1, expected 0 or more"),
        ([2**63], "less than 2\\*\\*63"),
    ],
)
def test_seeds_that_do_not_fit_are_refused(seeds: list[int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        degrade_patches(flat(1), seeds, preset("bicubic"), scale=4)


def test_a_degradation_read_for_another_scale_is_refused_where_it_does_not_fit() -> None:
    only_blur = chain({"op": "blur", "sigma": 1}, scale=1)
    with pytest.raises(RecipeError, match="may end at another size than the LR patch of scale 2"):
        degrade_patches(flat(1), [0], only_blur, scale=2)


def test_no_patches_give_no_patches() -> None:
    for name in ("bicubic", "wild"):
        assert degrade_patches(flat(1, count=0), [], preset(name), scale=4).shape == (0, 3, 12, 12)
