"""Extraction: patches lie inside their picture, where the recipe says, and are worth keeping."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.interpolation import resize
from pipeline.dataset.extract import (
    FLAT,
    Cut,
    Texture,
    cut,
    luma8,
    patches,
    perceptual_hashes,
    seed_of,
    whole,
)
from pipeline.errors import PictureError
from pipeline.pictures.codecs.lossy import recompress
from pipeline.recipes.preparing import PrepareRecipe
from tests.examples import examples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.conftest import TakePhoto

    Pixels = NDArray[np.uint8]

few = examples(60)


def recipe(**values: Any) -> PrepareRecipe:
    plain: dict[str, Any] = {"name": "n", "scale": 1, "extract": "random", "patch_hr_px": 8}
    return PrepareRecipe(**{**plain, **values})


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (channels, height, width), dtype=np.uint8)


def corners_of(found: Cut) -> list[tuple[int, int]]:
    return [(top, left) for top, left in found.corners.tolist()]


def inside(found: Cut, pixels: Pixels, px: tuple[int, int]) -> bool:
    height, width = pixels.shape[1:]
    return all(
        0 <= top <= height - px[0] and 0 <= left <= width - px[1] for top, left in corners_of(found)
    )


# --- random ------------------------------------------------------------------------------------


@few
@given(
    extra=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    px=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    count=st.integers(1, 40),
    candidates=st.integers(1, 3),
    corner=st.sampled_from(["anywhere", "inner-half"]),
    align=st.sampled_from([1, 2, 4]),
)
def test_drawn_patches_lie_inside_are_distinct_aligned_and_as_many_as_there_can_be(
    extra: tuple[int, int],
    px: tuple[int, int],
    count: int,
    candidates: int,
    corner: str,
    align: int,
) -> None:
    px = (px[0] * align, px[1] * align)
    pixels = noise(px[0] + extra[0], px[1] + extra[1])
    wanted = recipe(
        scale=align, patch_hr_px=list(px), count=count, candidates=candidates, corner=corner
    )
    found = cut(pixels, wanted, item="a", align=align)
    met = corners_of(found)
    assert inside(found, pixels, px)
    assert len(set(met)) == len(met)
    assert all(top % align == 0 and left % align == 0 for top, left in met)
    assert 1 <= len(met) <= count
    if corner == "anywhere":
        assert len(met) == min(count, math.prod(n // align + 1 for n in extra))
    assert found.left_out == Counter()


@few
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 60))
def test_a_corner_of_the_inner_half_is_there_or_as_near_as_the_patch_allows(
    height: int, width: int, px: int
) -> None:
    height, width = max(height, px), max(width, px)
    pixels = np.zeros((1, height, width), dtype=np.uint8)
    wanted = recipe(patch_hr_px=px, count=5, corner="inner-half", channels=1)
    for corner in corners_of(cut(pixels, wanted, item="a")):
        for at, length in zip(corner, (height, width), strict=True):
            last = length - px
            assert length // 4 <= at <= 3 * length // 4 or (at == last < length // 4)


def test_ten_corners_of_a_celebrity_face_lie_in_its_inner_half() -> None:
    pixels = noise(218, 178)
    found = cut(pixels, recipe(patch_hr_px=96, count=10, corner="inner-half"), item="000001.jpg")
    assert len(found) == 10
    assert all(54 <= top <= 122 and 44 <= left <= 82 for top, left in corners_of(found))


def test_every_place_is_drawn_where_all_are_wanted() -> None:
    found = cut(noise(10, 12), recipe(count=100), item="a")
    assert sorted(corners_of(found)) == [(top, left) for top in range(3) for left in range(5)]


def test_the_same_item_and_seed_give_the_same_patches_and_others_do_not() -> None:
    pixels, wanted = noise(100, 100), recipe(count=20)
    first = corners_of(cut(pixels, wanted, item="a"))
    assert first == corners_of(cut(pixels.copy(), wanted, item="a"))
    assert first == corners_of(cut(noise(100, 100, seed=5), wanted, item="a"))
    others = [
        corners_of(cut(pixels, wanted, item="b")),
        corners_of(cut(pixels, replace(wanted, seed=2), item="a")),
    ]
    assert all(len(set(first) & set(other)) < 5 for other in others)


def test_corners_are_spread_over_all_places() -> None:
    found = cut(noise(1007, 1007, channels=1), recipe(count=4000, channels=1), item="a")
    means = found.corners.mean(axis=0)
    assert np.all(np.abs(means - 499.5) < 30)
    assert np.all(found.corners.min(axis=0) < 5)
    assert np.all(found.corners.max(axis=0) > 994)


def test_of_candidates_the_most_textured_place_is_kept() -> None:
    pixels, wanted = noise(64, 64, channels=1), recipe(count=6, candidates=5, channels=1)
    pixels = (pixels * np.linspace(0, 1, 64)).astype(np.uint8)
    # With as many patches as places drawn, they come in the order in which they compete.
    drawn = corners_of(cut(pixels, replace(wanted, count=30, candidates=1), item="a"))
    best = []
    for n in range(6):
        group = [drawn[i] for i in range(n, 30, 6)]
        best.append(max(group, key=lambda corner: slow_gradient(pixels, corner, (8, 8))))
    assert corners_of(cut(pixels, wanted, item="a")) == best


def test_candidates_make_patches_more_textured(photo: TakePhoto) -> None:
    pixels = photo(400, 300)

    def texture(candidates: int) -> float:
        found = cut(pixels, recipe(patch_hr_px=32, count=32, candidates=candidates), item="a")
        return float(Texture.of(pixels, (32, 32)).gradient(found.corners).mean())

    assert texture(4) > 1.2 * texture(1)


def test_fewer_places_than_candidates_still_give_all_patches() -> None:
    found = cut(noise(9, 9), recipe(count=3, candidates=4), item="a")
    assert len(set(corners_of(found))) == 3
    found = cut(noise(8, 9), recipe(count=3, candidates=4), item="a")
    assert sorted(corners_of(found)) == [(0, 0), (0, 1)]


# --- grid --------------------------------------------------------------------------------------


@few
@given(
    st.tuples(st.integers(4, 40), st.integers(6, 40)),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_a_grid_has_every_patch_that_fits_row_by_row(
    size: tuple[int, int], stride: tuple[int, int]
) -> None:
    found = cut(
        noise(*size), recipe(extract="grid", patch_hr_px=[4, 6], stride_px=list(stride)), item="a"
    )
    down, right = stride[0] or 4, stride[1] or 6
    expected = [
        (top, left) for top in range(0, size[0] - 3, down) for left in range(0, size[1] - 5, right)
    ]
    assert corners_of(found) == expected


def test_a_grid_without_a_stride_covers_each_pixel_once() -> None:
    pixels = noise(16, 24)
    found = cut(pixels, recipe(extract="grid"), item="a")
    covered = np.zeros((16, 24), dtype=int)
    for top, left in corners_of(found):
        covered[top : top + 8, left : left + 8] += 1
    assert np.all(covered == 1)


# --- crops -------------------------------------------------------------------------------------


@few
@given(
    st.tuples(st.integers(0, 15), st.integers(0, 15)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([1, 2, 3, 4]),
)
def test_crops_tile_the_middle_exactly(
    extra: tuple[int, int], times: tuple[int, int], align: int
) -> None:
    px = (2 * align, 3 * align)
    crop = [px[0] * times[0], px[1] * times[1]]
    pixels = noise(crop[0] + extra[0], crop[1] + extra[1])
    wanted = recipe(scale=align, extract="crops", patch_hr_px=list(px), crop_px=crop)
    found = cut(pixels, wanted, item="a", align=align)
    covered = np.zeros(pixels.shape[1:], dtype=int)
    for top, left in corners_of(found):
        assert top % align == left % align == 0
        covered[top : top + px[0], left : left + px[1]] += 1
    assert inside(found, pixels, px)
    top, left = found.corners[0]
    assert np.all(covered[top : top + crop[0], left : left + crop[1]] == 1)
    assert covered.sum() == crop[0] * crop[1]
    for at, over in zip((top, left), extra, strict=True):
        assert over / 2 - align < at <= over / 2


def test_a_picture_of_div2k_is_cut_into_two_halves_of_its_middle() -> None:
    wanted = recipe(
        scale=4, extract="crops", patch_hr_px=[648, 556], crop_px=[648, 1112], channels=1
    )
    found = cut(np.zeros((1, 1356, 2040), dtype=np.uint8), wanted, item="0001.png", align=4)
    assert corners_of(found) == [(352, 464), (352, 1020)]


# --- whole -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fit", "part"), [("stretch", (40, 60)), ("crop", (40, 40))])
def test_a_whole_picture_is_resized_once(fit: str, part: tuple[int, int], photo: TakePhoto) -> None:
    pixels = photo(40, 60)
    made = whole(pixels, recipe(extract="whole", patch_hr_px=16, fit=fit))
    left = (60 - part[1]) // 2
    kept = torch.from_numpy(pixels[:, :, left : left + part[1]].astype(np.float64))
    exact = resize(kept, size=(16, 16), method="bicubic").numpy()
    assert made.shape == (3, 16, 16)
    np.testing.assert_array_equal(made, np.floor(np.clip(exact, 0, 255) + 0.5))


@few
@given(st.integers(0, 90), st.integers(0, 90), st.sampled_from(["stretch", "crop"]))
def test_a_whole_picture_of_any_shape_is_one_patch_at_the_corner(
    rows: int, cols: int, fit: str
) -> None:
    pixels = noise(4 + rows, 6 + cols)
    wanted = recipe(extract="whole", patch_hr_px=[4, 6], fit=fit)
    assert corners_of(cut(pixels, wanted, item="a")) == [(0, 0)]
    assert whole(pixels, wanted).shape == (3, 4, 6)


def test_a_crop_keeps_the_shape_of_what_it_shows() -> None:
    circle = np.hypot(*np.mgrid[-20:20, -50:50]) < 15
    pixels = np.repeat(circle[None] * np.uint8(255), 3, axis=0).astype(np.uint8)
    made = whole(pixels, recipe(extract="whole", patch_hr_px=20, fit="crop"))
    down, right = (made[0] > 127).any(axis=1).sum(), (made[0] > 127).any(axis=0).sum()
    assert abs(int(down) - int(right)) <= 1


def test_a_picture_of_the_patchs_own_size_is_left_as_it_is() -> None:
    pixels = noise(8, 8)
    np.testing.assert_array_equal(whole(pixels, recipe(extract="whole")), pixels)


def test_a_whole_picture_is_measured_as_the_patch_that_it_becomes() -> None:
    # Stripes of one pixel are texture in the picture, and grey in the patch.
    pixels = np.zeros((1, 64, 64), dtype=np.uint8)
    pixels[:, ::2] = 255
    wanted = recipe(extract="whole", least_variance=100, channels=1)
    found = cut(pixels, wanted, item="a")
    assert (len(found), found.left_out) == (0, Counter({FLAT: 1}))


# --- sizes -------------------------------------------------------------------------------------

WAYS: list[dict[str, Any]] = [
    {"extract": "random"},
    {"extract": "random", "corner": "inner-half", "candidates": 4},
    {"extract": "grid"},
    {"extract": "whole"},
    {"extract": "whole", "fit": "crop"},
    {"extract": "crops", "crop_px": [8, 8]},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(1, 1), (1, 100), (7, 8), (8, 7), (5000, 7)])
def test_a_picture_with_a_side_shorter_than_a_patch_is_refused(
    way: dict[str, Any], size: tuple[int, int]
) -> None:
    with pytest.raises(PictureError, match=f"{size[0]}x{size[1]} px, expected at least 8x8 px"):
        cut(noise(*size), recipe(**way), item="a")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(8, 8), (8, 4000), (4000, 9)])
def test_a_picture_just_as_large_as_a_patch_or_very_long_is_cut(
    way: dict[str, Any], size: tuple[int, int]
) -> None:
    pixels = noise(*size)
    found = cut(pixels, recipe(**way), item="a")
    assert len(found) >= 1
    assert inside(found, pixels, (8, 8))


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_of_one_pixel_gives_a_patch_of_one_pixel(way: dict[str, Any]) -> None:
    way = {**way, "patch_hr_px": 1} | ({"crop_px": [1, 1]} if "crop_px" in way else {})
    assert corners_of(cut(noise(1, 1), recipe(**way), item="a")) == [(0, 0)]


def test_a_crop_larger_than_the_picture_is_refused_with_the_crops_size() -> None:
    with pytest.raises(PictureError, match="20x20 px, expected at least 16x24 px"):
        cut(noise(20, 20), recipe(extract="crops", crop_px=[16, 24]), item="a")


def test_patches_are_the_pixels_at_their_corners() -> None:
    pixels, corners = noise(20, 30), np.array([[0, 0], [3, 7], [12, 24], [3, 7]])
    cuts = patches(pixels, corners, (8, 6))
    assert cuts.shape == (4, 3, 8, 6)
    for patch, (top, left) in zip(cuts, corners, strict=True):
        np.testing.assert_array_equal(patch, pixels[:, top : top + 8, left : left + 6])
    assert patches(pixels, np.empty((0, 2), dtype=np.int64), (8, 6)).shape == (0, 3, 8, 6)


# --- texture -----------------------------------------------------------------------------------


def slow_gradient(pixels: Pixels, corner: tuple[int, int], px: tuple[int, int]) -> float:
    grey = luma8(pixels).astype(int)
    total = 0
    for row in range(corner[0], corner[0] + px[0]):
        for col in range(corner[1], corner[1] + px[1]):
            total += abs(grey[row, col] - grey[row - 1, col]) if row else 0
            total += abs(grey[row, col] - grey[row, col - 1]) if col else 0
    return total / (px[0] * px[1])


@few
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.sampled_from([1, 3]),
    st.integers(0, 9),
)
def test_variance_and_gradient_are_those_of_a_loop(
    px: tuple[int, int], corner: tuple[int, int], channels: int, seed: int
) -> None:
    pixels = noise(px[0] + 5, px[1] + 5, channels, seed)
    texture = Texture.of(pixels, px)
    corners = np.array([corner])
    (patch,) = patches(pixels, corners, px)
    grey = luma8(patch).astype(np.float64)
    np.testing.assert_allclose(texture.variance(corners), [grey.var()], rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(texture.gradient(corners), [slow_gradient(pixels, corner, px)])


def test_the_variance_of_a_huge_patch_does_not_overflow() -> None:
    side = 3600

    def integral(total: int) -> NDArray[np.int64]:
        """Return zeros but for the last corner, without the memory that they would take."""
        values = np.zeros(2 * side + 1, dtype=np.int64)
        values[-1] = total
        return np.lib.stride_tricks.as_strided(values, (side + 1, side + 1), (8, 8))

    white = side * side // 2
    texture = Texture((side, side), integral(255 * white), integral(255**2 * white), integral(0))
    assert texture.variance(np.zeros((1, 2), dtype=np.int64)) == [127.5**2]


@few
@given(st.integers(0, 255), st.integers(1, 30))
def test_a_constant_patch_has_no_texture_at_all(level: int, side: int) -> None:
    pixels = np.full((3, side, side), level, dtype=np.uint8)
    texture = Texture.of(pixels, (side, side))
    corner = np.zeros((1, 2), dtype=np.int64)
    assert texture.variance(corner) == texture.gradient(corner) == [0.0]


@pytest.mark.parametrize("threshold", ["least_variance", "least_gradient"])
def test_flat_patches_are_left_out_and_counted(threshold: str) -> None:
    pixels = noise(16, 32)
    pixels[:, :, :17] = 77
    found = cut(pixels, recipe(extract="grid", **{threshold: 1e-6}), item="a")
    assert corners_of(found) == [(top, left) for top in (0, 8) for left in (16, 24)]
    assert found.left_out == Counter({FLAT: 4})


@pytest.mark.parametrize("threshold", ["least_variance", "least_gradient"])
def test_a_patch_at_the_threshold_is_kept_and_one_below_is_not(threshold: str) -> None:
    pixels = noise(8, 8)
    texture = Texture.of(pixels, (8, 8))
    corner = np.zeros((1, 2), dtype=np.int64)
    at = texture.variance(corner) if threshold == "least_variance" else texture.gradient(corner)
    assert len(cut(pixels, recipe(**{threshold: float(at[0])}), item="a")) == 1
    assert len(cut(pixels, recipe(**{threshold: float(at[0]) + 1e-6}), item="a")) == 0


def test_a_flat_picture_gives_no_patches_and_no_hashes() -> None:
    pixels = np.full((3, 64, 64), 9, dtype=np.uint8)
    wanted = recipe(patch_hr_px=16, count=7, least_variance=1.0, duplicate_bits=2)
    found = cut(pixels, wanted, item="a")
    assert (len(found), found.hashes.shape, found.corners.shape) == (0, (0,), (0, 2))
    assert found.left_out == Counter({FLAT: 7})


def test_luma_is_that_of_bt_601_and_grey_is_left_alone() -> None:
    pixels = noise(9, 9)
    exact = 0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    assert np.abs(luma8(pixels) - exact).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(luma8(pixels[:1]), pixels[0])
    equal = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, axis=0)
    np.testing.assert_array_equal(luma8(equal), equal[0])


# --- hashes ------------------------------------------------------------------------------------


def bits_between(one: Any, other: Any) -> int:
    return (int(one) ^ int(other)).bit_count()


def slow_hash(patch: Pixels) -> int:
    grey, (rows, cols) = luma8(patch), patch.shape[1:]
    bits = ""
    for r in range(8):
        band = grey[rows * r // 8 : rows * (r + 1) // 8]
        means = [
            (int(part.sum()), part.size)
            for part in (band[:, cols * c // 9 : cols * (c + 1) // 9] for c in range(9))
        ]
        for (left, n), (right, m) in pairwise(means):
            bits += "1" if left * m > right * n else "0"
    return int(bits, 2)


@few
@given(
    st.tuples(st.integers(8, 40), st.integers(9, 40)),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.sampled_from([1, 3]),
    st.integers(0, 9),
)
def test_a_hash_is_that_of_a_loop_over_its_blocks(
    px: tuple[int, int], corner: tuple[int, int], channels: int, seed: int
) -> None:
    pixels = noise(px[0] + 5, px[1] + 5, channels, seed)
    corners = np.array([corner, (0, 0)])
    expected = [slow_hash(patch) for patch in patches(pixels, corners, px)]
    found = perceptual_hashes(pixels, corners, px)
    assert found.dtype == np.uint64
    assert found.tolist() == expected


def grid_hashes(pixels: Pixels) -> NDArray[np.uint64]:
    found = cut(pixels, recipe(extract="grid", patch_hr_px=64, duplicate_bits=0), item="a")
    assert len(found.hashes) == len(found)
    return found.hashes


@pytest.mark.parametrize("quality", [90, 50])
def test_hashes_of_a_re_encoded_picture_are_near_and_those_of_other_places_far(
    photo: TakePhoto, quality: int
) -> None:
    pixels = photo(320, 320)
    before = grid_hashes(pixels)
    after = grid_hashes(recompress(pixels, format="jpeg", quality=quality))
    near = [bits_between(a, b) for a, b in zip(before, after, strict=True)]
    far = [bits_between(a, b) for i, a in enumerate(before) for b in after[i + 1 :]]
    assert np.median(near) <= 2
    assert np.mean(near) < 4
    assert np.median(far) > 20


def test_equal_patches_hash_equal_wherever_they_lie() -> None:
    tile = noise(16, 16)
    pixels = np.tile(tile, (1, 3, 4))
    found = cut(pixels, recipe(extract="grid", patch_hr_px=16, duplicate_bits=0), item="a")
    assert len(found) == 12
    assert len(set(found.hashes.tolist())) == 1


def grid16(pixels: Pixels) -> list[int]:
    corners = np.array([[0, 0], [16, 16]])
    return perceptual_hashes(pixels, corners, (16, 16)).tolist()


def test_a_hash_does_not_change_with_brightness() -> None:
    pixels = noise(32, 32) // 2
    assert grid16(pixels) == grid16(pixels + 100)


def test_constant_patches_hash_equal() -> None:
    pixels = np.zeros((3, 16, 32), dtype=np.uint8)
    pixels[:, :, 16:] = 255
    corners = np.array([[0, 0], [0, 16]])
    assert perceptual_hashes(pixels, corners, (16, 16)).tolist() == [0, 0]


def test_without_a_wish_for_duplicates_nothing_is_hashed() -> None:
    assert cut(noise(64, 64), recipe(), item="a").hashes.shape == (0,)


@few
@given(st.lists(st.booleans(), min_size=9, max_size=9), st.booleans())
def test_what_is_kept_of_a_cut_are_those_patches_with_their_hashes(
    which: list[bool], hashed: bool
) -> None:
    bits = 0 if hashed else -1
    pixels = noise(48, 48)
    pixels[:, :16, :16] = 0
    wanted = recipe(extract="grid", patch_hr_px=[12, 16], duplicate_bits=bits, least_variance=1)
    found = cut(pixels, wanted, item="a")
    mask = np.array([*which, True, True])
    kept = found.kept(mask)
    assert corners_of(kept) == [c for c, keep in zip(corners_of(found), mask, strict=True) if keep]
    assert kept.left_out == found.left_out == Counter({FLAT: 1})
    assert kept.left_out is not found.left_out
    assert kept.hashes.tolist() == (found.hashes[mask].tolist() if hashed else [])


# --- seeds -------------------------------------------------------------------------------------


def test_a_seed_depends_on_every_part_and_on_where_they_part() -> None:
    seeds = {
        seed_of(1, "a", 23),
        seed_of(12, "a", 3),
        seed_of(1, "a", 2, 3),
        seed_of(1, "b", 23),
        seed_of(1, "a2", 3),
        seed_of("a", 1, 23),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_every_process_and_version() -> None:
    assert seed_of(1, "corners", "a/ä.png") == 6965677695549207129
