"""Patches: LR and HR show the same place, and a batch depends on the seed and the step alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.patches import PatchSampler, PicturePair, Pixels

SIZES = [(40, 48), (64, 20), (33, 31)]


def picture(height: int, width: int, *, seed: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8)


def pairs_of(scale: int, sizes: list[tuple[int, int]] | None = None) -> list[PicturePair]:
    """Return pairs in which every HR pixel is its LR pixel repeated: so alignment can be seen."""
    lrs = [picture(h, w, seed=n) for n, (h, w) in enumerate(sizes or SIZES)]
    return [PicturePair.of(lr.repeat(scale, axis=1).repeat(scale, axis=2), lr) for lr in lrs]


def sampler(scale: int = 2, *, seed: int = 1, candidates: int = 3, patch: int = 24) -> PatchSampler:
    return PatchSampler(
        pairs_of(scale), scale=scale, patch_hr_px=patch, candidates=candidates, seed=seed
    )


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([1, 2, 3, 4]), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 5)
)
def test_lr_and_hr_patches_show_the_same_place_turned_the_same_way(
    scale: int, seed: int, step: int, candidates: int
) -> None:
    lr, hr = sampler(scale, seed=seed, candidates=candidates).batch(step, 6)
    assert lr.shape == (6, 3, 24 // scale, 24 // scale)
    assert hr.shape == (6, 3, 24, 24)
    assert np.array_equal(lr.repeat(scale, axis=2).repeat(scale, axis=3), hr)


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    first, second = sampler(), sampler()
    for step in (5, 0, 3):
        first.batch(step, 4)
    np.random.default_rng().random()
    for one, other in zip(first.batch(7, 4), second.batch(7, 4), strict=True):
        assert np.array_equal(one, other)


def test_another_step_or_seed_gives_another_batch() -> None:
    batches = [sampler(seed=seed).batch(step, 4)[1].tobytes() for seed in (1, 2) for step in (0, 1)]
    assert len(set(batches)) == 4


def test_a_patch_occurs_in_all_eight_symmetries_of_the_square() -> None:
    lr = picture(6, 6, seed=0, channels=1)
    only = PatchSampler([PicturePair.of(lr, lr)], scale=1, patch_hr_px=6, candidates=1, seed=0)
    seen = {patch.tobytes() for patch in only.batch(0, 200)[0]}
    wanted = {
        np.rot90(flipped, turns, axes=(1, 2)).tobytes()
        for flipped in (lr, lr[:, :, ::-1])
        for turns in range(4)
    }
    assert seen == wanted
    assert len(wanted) == 8


def test_every_place_of_a_picture_can_be_drawn() -> None:
    lr = np.arange(5 * 6, dtype=np.uint8).reshape(1, 5, 6)
    places = PatchSampler([PicturePair.of(lr, lr)], scale=1, patch_hr_px=3, candidates=1, seed=0)
    centres = {int(patch[0, 1, 1]) for patch in places.batch(0, 400)[0]}
    assert centres == {int(v) for v in lr[0, 1:-1, 1:-1].ravel()}


def test_larger_pictures_are_drawn_more_often_and_too_small_ones_never() -> None:
    values = {(90, 90): 1, (30, 30): 2, (11, 90): 3}
    pairs = [
        PicturePair.of(np.full((1, 2 * h, 2 * w), v, np.uint8), np.full((1, h, w), v, np.uint8))
        for (h, w), v in values.items()
    ]
    lr, _ = PatchSampler(pairs, scale=2, patch_hr_px=24, candidates=1, seed=0).batch(0, 1000)
    share = np.bincount(lr[:, 0, 0, 0], minlength=4) / 1000
    assert share[3] == 0
    assert share[1] == pytest.approx(0.9, abs=0.04)


def test_of_several_candidates_the_most_textured_is_taken() -> None:
    lr = np.zeros((1, 64, 64), np.uint8)
    lr[:, :, 32:] = picture(64, 32, seed=0, channels=1)
    pair = [PicturePair.of(lr, lr)]

    def texture(candidates: int) -> float:
        made = PatchSampler(pair, scale=1, patch_hr_px=8, candidates=candidates, seed=0)
        patches = made.batch(0, 200)[0].astype(float)
        return float(np.abs(np.diff(patches, axis=3)).mean())

    assert texture(1) < 0.8 * texture(4)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_texture_is_the_sum_of_the_gradient_over_the_square(
    height: int, width: int, data: st.DataObject
) -> None:
    lr = picture(height, width, seed=height * 100 + width)
    grey = lr.mean(axis=0)
    size = np.zeros((height, width))
    size[1:] += np.abs(grey[1:] - grey[:-1])
    size[:, 1:] += np.abs(grey[:, 1:] - grey[:, :-1])
    side = data.draw(st.integers(1, min(height, width)))
    row = data.draw(st.integers(0, height - side))
    col = data.draw(st.integers(0, width - side))
    found = PicturePair.of(lr, lr).texture_of(row, col, side)
    assert found == pytest.approx(size[row : row + side, col : col + side].sum(), abs=1e-6)


def test_pictures_that_do_not_fit_are_refused_with_their_numbers() -> None:
    with pytest.raises(ValueError, match="patch is 25 px, expected a multiple of the scale 2"):
        sampler(patch=25)
    with pytest.raises(ValueError, match="none of 3 pictures holds a patch of 200 px"):
        sampler(patch=200)
    hr, lr = picture(40, 41, seed=0), picture(20, 20, seed=0)
    with pytest.raises(ValueError, match=r"HR is \(3, 40, 41\) beside LR \(3, 20, 20\)"):
        PatchSampler([PicturePair.of(hr, lr)], scale=2, patch_hr_px=8, candidates=1, seed=0)
