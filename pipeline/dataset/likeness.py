"""Whether an LR picture shows what its HR picture shows, at the same place.

Names pair files, and names can be wrong: another picture, one turned by its EXIF on one side alone,
one that was cut elsewhere, a negative, one stored blue first. Here belongs looking at the pixels. A
degradation is no reason to refuse a pair: noise, blur, compression, another tone curve, a cast and
lost colours are what a network is to learn.

The thresholds were measured on photographs and faces, LR of 23x28 px and more, each degraded by
noise of sigma 50, blur of sigma 2, JPEG at quality 10, gamma 2.2, and by several of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.dataset.channel_order import INVERTED, luma_reordered, misordered
from pipeline.dataset.extract import luma8
from pipeline.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Plane = NDArray[np.float64]

_MOST_PX = 512
"""Side of the window, in LR pixels, that is compared; a shift shows in any textured part."""
_LEAST_PX = 5
"""Pictures with a shorter side hold too little to compare."""

_APART_PX = 0.85
"""Resizers that sample at other places shift by up to half an LR pixel, which is not a fault."""
_CLEAR = 40.0
"""Logarithm of how much likelier another place must be; good pairs stay below where it matters."""
_ALIKE = 0.2
"""Correlation of fine texture below which a better place is only noise; of few pixels, more."""
_HIDDEN = 0.5
"""Correlation of fine texture below which noise hides where it is, unless it is half as large."""
_TEXTURE_LEVELS = 1.0
"""Standard deviation of fine texture below which a picture has no place: blocks of a JPEG have."""

_STRANGE_LEVELS, _STRANGE_SHARE, _STRANGE_RATIO = 15.0, 0.93, 1.5
"""Another picture leaves more than 15 levels that HR does not explain in means of 4x4 px; a
correlation above 0.93 is that of one picture in another tone. The ratio of what is left in means to
what is left of pixels, times 4, is 1 of white noise, and nearly 4 of a picture."""
_COARSE_LEVELS, _COARSE_SHARE, _COARSE_RATIO = 8.0, 0.85, 2.3
"""Of calm pictures, the same."""
_LOST_LEVELS, _LOST_SHARE = 20.0, 0.4
"""Structure of HR, in levels, of which nothing is found in LR: that is blank, or another one."""

_ANOTHER, _NEGATIVE = "like another picture", "inverted"
_WHITEST, _INVERTED = 255.0, -0.5
"""Correlation of brightness below which another picture may be a negative of this one."""
_BLACK, _WHITE, _LEAST_TOLD = 4.0, 251.0, 0.2

_TURNS: dict[str, Callable[[Plane], Plane]] = {
    "turned by 180 degrees": lambda x: x[::-1, ::-1],
    "mirrored left to right": lambda x: x[:, ::-1],
    "mirrored top to bottom": lambda x: x[::-1],
    "turned by 90 degrees": lambda x: x.T[::-1],
    "turned by 270 degrees": lambda x: x.T[:, ::-1],
    "mirrored along a diagonal": lambda x: x.T,
    "mirrored along the other diagonal": lambda x: x.T[::-1, ::-1],
}


def check_alike(hr: Pixels, lr: Pixels, *, scale: int, name: str) -> None:
    """Make sure that LR ``(c, h, w)`` shows what HR ``(c, h * scale, w * scale)`` shows.

    Raises:
        PictureError: if it is clearly another picture, or turned, mirrored or shifted by an LR
            pixel or more, or a negative, or has its channels in another order; the message says
            which, with the difference from the reduced HR picture.
    """
    if min(lr.shape[1:]) < _LEAST_PX:
        return
    fault = _fault(hr, lr, scale=scale)
    if fault is not None:
        rms = _rms(hr, lr, scale=scale)
        raise PictureError(
            f"{name} looks {fault}: it differs from the reduced HR picture by {rms:.1f} levels "
            "rms, expected the same picture at the same place and in the same colours; fix the "
            "pair, or accept it with --unchecked"
        )


def _fault(hr: Pixels, lr: Pixels, *, scale: int) -> str | None:
    """Return what LR looks like, None if it looks like its HR picture.

    Of causes that all explain a difference, the one is named without which nothing is wrong.
    """
    whole, other = _reduced(luma8(hr), scale), luma8(lr).astype(np.float64)
    fault, order = _misplaced(whole, other), misordered(hr, lr, scale=scale)
    if fault == _ANOTHER and order is None and _is_recoloured(hr, other, scale=scale):
        return None
    if order is None:
        return fault
    if fault is None:
        is_negative = order == INVERTED and _correlation(whole, other) < 0
        return _NEGATIVE if is_negative else order
    return fault if _misplaced(whole, luma_reordered(lr, order)) else order


def _misplaced(whole: Plane, other: Plane) -> str | None:
    """Return what a picture's luma looks like, None if it looks like the reduced HR picture's."""
    fault = _elsewhere(whole, other)
    hr, lr = _textured(whole, other)
    if fault is not None or not _is_strange(hr, lr):
        return fault
    inverted = _correlation(hr, lr) < _INVERTED and not _is_strange(hr, _WHITEST - lr)
    return _NEGATIVE if inverted else _ANOTHER


def _is_recoloured(hr: Pixels, lr: Plane, *, scale: int) -> bool:
    """Return whether luma of LR is explained by the channels of HR, though not by its luma.

    Other hues of saturated colours do that.
    """
    if len(hr) != 3:
        return False
    planes = [_reduced(plane, scale) for plane in (*hr, hr.max(0), hr.min(0))]
    planes = [np.ones_like(lr), *planes, *(plane * plane / 255 for plane in planes)]
    px = min(4, max(1, min(lr.shape) // 5))
    coarse = np.stack([_means(plane, px).ravel() for plane in planes], axis=1)
    wanted = _means(lr, px)
    weights = np.linalg.lstsq(coarse.T @ coarse, coarse.T @ wanted.ravel(), rcond=None)[0]
    guess = np.asarray(np.tensordot(weights, np.stack(planes), axes=1))
    share = _correlation(_means(guess, px), wanted)
    return share > _COARSE_SHARE and not _is_strange(*_textured(guess, lr))


def _rms(hr: Pixels, lr: Pixels, *, scale: int) -> float:
    """Return the difference of LR from reduced HR, over all pixels and channels."""
    squares = [
        float(np.mean((_reduced(whole, scale) - other) ** 2))
        for whole, other in zip(hr, lr, strict=True)
    ]
    return float(np.sqrt(np.mean(squares)))


def _reduced(plane: NDArray[Any], scale: int) -> Plane:
    """Return means of ``scale x scale`` pixels."""
    rows, cols = (side // scale for side in plane.shape)
    blocks = plane[: rows * scale, : cols * scale].reshape(rows, scale, cols, scale)
    return np.asarray(blocks.mean((1, 3), dtype=np.float64))


def _textured(hr: Plane, lr: Plane) -> tuple[Plane, Plane]:
    """Return the window of both that holds the most texture of HR, of 3x3 that are looked at."""
    rows, cols = (min(side, _MOST_PX) for side in hr.shape)
    if (rows, cols) == hr.shape:
        return hr, lr
    tops, lefts = (
        sorted({0, (side - n) // 2, side - n})
        for side, n in zip(hr.shape, (rows, cols), strict=True)
    )
    windows = [np.s_[top : top + rows, left : left + cols] for top in tops for left in lefts]
    best = max(windows, key=lambda window: float(np.abs(np.diff(hr[window], axis=1)).mean()))
    return hr[best], lr[best]


def _elsewhere(hr: Plane, lr: Plane) -> str | None:
    """Return how LR is turned or shifted, where that fits clearly better than as it is."""
    a, b = _fine(*_textured(hr, lr))
    if min(float(a.std()), float(b.std())) < _TEXTURE_LEVELS:
        return None
    found = [_shift(a, b)]
    for words, turn in _TURNS.items():
        if turn(hr).shape == lr.shape:
            found.append((_correlation(*_fine(*_textured(turn(hr), lr))), words))
    found.append((-_correlation(a, b), _NEGATIVE))
    best, words = max(found)
    return words if _is_clear(best, _correlation(a, b), a.size) else None


def _shift(a: Plane, b: Plane) -> tuple[float, str]:
    """Return how well and where texture fits best, if that is an LR pixel or more away."""
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    found = np.fft.irfft2(np.conj(np.fft.rfft2(a)) * np.fft.rfft2(b), s=a.shape) / norm
    row, col = (int(at) for at in np.unravel_index(int(np.argmax(found)), found.shape))
    apart = list(_distances(found, (row, col)))
    if float(np.linalg.norm(apart)) < _APART_PX:
        return 0.0, ""
    down, right = (round(d) for d in apart)
    return float(found[row, col]), f"shifted by {down} rows and {right} columns of LR pixels"


def _distances(found: Plane, peak: tuple[int, int]) -> Iterator[float]:
    """Yield rows and columns from the origin to a peak: the top of the parabola through it."""
    for axis, at in enumerate(peak):
        line, side = np.take(found, peak[1 - axis], axis=1 - axis), found.shape[axis]
        before, top, after = (float(line[(at + n) % side]) for n in (-1, 0, 1))
        bend = before - 2 * top + after
        yield (at if at <= side // 2 else at - side) + (
            (before - after) / (2 * bend) if bend < 0 else 0.0
        )


def _is_clear(better: float, worse: float, pixels: int) -> bool:
    """Return whether one correlation of so many pixels differs from another by more than chance."""
    unexplained = [1 - max(r, 0.0) ** 2 + 1e-6 for r in (worse, better)]
    evidence = pixels * float(np.log(unexplained[0] / unexplained[1]))
    hidden = better < _HIDDEN and worse > better / 2
    return better > _ALIKE + 4 / pixels**0.5 and evidence > _CLEAR and not hidden


def _is_strange(hr: Plane, lr: Plane) -> bool:
    """Return whether LR holds structure that HR does not explain, or nothing of HR's."""
    px = min(4, max(1, min(lr.shape) // 5))
    coarse = _means(lr, px)
    # What is over- or underexposed says nothing, unless nearly all is.
    told = (coarse > _BLACK) & (coarse < _WHITE)
    told = told if told.mean() > _LEAST_TOLD else np.ones_like(told)
    fits = [_explained(_means(_blurred(hr, by), px)[told], coarse[told]) for by in (1, 5, 9)]
    best = min(fits, key=lambda fit: fit.left)
    fine = _explained(hr, lr)
    ratio = best.left * px / max(fine.left, 1e-9)
    share = best.share if fits[0].correlation > 0 else 0.0
    contrast = float(_means(hr, px).std())
    lost = contrast * float(np.sqrt(max(0.0, 1 - max(0.0, fits[0].correlation) ** 2)))
    return (
        (best.left > _STRANGE_LEVELS and share < _STRANGE_SHARE and ratio > _STRANGE_RATIO)
        or (best.left > _COARSE_LEVELS and share < _COARSE_SHARE and ratio > _COARSE_RATIO)
        or (lost > _LOST_LEVELS and fits[0].correlation < _LOST_SHARE)
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """How well one plane is a parabola of another: a tone curve costs nothing."""

    left: float
    """Standard deviation of what is not explained, in levels."""
    share: float
    """Multiple correlation, 0 to 1."""
    correlation: float


def _explained(by: Plane, what: Plane) -> _Fit:
    spread = float(by.std())
    x = ((by - by.mean()) / (spread if spread > 0 else 1.0)).ravel()
    columns = np.stack((np.ones_like(x), x, x * x), axis=1)
    # Of 3x3 sums instead of all pixels: what `lstsq` would find, in a tenth of the time.
    found = np.linalg.lstsq(columns.T @ columns, columns.T @ what.ravel(), rcond=None)[0]
    left = float((what.ravel() - columns @ found).std())
    total = float(what.std())
    share = float(np.sqrt(max(0.0, 1 - (left / total) ** 2))) if total > 0 else 0.0
    return _Fit(left, share, _correlation(by, what))


def _fine(hr: Plane, lr: Plane) -> tuple[Plane, Plane]:
    """Return the texture of both: what 9x9 px around each pixel do not say, around a mean of 0."""
    planes = [plane - _blurred(plane, 9) for plane in (hr, lr)]
    return planes[0] - planes[0].mean(), planes[1] - planes[1].mean()


def _correlation(a: Plane, b: Plane) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _blurred(plane: Plane, px: int) -> Plane:
    """Return means around each pixel; the border is repeated outside."""
    px = min(px, (min(plane.shape) // 2) | 1)
    return plane if px <= 1 else _means(np.pad(plane, px // 2, mode="edge"), px)


def _means(plane: Plane, px: int) -> Plane:
    """Return means of all ``px x px`` pixels."""
    sums = np.pad(plane, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[px:, px:] - sums[:-px, px:] - sums[px:, :-px] + sums[:-px, :-px]
    return np.asarray(inside / px**2)
