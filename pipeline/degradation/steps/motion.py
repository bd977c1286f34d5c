"""Blur by a straight, even motion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.degradation.convolution import LARGEST_KERNEL_PX, Blurring
from pipeline.degradation.step import Uniform, within

if TYPE_CHECKING:
    from pipeline.degradation.levels import Floats, Values

_POINTS = 127
"""Points that a motion's line is drawn with: two for each pixel of the longest."""


@dataclass(frozen=True, kw_only=True)
class Motion(Blurring):
    """Blur along a straight line."""

    op: ClassVar[str] = "motion"

    length: Uniform = field(metadata=within(0, LARGEST_KERNEL_PX - 3))
    """Length of the line, in pixels."""
    angle: Uniform = field(default=Uniform(0.0, 0.0), metadata=within(-360, 360))
    """Direction of the line, in degrees from the columns' axis towards the rows'."""

    def kernels(self, values: Values) -> Floats:
        """Return the kernels ``(n, side, side)``."""
        return line(values["length"], values["angle"])


def line(length: Floats, angle: Floats) -> Floats:
    """Return the kernels of straight motion, evenly fast, over `length` pixels.

    Points of the line are shared among their four neighbours, so no direction is jagged.
    """
    half = int(np.ceil(length.max(initial=0) / 2)) + 1
    along = np.linspace(-0.5, 0.5, _POINTS)[None] * length[:, None]
    turn = np.deg2rad(angle)[:, None]
    row, col = along * np.sin(turn) + half, along * np.cos(turn) + half
    top, left = np.floor(row).astype(np.intp), np.floor(col).astype(np.intp)
    below, right = row - top, col - left
    side = 2 * half + 1
    weights = np.zeros((len(length), side + 1, side + 1))
    patch = np.arange(len(length))[:, None]
    for down, share in ((0, 1 - below), (1, below)):
        np.add.at(weights, (patch, top + down, left), share * (1 - right))
        np.add.at(weights, (patch, top + down, left + 1), share * right)
    return weights[:, :side, :side] / _POINTS
