"""Another size, by one of several kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from models.interpolation import resize, resize_each
from pipeline.degradation.batch_patches import Patches
from pipeline.degradation.step import Step, Uniform, one_of, within

if TYPE_CHECKING:
    from pipeline.degradation.levels import Floats, Size, Values


@dataclass(frozen=True, kw_only=True)
class Resize(Step):
    """Resize to `factor` times the size of the LR patch, or of the patch as it is.

    The kernel is drawn from those named. Where an axis gets shorter, kernels are stretched
    (antialiasing); with ``antialias = false`` only the box is, which then is the mean of an area.
    """

    op: ClassVar[str] = "resize"

    factor: Uniform = field(default=Uniform(1.0, 1.0), metadata=within(0.01, 16))
    """New size, as a multiple of the one that `of` names."""
    of: str = field(default="target", metadata=one_of("target", "current"))
    """The size that `factor` multiplies: that of the LR patch, or the present one."""
    kernel: tuple[str, ...] = field(
        default=("bicubic",), metadata=one_of("bicubic", "bilinear", "box", "lanczos")
    )
    """Interpolation kernel, or a list to draw from."""
    antialias: bool = True
    """Whether kernels are widened where an axis gets shorter; the box always is."""

    @property
    def is_reduction(self) -> bool:
        """Whether the step always is the antialiased reduction to the target, by one kernel."""
        to_target = self.of == "target" and self.factor == Uniform(1, 1)
        alike = self.chance == 1 and len(self.kernel) == 1
        return to_target and alike and self.stretches(self.kernel[0])

    def ends_at_target(self, *, before: bool) -> bool:
        """Return whether the size after it is the LR patch's."""
        return self.factor == Uniform(1, 1) and (before or self.of == "target")

    def draw(self, numbers: Floats) -> Values:
        """Return the factor, and the kernel as its place in the list."""
        kernel = np.floor(numbers[:, 2] * len(self.kernel))
        return {"factor": self.factor.at(numbers[:, 1]), "kernel": kernel}

    def size_of(self, *, current: Size, target: Size, factor: float) -> Size:
        """Return the (rows, columns) that the step leaves, halves rounded up, at least one."""
        rows, cols = target if self.of == "target" else current
        return max(1, math.floor(rows * factor + 0.5)), max(1, math.floor(cols * factor + 0.5))

    def stretches(self, kernel: str) -> bool:
        """Return whether the kernel is widened where an axis gets shorter."""
        return self.antialias or kernel == "box"

    def apply(
        self, levels: Floats, values: Values, *, generator: np.random.Generator, target: Size
    ) -> Floats:
        """Return ``(c, h, w)`` at its new size."""
        kernel = self.kernel[int(values["kernel"][0])]
        current = (levels.shape[1], levels.shape[2])
        size = self.size_of(current=current, target=target, factor=float(values["factor"][0]))
        tensor = torch.from_numpy(np.ascontiguousarray(levels))
        resized: Floats = resize(
            tensor, size=size, method=kernel, antialias=self.stretches(kernel)
        ).numpy()
        return resized

    def apply_batch(
        self, patches: Patches, values: Values, *, generator: torch.Generator, target: Size
    ) -> Patches:
        """Return each patch at a size of its own; those of one kernel are computed together."""
        after = [
            self.size_of(current=size, target=target, factor=float(factor))
            for size, factor in zip(patches.sizes, values["factor"], strict=True)
        ]
        result = patches
        for place, kernel in enumerate(self.kernel):
            which = np.flatnonzero(values["kernel"] == place).tolist()
            if which:
                part, sizes = patches.of(which), [after[i] for i in which]
                levels = resize_each(
                    part.levels,
                    before=part.sizes,
                    after=sizes,
                    method=kernel,
                    antialias=self.stretches(kernel),
                )
                result = result.with_others(which, Patches(levels, sizes))
        return result
