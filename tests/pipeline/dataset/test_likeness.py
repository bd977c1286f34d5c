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
from tests.examples import pairs

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


def cast(lr: Pixels, *gains: float) -> Pixels:
    return clipped(lr * np.reshape(gains, (3, 1, 1)))


def saturated(lr: Pixels, factor: float) -> Pixels:
    grey = np.tensordot([0.299, 0.587, 0.114], lr.astype(float), axes=1)
    return clipped(grey + factor * (lr - grey))


def turned_hues(lr: Pixels, degrees: float) -> Pixels:
    """Turn colours around the axis of greys."""
    angle, axis = np.deg2rad(degrees), np.ones((3, 3)) / 3
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * axis
    return clipped(np.tensordot(turn, lr.astype(float), axes=1))


DEGRADED: dict[str, Callable[[Pixels], Pixels]] = {
    "as it is": lambda lr: lr,
    "noise of sigma 50": noisy,
    "blurred": blurred,
    "jpeg of quality 10": lambda lr: recompress(lr, format="jpeg", quality=10),
    "darker": lambda lr: clipped(lr * 0.6),
    "brighter, with less contrast": lambda lr: clipped(lr * 0.5 + 100),
    "overexposed": lambda lr: clipped(lr * 1.4 + 20.0),
    "warmer": lambda lr: cast(lr, 1.2, 1.0, 0.8),
    "colder, in linear light": lambda lr: clipped(255 * (cast(lr, 0.8, 1.0, 1.2) / 255) ** 2.2),
    "greener": lambda lr: cast(lr, 0.8, 1.2, 0.8),
    "less saturated": lambda lr: saturated(lr, 0.7),
    "more saturated": lambda lr: saturated(lr, 1.3),
    "grey": lambda lr: saturated(lr, 0.0),
    "of other hues": lambda lr: turned_hues(lr, 30),
    "of other hues, the other way": lambda lr: turned_hues(lr, -30),
    "another gamma": lambda lr: clipped(255 * (lr / 255) ** 2.2),
    "all at once, with a cast": lambda lr: recompress(
        noisy(cast(blurred(lr), 1.2, 1.0, 0.8)), format="jpeg", quality=10
    ),
    "all at once": lambda lr: recompress(noisy(blurred(lr)), format="jpeg", quality=20),
}
WRONG: dict[str, tuple[str, Callable[[Pixels], Pixels]]] = {
    "180": ("turned by 180 degrees", lambda hr: hr[:, ::-1, ::-1]),
    "90": ("turned by 90 degrees", lambda hr: np.rot90(hr, 1, (1, 2))),
    "270": ("turned by 270 degrees", lambda hr: np.rot90(hr, -1, (1, 2))),
    "left-right": ("mirrored left to right", lambda hr: hr[:, :, ::-1]),
    "top-bottom": ("mirrored top to bottom", lambda hr: hr[:, ::-1]),
}


@pytest.mark.parametrize(("kind", "at"), pairs(DEGRADED, [0, 150]))
def test_a_degraded_picture_is_still_its_own(photo: TakePhoto, kind: str, at: int) -> None:
    hr = photo(320, 360, at=at)
    check_alike(hr, DEGRADED[kind](reduced(hr)), scale=SCALE, name="lr.png")


@pytest.mark.parametrize(
    ("kind", "wrong"),
    pairs(["as it is", "noise of sigma 50", "jpeg of quality 10", "darker"], WRONG),
)
def test_a_turned_picture_is_told(photo: TakePhoto, kind: str, wrong: str) -> None:
    hr = photo(320, 320)
    words, turn = WRONG[wrong]
    lr = DEGRADED[kind](reduced(np.ascontiguousarray(turn(hr))))
    with pytest.raises(PictureError, match=f"lr.png looks {words}: it differs .* levels rms"):
        check_alike(hr, lr, scale=SCALE, name="lr.png")


@pytest.mark.parametrize(
    ("kind", "shift"),
    pairs(
        ["as it is", "blurred", "jpeg of quality 10", "another gamma"],
        [(1, 0), (0, -1), (3, 2), (-10, 6)],
    ),
)
def test_a_shifted_picture_is_told_with_its_shift(
    photo: TakePhoto, kind: str, shift: tuple[int, int]
) -> None:
    down, right = shift
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


def test_a_blank_picture_is_another_one(photo: TakePhoto) -> None:
    hr = photo(240, 240)
    lr = reduced(hr)
    for wrong in (np.zeros_like(lr), np.full_like(lr, 255)):
        with pytest.raises(PictureError, match="looks like another picture"):
            check_alike(hr, wrong, scale=SCALE, name="lr.png")


@pytest.mark.parametrize(("kind", "channels"), pairs(DEGRADED, [1, 3]))
def test_a_negative_is_told(photo: TakePhoto, kind: str, channels: int) -> None:
    hr = photo(320, 320)
    lr = 255 - DEGRADED[kind](reduced(hr))
    hr, lr = hr[:channels], lr[:channels]
    with pytest.raises(PictureError, match=r"lr\.png looks inverted: it differs"):
        check_alike(hr, lr, scale=SCALE, name="lr.png")


