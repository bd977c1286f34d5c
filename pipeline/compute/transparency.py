"""Alpha and what is below it: opaque stays opaque, and hidden colours do not show.

Pixels are ``(..., c, h, w)``; 2 channels are grey and alpha, 4 are RGB and alpha, never
premultiplied. Everything here depends on pixels within a fixed distance. So a tile with enough
pixels around it gets the bits of the whole picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def has_alpha(channels: int) -> bool:
    """Return whether the last of so many channels is alpha."""
    return channels in (2, 4)


def without_hidden(pixels: NDArray[Any], depth_px: int) -> NDArray[Any]:
    """Return pixels whose colours at alpha 0 continue the visible ones, `depth_px` far.

    One ring of pixels after the other becomes the mean of its neighbours that are visible or
    were filled before. So a pixel depends on those within `depth_px` of it alone, and what stays
    of the hidden colours is farther than that from every visible pixel. `pixels` is not changed.
    """
    if not depth_px or not has_alpha(pixels.shape[-3]):
        return pixels
    hidden = pixels[..., -1, :, :] <= 0
    if not hidden.any() or hidden.all():
        return pixels
    filled = pixels.copy()
    for at in np.ndindex(pixels.shape[:-3]):
        _fill(filled[at][:-1], ~hidden[at], depth_px)
    return filled


def _fill(colours: NDArray[Any], visible: NDArray[np.bool_], depth_px: int) -> None:
    """Fill ``(c, h, w)`` in place, one ring a turn."""
    c, h, w = colours.shape
    inside = np.pad(np.ones((h, w), dtype=bool), 1).reshape(-1)
    known = np.pad(visible, 1).reshape(-1)
    # What is not known yet is 0, so that sums pass over it.
    values = np.pad(colours * visible, ((0, 0), (1, 1), (1, 1))).reshape(c, -1)
    steps = [row * (w + 2) + col for row, col in _AROUND]
    ring = np.flatnonzero(known)
    for _ in range(depth_px):
        beside = np.zeros(len(known), dtype=bool)
        for step in steps:
            beside[ring + step] = True
        ring = np.flatnonzero(beside & inside & ~known)
        if not len(ring):
            break
        total, count = np.zeros((c, len(ring))), np.zeros(len(ring))
        for step in steps:
            total += values[:, ring + step]
            count += known[ring + step]
        total /= count
        values[:, ring] = total if values.dtype.kind == "f" else np.rint(total)
        known[ring] = True
    filled = known.reshape(h + 2, w + 2)[1:-1, 1:-1]
    np.copyto(colours, values.reshape(c, h + 2, w + 2)[:, 1:-1, 1:-1], where=filled)


def with_hidden(sr: NDArray[Any], lr: NDArray[Any], scale: int) -> NDArray[Any]:
    """Return `sr` with the colours of `lr` where both are fully transparent: nothing is lost.

    `sr` is ``(..., c, scale * h, scale * w)`` of `lr` ``(..., c, h, w)``, and may be changed.
    """
    if not has_alpha(lr.shape[-3]):
        return sr
    hidden = lr[..., -1:, :, :] <= 0
    if not hidden.any():
        return sr
    below = _repeated(hidden, scale) & (sr[..., -1:, :, :] <= 0)
    np.copyto(sr[..., :-1, :, :], _repeated(lr[..., :-1, :, :], scale), where=below)
    return sr


def bounded_alpha(sr: NDArray[Any], lr: NDArray[Any], scale: int) -> NDArray[Any]:
    """Return alpha ``(..., scale * h, scale * w)`` within the range of the nine LR pixels around.

    So where a pixel and its neighbours are opaque the result is exactly opaque, and where they
    are transparent exactly transparent; between them the network's own edge is left.
    """
    least, most = (_repeated(_of_nine(lr, choose), scale) for choose in (np.minimum, np.maximum))
    clipped: NDArray[Any] = np.clip(sr, least, most)
    return clipped


def _of_nine(alpha: NDArray[Any], choose: np.ufunc) -> NDArray[Any]:
    """Return the least or largest value of each pixel and its neighbours."""
    for axis in (-2, -1):
        behind, front = alpha, alpha
        if alpha.shape[axis] > 1:
            head, tail = [slice(None)] * alpha.ndim, [slice(None)] * alpha.ndim
            head[axis], tail[axis] = slice(None, -1), slice(1, None)
            behind, front = alpha.copy(), alpha.copy()
            behind[tuple(tail)] = alpha[tuple(head)]
            front[tuple(head)] = alpha[tuple(tail)]
        alpha = choose(choose(alpha, behind), front)
    return alpha


def _repeated(pixels: NDArray[Any], scale: int) -> NDArray[Any]:
    return np.repeat(np.repeat(pixels, scale, axis=-2), scale, axis=-1)
