"""One image of a stack, opened.

What belongs here: what sets it apart from an image of its own. Where it is, its stack knows
(`pipeline.storage.stack`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ArchiveError
from pipeline.storage.chunk_members import members_file, mend_chunk
from pipeline.storage.image import StoredImage

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray

    from pipeline.geometry import Rect


@dataclass(frozen=True, slots=True)
class StackedImage(StoredImage):
    """One image of a stack, opened; its pixels are read like those of an image of its own."""

    index: int
    """Which image of the array it is."""
    own_size: tuple[int, int]
    """(height, width) in pixels: in a mixed stack, of its part of the box."""
    held: NDArray[Any] | None = None
    """Its pixels ``(c, y, x)``, where they were read before."""

    @property
    def in_stack(self) -> bool:
        """Return True."""
        return True

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return int(self.array.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.own_size

    def replace(self, rect: Rect, pixels: NDArray[Any]) -> None:
        """Refuse: the images of a chunk are written together, by `Stack.write`.

        Raises:
            ArchiveError: always.
        """
        raise ArchiveError(f"{self.item} is in a stack, whose chunks are written whole")

    @property
    def _shard_px(self) -> tuple[int, int]:
        return self.size

    @property
    def _mend_lr(self) -> str:
        return mend_chunk(members_file(self._file(self.array.path).parent, self._chunk))

    @property
    def _chunk(self) -> int:
        return self.index // shard_length(self.array)

    def _shard_keys(self, rect: Rect) -> list[str]:
        return [f"{self.array.path}/c/{self._chunk}/0/0/0"]

    def _pixels(self, rect: Rect) -> NDArray[Any]:
        if self.held is not None:
            return self.held[rect.index]
        return np.asarray(self.array[(self.index, *rect.index)])


def shard_length(array: zarr.Array[Any]) -> int:
    """Return how many images a chunk of a stack has room for."""
    return int((array.shards or array.chunks)[0])
