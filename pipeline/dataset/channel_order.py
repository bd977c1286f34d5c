"""Whether the channels of an LR picture are in the order of its HR picture's.

A library that stores blue first, on one side alone, leaves the brightness of a pair nearly as it
is. So hues are compared: what is left of a colour without its grey, two numbers a pixel. Channels
in another order turn the circle of hues by a third, or mirror it; chroma with its sign lost turns
it by a half. A degradation does neither: white balance and casts move all hues one way, another
saturation scales them, tone curves do a little of both, and noise hides them.

Pictures of hues along one line, which an order leaves nearly where they are, are undecidable and
pass. So do grey ones, on either side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Plane = NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])

_SWAPPED = "like its red and blue channels are swapped"
INVERTED = "like its hues are inverted"

ORDERS: dict[str, Plane] = {
    _SWAPPED: np.eye(3)[[2, 1, 0]],
    "like its red and green channels are swapped": np.eye(3)[[1, 0, 2]],
    "like its green and blue channels are swapped": np.eye(3)[[0, 2, 1]],
    "like its channels are in the order green, blue, red": np.eye(3)[[1, 2, 0]],
    "like its channels are in the order blue, red, green": np.eye(3)[[2, 0, 1]],
    INVERTED: 2 * np.ones((3, 1)) * _LUMA - np.eye(3),
}
"""What makes RGB of HR that of LR, by what LR then looks like. Each leaves greys as they are."""

_HUE = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
"""RGB to what is left without its mean, in two directions of length 1."""
_BLOCK_PX = 4
"""Noise and the coarser chroma of a JPEG are averaged away in blocks of so many LR pixels."""
_LEAST_LEVELS = 2.0
"""Root mean square of hues, less what brightness explains, below which a picture counts as grey."""
_LEAST_FIT = 0.2
"""Correlation of hues below which they are only noise; of few blocks, more."""
_MOST_AS_IT_IS = 0.4
"""Hues turned by 66 degrees still fit that much of how they are: beyond is no degradation."""
_CLEAR = 40.0
"""Logarithm of how much likelier another order must be."""
_MARGIN = 0.03
"""How much better than red and blue swapped, the likeliest mistake, another order must fit."""


def misordered(hr: Pixels, lr: Pixels, *, scale: int) -> str | None:
    """Return the key of `ORDERS` that explains LR ``(c, h, w)`` clearly better than HR's own order.

    None where HR ``(c, h * scale, w * scale)`` explains LR as well as it is, and of grey pictures.
    """
    if len(hr) != 3 or min(lr.shape[1:]) < _BLOCK_PX:
        return None
    a, b = _hues(hr, lr, scale=scale)
    if min(float((hues * hues).sum(1).mean()) for hues in (a, b)) < _LEAST_LEVELS**2:
        return None
    fits = {what: _fit(a @ (_HUE @ order @ _HUE.T).T, b) for what, order in ORDERS.items()}
    fits[_SWAPPED] += _MARGIN
    best = max(fits, key=lambda what: fits[what])
    better = fits[best] - (_MARGIN if best == _SWAPPED else 0.0)
    return best if _is_clear(better, _fit(a, b), len(a)) else None


def luma_reordered(lr: Pixels, what: str) -> Plane:
    """Return the luma ``(h, w)`` of LR ``(3, h, w)`` as it is with the order `what` undone."""
    weights = _LUMA @ np.linalg.inv(ORDERS[what])
    return np.asarray(np.tensordot(weights, lr.astype(np.float64), axes=1))


def _hues(hr: Pixels, lr: Pixels, *, scale: int) -> tuple[Plane, Plane]:
    """Return hues ``(n, 2)`` of blocks of both, without what HR's brightness says of them.

    A cast, and another tone curve a channel, add a curve of the brightness to the hues.
    """
    colours = [_blocks(pixels, px) for pixels, px in ((hr, _BLOCK_PX * scale), (lr, _BLOCK_PX))]
    grey = colours[0].mean(1)
    grey = (grey - grey.mean()) / max(float(grey.std()), 1e-6)
    curve = np.stack((np.ones_like(grey), grey, grey * grey), axis=1)
    hues = np.concatenate([colour @ _HUE.T for colour in colours], axis=1)
    hues -= curve @ np.linalg.lstsq(curve.T @ curve, curve.T @ hues, rcond=None)[0]
    return hues[:, :2], hues[:, 2:]


def _blocks(pixels: Pixels, px: int) -> Plane:
    """Return means ``(n, c)`` of the blocks of ``px x px`` pixels in ``(c, h, w)``."""
    rows, cols = (side // px for side in pixels.shape[1:])
    blocks = pixels[:, : rows * px, : cols * px].reshape(len(pixels), rows, px, cols, px)
    return np.asarray(blocks.mean((2, 4), dtype=np.float64).reshape(len(pixels), -1).T)


def _fit(a: Plane, b: Plane) -> float:
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _is_clear(better: float, worse: float, blocks: int) -> bool:
    unexplained = [1 - max(r, 0.0) ** 2 + 1e-6 for r in (worse, better)]
    evidence = blocks * float(np.log(unexplained[0] / unexplained[1]))
    alike = better > _LEAST_FIT + 4 / blocks**0.5
    return alike and worse < _MOST_AS_IT_IS * better and evidence > _CLEAR
