"""The noise of counted light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from pipeline.degradation.levels import clipped, column, luma, luma_of_batch
from pipeline.degradation.step import Step, Uniform, within

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pipeline.degradation.batch_patches import Patches
    from pipeline.degradation.levels import Floats, Size, Values


@dataclass(frozen=True, kw_only=True)
class Poisson(Step):
    """Add the noise of counted light, and clip to 0..255.

    Its variance is ``scale**2`` times the level: at scale 1 each of the 255 levels is one photon.
    """

    op: ClassVar[str] = "poisson"

    scale: Uniform = field(metadata=within(0, 16))
    """Strength: the noise has a variance of `scale` squared times the level."""
    grey: float = field(default=0.0, metadata=within(0, 1))
    """Probability that the noise is that of the luma, the same in all channels."""

    def apply(
        self, levels: Floats, values: Values, *, generator: np.random.Generator, target: Size
    ) -> Floats:
        """Return ``(c, h, w)`` with noise from the generator."""
        light = clipped(levels)
        if values["grey"][0]:
            light = luma(light)
        return clipped(levels + (generator.poisson(light) - light) * values["scale"][0])

    def apply_batch(
        self, patches: Patches, values: Values, *, generator: torch.Generator, target: Size
    ) -> Patches:
        """Return the patches with noise from the device's generator."""
        x = patches.levels
        noise = _photons(x.clamp(0, 255), column(values["grey"], x) > 0, generator)
        return patches.with_levels((x + noise * column(values["scale"], x)).clamp(0, 255))


def _photons(light: Tensor, grey: Tensor, generator: torch.Generator) -> Tensor:
    """Return counted minus expected light, that of the luma in all channels where `grey`."""
    light = torch.where(grey, luma_of_batch(light), light)
    noise = torch.poisson(light, generator=generator) - light
    return torch.where(grey, noise[:, :1], noise)
