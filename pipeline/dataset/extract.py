"""Where patches are cut from a picture, and which of them are worth keeping.

Everything here depends on one picture, its item, and the recipe: never on other pictures, so that
any worker at any time finds the same places. Duplicates among pictures are found by the hashes that
are found here (`pipeline.dataset.prepare`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.bt601 import LUMA_PER_MILLE
from models.interpolation import resize
from pipeline.errors import PictureError
from pipeline.recipes.preparing import HASH_BLOCKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.recipes.preparing import PrepareRecipe

    Pixels = NDArray[np.uint8]

FLAT, DUPLICATE = "flat", "duplicate"
"""Why a patch is left out."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The patches of one picture.

    `corners` (k, 2) are top and left of each; `hashes` (k,) their perceptual hashes, or empty where
    the recipe keeps duplicates; `left_out` counts those that were not worth keeping, by reason.
    """

    corners: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    left_out: Counter[str]

    def __len__(self) -> int:
        return len(self.corners)

    def kept(self, which: NDArray[np.bool_]) -> Cut:
        """Return the same with only those patches; the others are not counted in `left_out`."""
        hashes = self.hashes[which] if len(self.hashes) else self.hashes
        return Cut(self.corners[which], hashes, Counter(self.left_out))


def cut(pixels: Pixels, recipe: PrepareRecipe, *, item: str, align: int = 1) -> Cut:
    """Return which patches of a picture ``(c, h, w)`` the recipe keeps.

    With `align`, corners are multiples of it: then LR that came with the picture can be cut too.

    Raises:
        PictureError: if the picture is too small for a patch.
    """
    texture = None
    if recipe.extract == "whole":
        pixels = np.asarray(whole(pixels, recipe))
    if recipe.candidates > 1 or recipe.least_variance or recipe.least_gradient:
        texture = Texture.of(pixels, recipe.patch_px)
    corners = _corners(pixels.shape[1:], recipe, item=item, align=align, texture=texture)
    kept = np.ones(len(corners), dtype=bool)
    if texture is not None and recipe.least_variance:
        kept &= texture.variance(corners) >= recipe.least_variance
    if texture is not None and recipe.least_gradient:
        kept &= texture.gradient(corners) >= recipe.least_gradient
    left_out = Counter({FLAT: int((~kept).sum())} if not kept.all() else {})
    corners = corners[kept]
    hashes = np.array([], dtype=np.uint64)
    if recipe.duplicate_bits >= 0:
        hashes = perceptual_hashes(pixels, corners, recipe.patch_px)
    return Cut(corners, hashes, left_out)


def patches(pixels: Pixels, corners: NDArray[np.int64], px: tuple[int, int]) -> Pixels:
    """Return the patches ``(k, c, rows, cols)`` of `px` at `corners` of ``(c, h, w)``."""
    found = np.empty((len(corners), len(pixels), *px), dtype=np.uint8)
    for patch, (top, left) in zip(found, corners.tolist(), strict=True):
        patch[:] = pixels[:, top : top + px[0], left : left + px[1]]
    return found


def whole(pixels: Pixels, recipe: PrepareRecipe) -> Pixels:
    """Return the picture ``(c, h, w)`` made as large as a patch.

    Sides are stretched each alone, or (`fit` "crop") the longer one loses its ends first.

    Raises:
        PictureError: if a side of the picture is shorter than that of the patch.
    """
    rows, cols = recipe.patch_px
    height, width = pixels.shape[1:]
    _require_size(height, width, rows, cols)
    if recipe.fit == "crop":
        keep = min(height, width * rows // cols), min(width, height * cols // rows)
        pixels = _middle(pixels, *keep)
    exact = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float64))
    found = resize(exact, size=(rows, cols), method="bicubic").numpy()
    return np.asarray(np.floor(np.clip(found, 0, 255) + 0.5), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Texture:
    """Integral images of a picture's luma, by which any patch is measured with four look-ups.

    Sums are of integers, so they are exact: neither order nor machine changes what is kept.
    """

    px: tuple[int, int]
    total: NDArray[np.int64]
    squares: NDArray[np.int64]
    steps: NDArray[np.int64]

    @classmethod
    def of(cls, pixels: Pixels, px: tuple[int, int]) -> Texture:
        """Measure ``(c, h, w)`` for patches of `px` rows and columns."""
        grey = luma8(pixels).astype(np.int64)
        steps = np.zeros_like(grey)
        steps[1:] += np.abs(np.diff(grey, axis=0))
        steps[:, 1:] += np.abs(np.diff(grey, axis=1))
        return cls(px, _integral(grey), _integral(grey * grey), _integral(steps))

    def variance(self, corners: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the variance of luma of each patch ``(k,)``, in squared levels."""
        count = self.px[0] * self.px[1]
        total = _sums(self.total, corners, self.px)
        squares = _sums(self.squares, corners, self.px)
        # Python's integers: of a patch of 3500x3500 px the products are beyond 64 bits.
        both = zip(total.tolist(), squares.tolist(), strict=True)
        return np.array([(s * count - t * t) / count**2 for t, s in both], dtype=np.float64)

    def gradient(self, corners: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean size of luma's steps, down and right, of each patch ``(k,)``, in levels.

        Steps from the pixels just outside of the patch, above and left, count too.
        """
        return np.asarray(_sums(self.steps, corners, self.px) / (self.px[0] * self.px[1]))


def luma8(pixels: Pixels) -> Pixels:
    """Return grey of uint8 ``(c, h, w)``: the only channel, or BT.601 luma rounded, full range."""
    if len(pixels) == 1:
        return np.asarray(pixels[0])
    weights = zip(LUMA_PER_MILLE, pixels, strict=True)
    weighted = sum(weight * plane.astype(np.int32) for weight, plane in weights)
    return np.asarray((weighted + 500) // 1000, dtype=np.uint8)


def perceptual_hashes(
    pixels: Pixels, corners: NDArray[np.int64], px: tuple[int, int]
) -> NDArray[np.uint64]:
    """Return a hash of 64 bits ``(k,)`` of each patch: equal for patches that look alike.

    A bit says whether luma falls from one of 8x9 blocks to the next one in its row ("difference
    hash", Krawetz 2013). Blocks differ by a pixel in size where 8 or 9 do not divide the sides.
    """
    integral = _integral(luma8(pixels).astype(np.int64))
    rows = np.arange(HASH_BLOCKS[0] + 1) * px[0] // HASH_BLOCKS[0]
    cols = np.arange(HASH_BLOCKS[1] + 1) * px[1] // HASH_BLOCKS[1]
    at = integral[corners[:, :1, None] + rows[None, :, None], corners[:, 1:, None] + cols]
    blocks = np.diff(np.diff(at, axis=1), axis=2)
    widths = np.diff(cols)
    # Cross-multiplied, as means of blocks of unequal width would be rounded.
    falls = blocks[:, :, :-1] * widths[1:] > blocks[:, :, 1:] * widths[:-1]
    bits = falls.reshape(len(corners), HASH_BLOCKS[0] * (HASH_BLOCKS[1] - 1))
    return np.asarray(np.packbits(bits, axis=1).view(">u8").reshape(-1), dtype=np.uint64)


def seed_of(*parts: Any) -> int:
    """Return a seed of 63 bits that depends on every part."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _corners(
    size: tuple[int, ...],
    recipe: PrepareRecipe,
    *,
    item: str,
    align: int,
    texture: Texture | None,
) -> NDArray[np.int64]:
    height, width = size
    rows, cols = recipe.patch_px
    if recipe.extract == "crops":
        return _of_the_middle(height, width, recipe, align=align)
    _require_size(height, width, rows, cols)
    if recipe.extract == "whole":
        return np.zeros((1, 2), dtype=np.int64)
    if recipe.extract == "grid":
        tops = np.arange(0, height - rows + 1, recipe.stride[0])
        lefts = np.arange(0, width - cols + 1, recipe.stride[1])
        return _crossed(tops, lefts)
    return _drawn(height, width, recipe, item=item, align=align, texture=texture)


def _of_the_middle(
    height: int, width: int, recipe: PrepareRecipe, *, align: int
) -> NDArray[np.int64]:
    rows, cols = recipe.crop
    _require_size(height, width, rows, cols)
    top, left = ((height - rows) // 2 // align * align, (width - cols) // 2 // align * align)
    return _crossed(
        np.arange(top, top + rows, recipe.patch_px[0]),
        np.arange(left, left + cols, recipe.patch_px[1]),
    )


def _drawn(
    height: int,
    width: int,
    recipe: PrepareRecipe,
    *,
    item: str,
    align: int,
    texture: Texture | None,
) -> NDArray[np.int64]:
    """Return places drawn at random, no two the same; fewer than wanted where there are fewer."""
    rng = np.random.default_rng(seed_of(recipe.seed, "corners", item))
    tops = _range(height, recipe.patch_px[0], recipe.corner, align)
    lefts = _range(width, recipe.patch_px[1], recipe.corner, align)
    places = len(tops) * len(lefts)
    drawn = rng.choice(places, min(recipe.count * recipe.candidates, places), replace=False)
    corners = np.stack((tops[drawn // len(lefts)], lefts[drawn % len(lefts)]), axis=1)
    if texture is None or recipe.candidates == 1:
        return corners[: recipe.count]
    # Place i competes with i + count, i + 2 * count ...: the most textured of them is kept.
    found = texture.gradient(corners)
    wanted = min(recipe.count, len(corners))
    groups = [np.arange(i, len(corners), recipe.count) for i in range(wanted)]
    best = [group[np.argmax(found[group])] for group in groups]
    return np.asarray(corners[best])


def _range(length: int, patch: int, corner: str, align: int) -> NDArray[np.int64]:
    """Return where a patch may begin on one axis."""
    first, last = 0, length - patch
    if corner == "inner-half":
        first, last = min(length // 4, last), min(3 * length // 4, last)
    found = np.arange(-(-first // align) * align, last + 1, align)
    # In a picture hardly larger than a patch no multiple may be in the inner half.
    return found if len(found) else np.array([last // align * align])


def _crossed(tops: NDArray[np.int64], lefts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every pair of a top and a left, row by row."""
    return np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=2).reshape(-1, 2)


def _require_size(height: int, width: int, rows: int, cols: int) -> None:
    if height < rows or width < cols:
        raise PictureError(
            f"picture is {height}x{width} px, expected at least {rows}x{cols} px (rows x columns); "
            "leave it out, or take smaller patches by the key patch_hr_px (of crops, crop_px too)"
        )


def _middle(pixels: Pixels, rows: int, cols: int) -> Pixels:
    top, left = (pixels.shape[1] - rows) // 2, (pixels.shape[2] - cols) // 2
    return pixels[:, top : top + rows, left : left + cols]


def _integral(plane: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``(h + 1, w + 1)``: the sum over all rows above and columns left of each corner."""
    sums = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1), dtype=np.int64)
    np.cumsum(plane, axis=0, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    return sums


def _sums(
    integral: NDArray[np.int64], corners: NDArray[np.int64], px: tuple[int, int]
) -> NDArray[np.int64]:
    top, left = corners[:, 0], corners[:, 1]
    bottom, right = top + px[0], left + px[1]
    inside = integral[bottom, right] - integral[top, right]
    return np.asarray(inside - integral[bottom, left] + integral[top, left])
