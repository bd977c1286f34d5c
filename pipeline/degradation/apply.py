"""From HR to LR: the degradations that make the small picture of a pair.

Here belongs what loses detail on purpose, exactly and on the CPU; `degradation.batch` does the same
on a GPU, where speed matters more than the last bit. Enlarging and scoring do not belong here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch

from models.bt601 import LUMA
from models.interpolation import KERNELS, reduce, resize, taps, weighted_sum
from pipeline.degradation.blur import convolve, kernels
from pipeline.degradation.chain import check_seeds
from pipeline.degradation.steps import Blur, Jpeg, Motion, Noise, Poisson, Resize, Sinc, Step, Webp
from pipeline.errors import PictureError, RecipeError
from pipeline.pictures.codecs.lossy import recompress
from pipeline.pictures.picture import WHITE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.degradation.chain import Degradation
    from pipeline.degradation.steps import Floats

    Pixels = NDArray[np.uint8]
    Pixel = TypeVar("Pixel", bound=np.generic)


def crop_to_multiple(pixels: NDArray[Pixel], scale: int) -> NDArray[Pixel]:
    """Return ``(c, h, w)`` without its last rows and columns, so that `scale` divides both sides.

    It is a view: fewer than `scale` rows and columns are left out, at the bottom and the right.

    Raises:
        PictureError: if a side is shorter than `scale`.
    """
    if scale < 1:
        raise ValueError(f"scale is {scale}, expected an integer of at least 1")
    height, width = pixels.shape[-2:]
    if min(height, width) < scale:
        raise PictureError(
            f"picture is {height}x{width} px, expected at least {scale}x{scale} to reduce it "
            f"by {scale}; leave it out or use a smaller scale"
        )
    return pixels[..., : height - height % scale, : width - width % scale]


def degrade_bicubic(hr: NDArray[Pixel], scale: int) -> NDArray[Pixel]:
    """Reduce ``(c, h, w)`` to ``(c, h // scale, w // scale)`` of the same dtype.

    The picture is cropped to a multiple of `scale`, then reduced as by MATLAB's `imresize`:
    bicubic with a = -0.5, antialiased, mirrored at the borders. uint8 and uint16 are computed in
    float64, clipped and rounded once, halves up: MATLAB's own result on doubles, to the nearest
    level. Given uint8, MATLAB clips and rounds between its two passes as well; that moves one
    pixel in ten by one level, and one in a thousand, where edges overshoot, by more. float32 is
    neither rounded nor clipped, and may overshoot its range as MATLAB's does. Channels, alpha
    too, are reduced each alone.

    Raises:
        PictureError: if a side is shorter than `scale`, or the dtype is none of the three.
    """
    if hr.dtype.name not in WHITE:
        raise PictureError(
            f"pixels are {hr.dtype}, expected uint8, uint16 or float32; convert them first"
        )
    cropped = crop_to_multiple(hr, scale)
    # One channel at a time, as float64 takes eight times the memory of uint8.
    return np.stack([_reduced(channel, scale=scale, dtype=hr.dtype) for channel in cropped])


def _reduced(plane: NDArray[Any], *, scale: int, dtype: np.dtype[Pixel]) -> NDArray[Pixel]:
    exact = torch.from_numpy(np.ascontiguousarray(plane, dtype=np.float64))
    values = reduce(exact, scale=scale, method="bicubic").numpy()
    if dtype.name != "float32":
        values = np.floor(np.clip(values, 0, WHITE[dtype.name]) + 0.5)
    return values.astype(dtype)


_BLOCK_VALUES = 1 << 18
"""HR values that are reduced together: few enough for the processor's cache."""


def degrade_patches(
    hr: Pixels, seeds: Sequence[int] | NDArray[np.int64], degradation: Degradation, *, scale: int
) -> Pixels:
    """Return the LR patches ``(n, c, h / scale, w / scale)`` of HR ``(n, c, h, w)``, both uint8.

    ``lr[i]`` depends on ``hr[i]``, ``seeds[i]``, the degradation (its name included) and the scale
    alone: other patches, their order and number, and the number of threads change no bit. Steps
    compute in float64 on levels 0..255; the end is clipped and rounded, halves up. A lone bicubic
    reduction equals `degrade_bicubic`.

    Raises:
        PictureError: if the patches are not uint8 ``(n, 1 or 3, h, w)``, or the scale does not
            divide their sides.
        RecipeError: for seeds that do not fit, or a degradation that is not for this scale.
    """
    check_patches(hr.shape, scale=scale)
    if hr.dtype != np.uint8:
        raise PictureError(f"patches are {hr.dtype}, expected uint8; convert them first")
    check_seeds(seeds, count=len(hr))
    degradation.check_scale(scale)
    n, channels, rows, cols = hr.shape
    lr = np.empty((n, channels, rows // scale, cols // scale), dtype=np.uint8)
    block = max(1, _BLOCK_VALUES // max(1, channels * rows * cols))
    for start in range(0, n, block):
        part = slice(start, start + block)
        lr[part] = _degraded(hr[part], seeds[part], degradation, scale=scale)
    return lr


def check_patches(shape: Sequence[int], *, scale: int) -> None:
    """Refuse a shape that is not ``(n, 1 or 3, h, w)`` with sides that are multiples of `scale`.

    Raises:
        PictureError: with the shape met.
    """
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2] % scale or shape[3] % scale:
        raise PictureError(
            f"patches are {tuple(shape)}, expected (n, 1 or 3, h, w) with h and w multiples of "
            f"{scale}; crop them first"
        )


def _degraded(
    hr: Pixels, seeds: Sequence[int] | NDArray[np.int64], degradation: Degradation, *, scale: int
) -> Pixels:
    """Degrade a few patches, each alone but for a reduction that comes first."""
    first = degradation.steps[0] if degradation.steps else None
    starts_reduced = isinstance(first, Resize) and first.is_reduction
    if isinstance(first, Resize) and starts_reduced:
        levels = _reduced_patches(hr, scale=scale, method=first.kernel[0])
        if len(degradation.steps) == 1:
            return _to_uint8(levels)
    else:
        levels = hr.astype(np.float64)
    generators = degradation.generators(seeds)
    drawn = degradation.draw(generators)[1 if starts_reduced else 0 :]
    target = (hr.shape[2] // scale, hr.shape[3] // scale)
    patches = []
    for i, (patch, generator) in enumerate(zip(levels, generators, strict=True)):
        for one in drawn:
            if one.hit[i]:
                values = {name: value[i : i + 1] for name, value in one.values.items()}
                patch = _after(one.step, patch, values, generator=generator, target=target)
        patches.append(_to_uint8(patch))
    return np.stack(patches)


def _after(
    step: Step,
    x: Floats,
    values: dict[str, Floats],
    *,
    generator: np.random.Generator,
    target: tuple[int, int],
) -> Floats:
    """Return the levels ``(c, h, w)`` after one step; `values` has one of each."""
    match step:
        case Resize():
            return _resized(step, x, values, target=target)
        case Blur() | Motion() | Sinc():
            return convolve(x, kernels(step, values)[0])
        case Noise():
            shape = (1, *x.shape[1:]) if values["grey"][0] else x.shape
            return _added(x, generator.standard_normal(shape) * values["sigma"][0])
        case Poisson():
            light = np.clip(x, 0, 255)
            if values["grey"][0]:
                light = _luma(light)
            return _added(x, (generator.poisson(light) - light) * values["scale"][0])
        case Jpeg():
            return _recompressed(x, values, format="jpeg")
        case Webp():
            return _recompressed(x, values, format="webp")
    raise RecipeError(f"op is {step.op!r}, which degrades nothing; expected one that does")


def _added(x: Floats, noise: Floats) -> Floats:
    clipped: Floats = np.clip(x + noise, 0, 255)
    return clipped


def _luma(x: Floats) -> Floats:
    """Return the luma ``(1, h, w)`` of grey or RGB."""
    if len(x) == 1:
        return x
    red, green, blue = LUMA
    return red * x[:1] + green * x[1:2] + blue * x[2:]


def whole_quality(values: dict[str, Floats]) -> list[int]:
    """Return the drawn qualities as the whole numbers that codecs take."""
    return [int(quality) for quality in np.floor(values["quality"] + 0.5)]


def _resized(
    step: Resize, x: Floats, values: dict[str, Floats], *, target: tuple[int, int]
) -> Floats:
    kernel = step.kernel[int(values["kernel"][0])]
    current = (x.shape[1], x.shape[2])
    size = step.size_of(current=current, target=target, factor=float(values["factor"][0]))
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    resized: Floats = resize(
        tensor, size=size, method=kernel, antialias=step.stretches(kernel)
    ).numpy()
    return resized


def _recompressed(
    x: Floats, values: dict[str, Floats], *, format: Literal["jpeg", "webp"]
) -> Floats:
    (quality,) = whole_quality(values)
    return recompress(_to_uint8(x), format=format, quality=quality).astype(np.float64)


def _to_uint8(levels: Floats) -> Pixels:
    """Return levels clipped and rounded, halves up."""
    return (np.clip(levels, 0, 255) + 0.5).astype(np.uint8)


def _reduced_patches(hr: Pixels, *, scale: int, method: str) -> Floats:
    """Return ``(n, c, h, w)`` reduced: to the bit what `models.interpolation.reduce` computes."""
    if scale == 1:
        return hr.astype(np.float64)
    rows, cols = (_reduction(side, scale=scale, method=method) for side in hr.shape[2:])
    if rows is None or cols is None:
        return reduce(torch.from_numpy(hr.astype(np.float64)), scale=scale, method=method).numpy()
    # All products and sums are whole multiples of one fraction and fit the mantissa, so they are
    # exact, whatever the order in which matrix products take them.
    halved = np.matmul(rows.astype(np.float32), hr.astype(np.float32))
    reduced: Floats = np.matmul(halved.astype(np.float64), cols.T)
    return reduced


@lru_cache(maxsize=64)
def _reduction(side: int, *, scale: int, method: str) -> Floats | None:
    """Return the reduction of one axis as a matrix, if float32 computes it exactly on uint8.

    It does where the weights are whole multiples of ``2**-b`` and ``255 * sum(abs(weights))`` is
    below ``2**(24 - b)``: of bicubic at the scales 2, 4, and at neither 3 nor 8.
    """
    kernel, half_width = KERNELS[method]
    weights = taps(kernel, half_width=half_width, centre=(scale - 1) / 2, stretch=scale)
    most = 255 * sum(abs(weight) for weight in weights.values())
    bits = next(
        (b for b in range(24) if all((w * 2**b).is_integer() for w in weights.values())), 24
    )
    if most * 2**bits >= 2**24:
        return None
    exact = torch.eye(side, dtype=torch.float64)
    matrix: Floats = weighted_sum(
        exact, dim=0, weights=weights, count=side // scale, step=scale
    ).numpy()
    return matrix
