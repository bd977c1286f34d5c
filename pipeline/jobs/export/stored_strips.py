"""The pixels of a stored image as strips, read so that memory does not grow with the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.geometry import Rect, cuts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.geometry import Span
    from pipeline.storage.image import StoredImage

_STRIP_BYTES = 48 << 20
_READ_BYTES = 8 << 20
"""Zarr holds all chunks of what it reads at once, decoded and not."""


@dataclass(frozen=True, slots=True)
class StoredStrips:
    """The strips of an image: whole rows of chunks, or parts of them where these are large.

    Iterating raises ArchiveError where a shard is missing or damaged.
    """

    image: StoredImage

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, rows, columns)."""
        return (self.image.channels, *self.image.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of a pixel."""
        return self.image.dtype

    def __iter__(self) -> Iterator[NDArray[Any]]:
        channels, height, width = self.shape
        row_bytes = channels * width * self.dtype.itemsize
        chunk_rows = self.image.chunk_px[0]
        # Chunks are read again for each part of a row of them: reading is faster than encoding.
        parts = -(-chunk_rows // max(1, _STRIP_BYTES // row_bytes))
        for rows in cuts(height, -(-chunk_rows // parts)):
            yield self._strip(rows)

    def _strip(self, rows: Span) -> NDArray[Any]:
        channels, _, width = self.shape
        chunk_rows, chunk_cols = self.image.chunk_px
        column_bytes = channels * chunk_rows * chunk_cols * self.dtype.itemsize
        step = max(1, _READ_BYTES // column_bytes) * chunk_cols
        if step >= width:
            return self.image.read(Rect(rows, cuts(width, width)[0]))
        strip = np.empty((channels, len(rows), width), self.dtype)
        for cols in cuts(width, step):
            strip[:, :, cols.index] = self.image.read(Rect(rows, cols))
        return strip
