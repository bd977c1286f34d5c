"""Compression as JPEG."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pipeline.degradation.codec import recompressed, whole_qualities
from pipeline.degradation.jpeg_simulation import UNIT_PX, simulate_jpeg
from pipeline.degradation.step import Step, Uniform, within

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.degradation.batch_patches import Patches
    from pipeline.degradation.levels import Floats, Size, Values


@dataclass(frozen=True, kw_only=True)
class Jpeg(Step):
    """Compress as JPEG with colours at half resolution, at `quality` rounded to a whole number."""

    op: ClassVar[str] = "jpeg"

    quality: Uniform = field(metadata=within(1, 100))
    """Quality of the file, as image editors count it."""

    def apply(
        self, levels: Floats, values: Values, *, generator: np.random.Generator, target: Size
    ) -> Floats:
        """Return ``(c, h, w)`` as the codec gives it back."""
        return recompressed(levels, values, codec="jpeg")

    def apply_batch(
        self, patches: Patches, values: Values, *, generator: torch.Generator, target: Size
    ) -> Patches:
        """Return the patches as a codec would give them back, simulated on the device."""
        rows, cols = patches.levels.shape[2:]
        coded = simulate_jpeg(patches.filled(UNIT_PX), qualities=whole_qualities(values))
        return patches.with_levels(coded[..., :rows, :cols])
