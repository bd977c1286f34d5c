"""The file that a picture's metadata is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.pictures.formats import Block, Format


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The file that metadata is fitted to."""

    format: Format
    width: int
    height: int
    channels: int
    dtype: str
    thumbnail: Callable[[int], bytes]
    """Return the picture as a small JPEG of at most so many pixels a side."""

    def carries(self, block: Block) -> bool:
        """Return whether the file has a place for a kind of metadata."""
        return self.format.most(block) > 0
