"""The degradations on a GPU, fresh for every step of training.

Steps, presets, kernels and what each patch draws are those of `degrade`; what differs is that all
patches of a batch are computed together, in float32, with noise from the device's generator and
JPEG simulated there. Results are the same in distribution, and equal to within a level where
nothing is drawn on the device; the last bit may depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.bt601 import LUMA
from models.interpolation import resize_each
from pipeline.degradation.apply import check_patches, whole_quality
from pipeline.degradation.blur import fast_length, kernels
from pipeline.degradation.chain import check_seeds
from pipeline.degradation.jpeg import simulate_jpeg
from pipeline.degradation.steps import Blur, Jpeg, Motion, Noise, Poisson, Resize, Sinc, Step, Webp
from pipeline.errors import RecipeError
from pipeline.pictures.codecs.lossy import recompress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.degradation.chain import Degradation
    from pipeline.degradation.steps import Floats

    Size = tuple[int, int]


def degrade_batch(
    hr: Tensor, seeds: Sequence[int], degradation: Degradation, *, scale: int
) -> Tensor:
    """Return LR ``(n, c, h / scale, w / scale)`` of HR ``(n, c, h, w)``, floats in 0..1.

    All is computed on the device of `hr`, in float32 even under autocast, but for WebP, which goes
    through the codec on the CPU. The result has the dtype of `hr`, and levels of 8 bits, as LR
    from a file would. Each patch draws from its own seed; the noise of a batch is decided by all
    its seeds together. No gradient flows back.

    Raises:
        PictureError: if the patches are not ``(n, 1 or 3, h, w)``, or the scale does not divide
            their sides.
        RecipeError: for seeds that do not fit, or a degradation that is not for this scale.
    """
    check_patches(hr.shape, scale=scale)
    check_seeds(seeds, count=len(hr))
    degradation.check_scale(scale)
    n, _, rows, cols = hr.shape
    target = (rows // scale, cols // scale)
    drawn = degradation.draw(degradation.generators(seeds))
    generator = _generator(seeds, degradation.name, hr.device)
    with torch.no_grad(), torch.autocast(hr.device.type, enabled=False):
        patches = _Patches(hr.float() * 255, [(rows, cols)] * n)
        for one in drawn:
            hit = np.flatnonzero(one.hit).tolist()
            if hit:
                values = {name: value[one.hit] for name, value in one.values.items()}
                after = _after(one.step, patches.of(hit), values, generator, target)
                patches = patches.with_others(hit, after)
        lr = patches.levels[..., : target[0], : target[1]]
        return (torch.floor(lr.clamp(0, 255) + 0.5) / 255).to(hr.dtype)


@dataclass(frozen=True, slots=True)
class _Patches:
    """Levels ``(n, c, h, w)`` of patches of different sizes, each at the top left of its plane.

    What lies beyond a patch's own (rows, columns) means nothing.
    """

    levels: Tensor
    sizes: list[Size]

    def of(self, which: list[int]) -> _Patches:
        """Return some of the patches."""
        if len(which) == len(self.sizes):
            return self
        return _Patches(self.levels[which], [self.sizes[i] for i in which])

    def with_others(self, which: list[int], others: _Patches) -> _Patches:
        """Return all patches, those named replaced in this order."""
        if len(which) == len(self.sizes):
            return others
        old, new = self.levels.shape[2:], others.levels.shape[2:]
        rows, cols = max(old[0], new[0]), max(old[1], new[1])
        levels = functional.pad(self.levels, (0, cols - old[1], 0, rows - old[0]))
        levels = levels.clone()
        levels[which] = functional.pad(others.levels, (0, cols - new[1], 0, rows - new[0]))
        sizes = list(self.sizes)
        for place, size in zip(which, others.sizes, strict=True):
            sizes[place] = size
        return _Patches(levels, sizes)

    def mirrored(self, reach: int) -> Tensor:
        """Return the levels with `reach` more pixels on each side, mirrored with the edge."""
        x = self.levels
        for dim, axis in ((2, 0), (3, 1)):
            length = self._lengths(axis)
            places = torch.arange(-reach, x.shape[dim] + reach, device=x.device)
            period = places % (2 * length)
            sources = torch.where(period < length, period, 2 * length - 1 - period)
            x = _gathered(x, sources, dim=dim)
        return x

    def filled(self, multiple: int) -> Tensor:
        """Return the levels with edges repeated, up to sides that are multiples of a number."""
        x = self.levels
        for dim, axis in ((2, 0), (3, 1)):
            length = self._lengths(axis)
            places = torch.arange(-(-x.shape[dim] // multiple) * multiple, device=x.device)
            x = _gathered(x, torch.minimum(places, length - 1), dim=dim)
        return x

    def _lengths(self, axis: int) -> Tensor:
        """Return the patches' rows or columns as ``(n, 1)``."""
        lengths = [size[axis] for size in self.sizes]
        return torch.tensor(lengths, device=self.levels.device).view(-1, 1)


