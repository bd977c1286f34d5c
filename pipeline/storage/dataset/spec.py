"""What the patches of a dataset have in common, and the names of its arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HR, LR_PREFIX, SPLIT, MOMENTS, IDENTITY = "hr", "lr_", "split", "moments", "identity"
"""Names of the arrays; that of an LR version goes on with the name of its degradation."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_CHUNK_BYTES = 2**24
_CHUNK_PATCHES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """What the patches of a dataset have in common, and what they were made by."""

    scale: int
    channels: int
    hr_px: tuple[int, int]
    """Rows and columns of an HR patch."""
    degradations: tuple[str, ...]
    """Names of the LR versions of each patch."""
    recipe: Mapping[str, Any]
    fingerprint: str
    """Of everything that decides the patches, beside the pictures."""
    chunk_patches: int = 0
    """How many patches make up a chunk; 0 stands for a power of two, 16 MiB of HR at most."""

    def __post_init__(self) -> None:
        sides = (self.scale, self.channels, *self.hr_px)
        if min(sides) < 1 or any(side % self.scale for side in self.hr_px):
            raise ValueError(
                f"scale {self.scale}, channels {self.channels} and patches of {self.hr_px} px, "
                "expected at least 1 each, and multiples of the scale"
            )
        for name in self.degradations:
            if not _NAME.fullmatch(name):
                raise ValueError(f"a degradation is called {name!r}, expected {_NAME.pattern}")
        if self.chunk_patches < 0:
            raise ValueError(f"chunk_patches is {self.chunk_patches}, expected at least 1")
        if not self.chunk_patches:
            most = _CHUNK_BYTES // (self.channels * self.hr_px[0] * self.hr_px[1])
            chosen = 1 << (max(1, min(most, _CHUNK_PATCHES)).bit_length() - 1)
            object.__setattr__(self, "chunk_patches", chosen)

    @property
    def lr_px(self) -> tuple[int, int]:
        """Return rows and columns of an LR patch."""
        return self.hr_px[0] // self.scale, self.hr_px[1] // self.scale

    @property
    def pixel_arrays(self) -> dict[str, tuple[int, int]]:
        """Return the arrays that hold pixels, and rows and columns of a patch in each."""
        return {HR: self.hr_px, **{LR_PREFIX + name: self.lr_px for name in self.degradations}}