def test_a_calm_negative_is_told() -> None:
    rows = np.linspace(30, 220, 256)
    sky = np.broadcast_to(rows[:, None], (1, 256, 256)).round().astype(np.uint8)
    check_alike(sky, noisy(reduced(sky)), scale=SCALE, name="lr.png")
    with pytest.raises(PictureError, match="looks inverted"):
        check_alike(sky, 255 - reduced(sky), scale=SCALE, name="lr.png")


# --- the order of channels ---------------------------------------------------------------------


ORDERS = {
    (2, 1, 0): "like its red and blue channels are swapped",
    (1, 0, 2): "like its red and green channels are swapped",
    (0, 2, 1): "like its green and blue channels are swapped",
    (1, 2, 0): "like its channels are in the order green, blue, red",
    (2, 0, 1): "like its channels are in the order blue, red, green",
}


def chart(side: int) -> Pixels:
    """Return patches of many hues, textured as real things are."""
    rng = np.random.default_rng(7)
    patches = rng.integers(40, 216, (3, 8, 8)).repeat(side // 8, axis=1).repeat(side // 8, axis=2)
    fine = rng.normal(0, 12, (side // 4, side // 4)).repeat(4, axis=0).repeat(4, axis=1)
    return clipped(patches + fine)


# Without hues, or with hues that were turned too, nobody could name the order.
@pytest.mark.parametrize(
    ("kind", "order"),
    pairs([k for k in DEGRADED if k != "grey" and "hues" not in k], ORDERS),
)
def test_channels_in_another_order_are_told(kind: str, order: tuple[int, ...]) -> None:
    hr = chart(256)
    lr = DEGRADED[kind](reduced(hr))
    check_alike(hr, lr, scale=SCALE, name="lr.png")
    words = f"lr.png looks {ORDERS[order]}: it differs from .* levels rms"
    with pytest.raises(PictureError, match=words):
        check_alike(hr, lr[list(order)], scale=SCALE, name="lr.png")


@pytest.mark.parametrize("kind", ["as it is", "noise of sigma 50", "jpeg of quality 10", "warmer"])
def test_swapped_channels_of_a_photograph_are_told(photo: TakePhoto, kind: str) -> None:
    hr = photo(400, 400)
    with pytest.raises(PictureError, match=r"looks like its red and blue channels are swapped"):
        check_alike(hr, DEGRADED[kind](reduced(hr))[::-1], scale=SCALE, name="lr.png")


def test_the_figure_of_swapped_channels_is_that_of_all_channels() -> None:
    hr = chart(256)
    lr = hr[:, ::SCALE, ::SCALE][::-1]
    squares = [(hr[c, ::SCALE, ::SCALE].astype(float) - lr[c]) ** 2 for c in range(3)]
    figure = f"by {np.sqrt(np.mean(squares)):.1f} levels rms"
    with pytest.raises(PictureError, match=figure):
        check_alike(hr, lr, scale=SCALE, name="lr.png")


def test_inverted_hues_are_told() -> None:
    hr = chart(256)
    lr = reduced(hr).astype(float)
    grey = np.tensordot([0.299, 0.587, 0.114], lr, axes=1)
    with pytest.raises(PictureError, match="looks like its hues are inverted"):
        check_alike(hr, clipped(2 * grey - lr), scale=SCALE, name="lr.png")


def test_a_turned_picture_of_swapped_channels_is_turned(photo: TakePhoto) -> None:
    hr = photo(320, 320)
    with pytest.raises(PictureError, match="looks mirrored left to right"):
        check_alike(hr, reduced(hr)[::-1, :, ::-1], scale=SCALE, name="lr.png")


def test_an_order_that_hardly_shows_is_taken(photo: TakePhoto) -> None:
    faint = saturated(photo(320, 320), 0.02)
    check_alike(faint, reduced(faint)[::-1], scale=SCALE, name="lr.png")
    grey = np.repeat(photo(320, 320, channels=1), 3, axis=0)
    check_alike(grey, reduced(photo(320, 320)), scale=SCALE, name="lr.png")


def test_what_has_no_texture_or_next_to_no_pixels_is_taken(photo: TakePhoto) -> None:
    flat = np.full((3, 64, 64), 90, dtype=np.uint8)
    check_alike(flat, noisy(reduced(flat)), scale=SCALE, name="lr.png")
    small = photo(16, 64)
    check_alike(small, reduced(small)[:, ::-1], scale=SCALE, name="lr.png")


@pytest.mark.parametrize("step", [1, 2, 3])
def test_resizers_that_sample_elsewhere_are_no_shift(photo: TakePhoto, step: int) -> None:
    hr = photo(320, 360)
    check_alike(hr, hr[:, step::4, step::4], scale=SCALE, name="lr.png")
