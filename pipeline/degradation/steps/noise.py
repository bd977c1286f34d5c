"""Normal noise, as amplifiers make it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from pipeline.degradation.levels import clipped, column
from pipeline.degradation.step import Step, Uniform, within

if TYPE_CHECKING:
    import numpy as np

    from pipeline.degradation.batch_patches import Patches
    from pipeline.degradation.levels import Floats, Size, Values


@dataclass(frozen=True, kw_only=True)
class Noise(Step):
    """Add normal noise, and clip to 0..255."""

    op: ClassVar[str] = "noise"

    sigma: Uniform = field(metadata=within(0, 255))
    """Standard deviation, in levels of 0..255."""
    grey: float = field(default=0.0, metadata=within(0, 1))
    """Probability that the noise is the same in all channels."""

    def apply(
        self, levels: Floats, values: Values, *, generator: np.random.Generator, target: Size
    ) -> Floats:
        """Return ``(c, h, w)`` with noise from the generator."""
        shape = (1, *levels.shape[1:]) if values["grey"][0] else levels.shape
        return clipped(levels + generator.standard_normal(shape) * values["sigma"][0])

    def apply_batch(
        self, patches: Patches, values: Values, *, generator: torch.Generator, target: Size
    ) -> Patches:
        """Return the patches with noise from the device's generator."""
        x = patches.levels
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        noise = torch.where(column(values["grey"], x) > 0, noise[:, :1], noise)
        return patches.with_levels((x + noise * column(values["sigma"], x)).clamp(0, 255))
