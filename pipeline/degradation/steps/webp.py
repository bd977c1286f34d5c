"""Compression as WebP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pipeline.degradation.codec import recompressed, recompressed_batch, whole_qualities
from pipeline.degradation.step import Step, Uniform, within

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.degradation.batch_patches import Patches
    from pipeline.degradation.levels import Floats, Size, Values


@dataclass(frozen=True, kw_only=True)
class Webp(Step):
    """Compress as lossy WebP, at `quality` rounded to a whole number."""

    op: ClassVar[str] = "webp"

    quality: Uniform = field(metadata=within(1, 100))
    """Quality of the file, as image editors count it."""

    def apply(
        self, levels: Floats, values: Values, *, generator: np.random.Generator, target: Size
    ) -> Floats:
        """Return ``(c, h, w)`` as the codec gives it back."""
        return recompressed(levels, values, codec="webp")

    def apply_batch(
        self, patches: Patches, values: Values, *, generator: torch.Generator, target: Size
    ) -> Patches:
        """Return the patches as the codec gives them back, which works on the CPU."""
        coded = recompressed_batch(patches, whole_qualities(values), codec="webp")
        return patches.with_levels(coded)