def _gathered(x: Tensor, sources: Tensor, *, dim: int) -> Tensor:
    """Return ``(n, c, h, w)`` with rows or columns taken from places ``(n, length)``."""
    shape = list(x.shape)
    shape[dim] = sources.shape[1]
    index = sources[:, None, :, None] if dim == 2 else sources[:, None, None, :]
    return x.gather(dim, index.expand(shape))


def _generator(seeds: Sequence[int], name: str, device: torch.device) -> torch.Generator:
    """Return a generator of the device that depends on the seeds, in their order, and the name."""
    sequence = np.random.SeedSequence([int(s) for s in seeds], spawn_key=tuple(name.encode()))
    state = int(sequence.generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(state >> 1)


def _after(
    step: Step,
    patches: _Patches,
    values: dict[str, Floats],
    generator: torch.Generator,
    target: Size,
) -> _Patches:
    """Return the patches after one step; `values` has one number of each for every patch."""
    x = patches.levels
    match step:
        case Resize():
            return _resized(step, patches, values, target)
        case Blur() | Motion() | Sinc():
            x = _convolved(patches, kernels(step, values))
        case Noise():
            noise = torch.randn(x.shape, generator=generator, device=x.device)
            noise = torch.where(_column(values["grey"], x) > 0, noise[:, :1], noise)
            x = (x + noise * _column(values["sigma"], x)).clamp(0, 255)
        case Poisson():
            noise = _photons(x.clamp(0, 255), _column(values["grey"], x) > 0, generator)
            x = (x + noise * _column(values["scale"], x)).clamp(0, 255)
        case Jpeg():
            rows, cols = x.shape[2:]
            coded = simulate_jpeg(patches.filled(16), qualities=whole_quality(values))
            x = coded[..., :rows, :cols]
        case Webp():
            x = _webp(patches, whole_quality(values))
        case _:
            raise RecipeError(f"op is {step.op!r}, which degrades nothing; expected one that does")
    return _Patches(x, patches.sizes)


def _resized(step: Resize, patches: _Patches, values: dict[str, Floats], target: Size) -> _Patches:
    """Resize each patch to a size of its own, those of one kernel together."""
    after = [
        step.size_of(current=size, target=target, factor=float(factor))
        for size, factor in zip(patches.sizes, values["factor"], strict=True)
    ]
    result = patches
    for place, kernel in enumerate(step.kernel):
        which = np.flatnonzero(values["kernel"] == place).tolist()
        if which:
            part, sizes = patches.of(which), [after[i] for i in which]
            levels = resize_each(
                part.levels,
                before=part.sizes,
                after=sizes,
                method=kernel,
                antialias=step.stretches(kernel),
            )
            result = result.with_others(which, _Patches(levels, sizes))
    return result


def _convolved(patches: _Patches, each: Floats) -> Tensor:
    """Return the levels convolved with a kernel for each patch, as `blur.convolve` does."""
    reach = each.shape[1] // 2
    rows, cols = patches.levels.shape[2:]
    extended = patches.mirrored(reach)
    shape = (fast_length(rows + 2 * reach), fast_length(cols + 2 * reach))
    kernel = torch.from_numpy(each).to(extended).unsqueeze(1)
    product = torch.fft.rfft2(extended, shape) * torch.fft.rfft2(kernel, shape)
    whole: Tensor = torch.fft.irfft2(product, shape)
    return whole[..., 2 * reach : 2 * reach + rows, 2 * reach : 2 * reach + cols]


def _photons(light: Tensor, grey: Tensor, generator: torch.Generator) -> Tensor:
    """Return counted minus expected light, that of the luma in all channels where `grey`."""
    if light.shape[1] == 3:
        weights = light.new_tensor(LUMA).view(1, 3, 1, 1)
        light = torch.where(grey, (light * weights).sum(dim=1, keepdim=True), light)
    noise = torch.poisson(light, generator=generator) - light
    return torch.where(grey, noise[:, :1], noise)


def _webp(patches: _Patches, qualities: list[int]) -> Tensor:
    whole = torch.floor(patches.levels.clamp(0, 255) + 0.5).to(torch.uint8).cpu().numpy()
    x = patches.levels.clone()
    for place, ((rows, cols), quality) in enumerate(zip(patches.sizes, qualities, strict=True)):
        coded = recompress(whole[place, :, :rows, :cols], format="webp", quality=quality)
        x[place, :, :rows, :cols] = torch.from_numpy(coded.astype(np.float32)).to(x)
    return x


def _column(values: Floats, x: Tensor) -> Tensor:
    """Return one number for each patch as ``(n, 1, 1, 1)`` on the device of `x`."""
    return torch.from_numpy(values).to(x).view(-1, 1, 1, 1)
