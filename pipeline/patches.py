"""Training patches: where they are cut, and how they are varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PicturePair:
    """One training picture: HR ``(c, h, w)``, its LR, and how textured each LR place is.

    `texture` is the integral image ``(h_lr + 1, w_lr + 1)`` of the LR gradient's size, so the
    texture of any rectangle costs four look-ups.
    """

    hr: Pixels
    lr: Pixels
    texture: NDArray[np.float64]

    @classmethod
    def of(cls, hr: Pixels, lr: Pixels) -> PicturePair:
        """Pair `hr` with `lr` and measure the texture of `lr`."""
        grey = lr.mean(axis=0, dtype=np.float64)
        size = np.zeros_like(grey)
        size[1:] += np.abs(np.diff(grey, axis=0))
        size[:, 1:] += np.abs(np.diff(grey, axis=1))
        integral = np.zeros((grey.shape[0] + 1, grey.shape[1] + 1))
        integral[1:, 1:] = size.cumsum(axis=0).cumsum(axis=1)
        return cls(hr=hr, lr=lr, texture=integral)

    def texture_of(self, row: int, col: int, side: int) -> float:
        """Return the sum of the gradient's size over a square of `side` LR pixels."""
        t = self.texture
        below, right = row + side, col + side
        return float(t[below, right] - t[row, right] - t[below, col] + t[row, col])


class PatchSampler:
    """Cut batches of patches at random, textured places first.

    A batch depends on the seed and the step alone, so training that resumes at step n sees the
    very patches that it would have seen.
    """

    def __init__(
        self,
        pairs: Sequence[PicturePair],
        *,
        scale: int,
        patch_hr_px: int,
        candidates: int,
        seed: int,
    ) -> None:
        if patch_hr_px % scale:
            raise ValueError(f"patch is {patch_hr_px} px, expected a multiple of the scale {scale}")
        for pair in pairs:
            wanted = (pair.lr.shape[0], pair.lr.shape[1] * scale, pair.lr.shape[2] * scale)
            if pair.hr.shape != wanted:
                raise ValueError(
                    f"HR is {pair.hr.shape} beside LR {pair.lr.shape}, expected {wanted}"
                )
        self._side_lr = patch_hr_px // scale
        self._pairs = [p for p in pairs if min(p.lr.shape[1:]) >= self._side_lr]
        if not self._pairs:
            raise ValueError(
                f"none of {len(pairs)} pictures holds a patch of {patch_hr_px} px; "
                "add larger pictures or make the patch smaller"
            )
        self._scale = scale
        self._candidates = candidates
        self._seed = seed
        areas = np.array([p.lr.shape[1] * p.lr.shape[2] for p in self._pairs], dtype=np.float64)
        self._weights = areas / areas.sum()

    def batch(self, step: int, size: int) -> tuple[Pixels, Pixels]:
        """Return LR ``(size, c, l, l)`` and HR ``(size, c, p, p)`` of `step`."""
        rng = np.random.default_rng((self._seed, step))
        picks = [self._patch(rng) for _ in range(size)]
        return np.stack([lr for lr, _ in picks]), np.stack([hr for _, hr in picks])

    def _patch(self, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        side, scale = self._side_lr, self._scale
        pair, row, col = max(
            (self._place(rng) for _ in range(self._candidates)),
            key=lambda place: place[0].texture_of(place[1], place[2], side),
        )
        lr = pair.lr[:, row : row + side, col : col + side]
        hr = pair.hr[:, row * scale : (row + side) * scale, col * scale : (col + side) * scale]
        return _vary(lr, hr, int(rng.integers(8)))

    def _place(self, rng: np.random.Generator) -> tuple[PicturePair, int, int]:
        pair = self._pairs[int(rng.choice(len(self._pairs), p=self._weights))]
        row = int(rng.integers(pair.lr.shape[1] - self._side_lr + 1))
        col = int(rng.integers(pair.lr.shape[2] - self._side_lr + 1))
        return pair, row, col


def _vary(lr: Pixels, hr: Pixels, which: int) -> tuple[Pixels, Pixels]:
    """Return one of the square's eight symmetries of both patches."""
    turns, flip = which % 4, which >= 4
    if flip:
        lr, hr = lr[:, :, ::-1], hr[:, :, ::-1]
    return np.rot90(lr, turns, axes=(1, 2)), np.rot90(hr, turns, axes=(1, 2))
