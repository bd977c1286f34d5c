"""Likeness: degraded pairs pass; other, turned and shifted pictures do not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.dataset.likeness import check_alike
from pipeline.degradation.apply import degrade_patches
from pipeline.degradation.chain import Degradation
from pipeline.errors import PictureError
from pipeline.pictures.codecs.lossy import recompress

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.conftest import TakePhoto

    Pixels = NDArray[np.uint8]

SCALE = 4


def reduced(hr: Pixels) -> Pixels:
    bicubic = Degradation.from_table({"name": "bicubic"}, scale=SCALE)
    return degrade_patches(hr[None], [1], bicubic, scale=SCALE)[0]


def clipped(values: Any) -> Pixels:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def noisy(lr: Pixels) -> Pixels:
    return clipped(lr + np.random.default_rng(0).normal(0, 50, lr.shape))


def blurred(lr: Pixels) -> Pixels:
    steps = [{"op": "blur", "kind": "gaussian", "sigma": 2.0, "size": 13}, {"op": "resize"}]
    chain = Degradation.from_table({"name": "b", "steps": steps}, scale=1)
    return degrade_patches(lr[None], [1], chain, scale=1)[0]


DEGRADED: dict[str, Callable[[Pixels], Pixels]] = {
    "as it is": lambda lr: lr,
    "noise of sigma 50": noisy,
    "blurred": blurred,
    "jpeg of quality 10": lambda lr: recompress(lr, format="jpeg", quality=10),
    "darker": lambda lr: clipped(lr * 0.6),
    "brighter, with less contrast": lambda lr: clipped(lr * 0.5 + 100),
    "overexposed": lambda lr: clipped(lr * 1.4 + 20.0),
    "another gamma": lambda lr: clipped(255 * (lr / 255) ** 2.2),
    "all at once": lambda lr: recompress(noisy(blurred(lr)), format="jpeg", quality=20),
}
WRONG: dict[str, tuple[str, Callable[[Pixels], Pixels]]] = {
    "180": ("turned by 180 degrees", lambda hr: hr[:, ::-1, ::-1]),
    "90": ("turned by 90 degrees", lambda hr: np.rot90(hr, 1, (1, 2))),
    "270": ("turned by 270 degrees", lambda hr: np.rot90(hr, -1, (1, 2))),
    "left-right": ("mirrored left to right", lambda hr: hr[:, :, ::-1]),
    "top-bottom": ("mirrored top to bottom", lambda hr: hr[:, ::-1]),
}


@pytest.mark.parametrize("kind", DEGRADED)
@pytest.mark.parametrize("at", [0, 150])
def test_a_degraded_picture_is_still_its_own(photo: TakePhoto, kind: str, at: int) -> None:
    hr = photo(320, 360, at=at)
    check_alike(hr, DEGRADED[kind](reduced(hr)), scale=SCALE, name="lr.png")


@pytest.mark.parametrize("kind", ["as it is", "noise of sigma 50", "jpeg of quality 10", "darker"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_turned_picture_is_told(photo: TakePhoto, kind: str, wrong: str) -> None:
    hr = photo(320, 320)
    words, turn = WRONG[wrong]
    lr = DEGRADED[kind](reduced(np.ascontiguousarray(turn(hr))))
    with pytest.raises(PictureError, match=f"lr.png looks {words}: it differs .* levels rms"):
        check_alike(hr, lr, scale=SCALE, name="lr.png")


@pytest.mark.parametrize("kind", ["as it is", "blurred", "jpeg of quality 10", "another gamma"])
@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -1), (3, 2), (-10, 6)])
def test_a_shifted_picture_is_told_with_its_shift(
    photo: TakePhoto, kind: str, down: int, right: int
) -> None:
    whole = photo(400, 400)
    hr = whole[:, 40:360, 40:360]
    top, left = 40 - SCALE * down, 40 - SCALE * right
    lr = DEGRADED[kind](reduced(whole[:, top : top + 320, left : left + 320]))
    words = re.escape(f"shifted by {down} rows and {right} columns of LR pixels")
    with pytest.raises(PictureError, match=words):
        check_alike(hr, lr, scale=SCALE, name="lr.png")


@pytest.mark.parametrize("kind", DEGRADED)
def test_another_picture_is_told(photo: TakePhoto, kind: str) -> None:
    hr, other = photo(240, 240), photo(240, 240, at=270)
    with pytest.raises(PictureError, match="looks like another picture"):
        check_alike(hr, DEGRADED[kind](reduced(other)), scale=SCALE, name="lr.png")


def test_blank_and_negative_pictures_are_told(photo: TakePhoto) -> None:
    hr = photo(240, 240)
    lr = reduced(hr)
    for wrong in (np.zeros_like(lr), np.full_like(lr, 255), 255 - lr):
        with pytest.raises(PictureError, match="looks like another picture"):
            check_alike(hr, wrong, scale=SCALE, name="lr.png")


def test_what_has_no_texture_or_next_to_no_pixels_is_taken(photo: TakePhoto) -> None:
    flat = np.full((3, 64, 64), 90, dtype=np.uint8)
    check_alike(flat, noisy(reduced(flat)), scale=SCALE, name="lr.png")
    small = photo(16, 64)
    check_alike(small, reduced(small)[:, ::-1], scale=SCALE, name="lr.png")


@pytest.mark.parametrize("step", [1, 2, 3])
def test_resizers_that_sample_elsewhere_are_no_shift(photo: TakePhoto, step: int) -> None:
    hr = photo(320, 360)
    check_alike(hr, hr[:, step::4, step::4], scale=SCALE, name="lr.png")
