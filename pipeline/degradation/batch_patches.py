"""Patches of a batch on a device, which steps may leave at sizes of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.degradation.levels import Size


@dataclass(frozen=True, slots=True)
class Patches:
    """Levels ``(n, c, h, w)`` of patches of different sizes, each at the top left of its plane.

    What is beyond a patch's own (rows, columns) means nothing.
    """

    levels: Tensor
    sizes: list[Size]

    def of(self, which: list[int]) -> Patches:
        """Return some of the patches."""
        if len(which) == len(self.sizes):
            return self
        return Patches(self.levels[which], [self.sizes[i] for i in which])

    def with_levels(self, levels: Tensor) -> Patches:
        """Return patches of the same sizes with other levels."""
        return Patches(levels, self.sizes)

    def with_others(self, which: list[int], others: Patches) -> Patches:
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
        return Patches(levels, sizes)

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
