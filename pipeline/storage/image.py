"""One image of an archive, opened: an array ``(c, y, x)`` that is read and written by rectangles.

Sources: Zarr v3 core and sharding specifications.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ArchiveError, UnreadableError
from pipeline.geometry import Rect, Span
from pipeline.storage.disk import fsync, holds_bytes, remove_partials_of
from pipeline.storage.zarr_metadata import CHECK_DISK
from pipeline.storage.zarr_stores import place_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    import zarr
    from numpy.typing import NDArray

    from pipeline.storage.store import Place

INNER_CHUNK_PX = 512


@dataclass(frozen=True, slots=True)
class Layout:
    """How the array of an item is cut into files: one shard a file, chunks inside."""

    shard_px: tuple[int, int]
    chunk_px: tuple[int, int]

    @classmethod
    def of(cls, *, height: int, width: int, shard_px: int) -> Layout:
        """Return shards of `shard_px` squares (less for a smaller picture) of whole chunks.

        Raises:
            ValueError: if a number is below 1.
        """
        if min(height, width, shard_px) < 1:
            raise ValueError(
                f"picture is {height}x{width} and its shards {shard_px} px, expected at least 1"
            )
        chunk = next((c for c in (INNER_CHUNK_PX, 256) if shard_px % c == 0), shard_px)
        shards = tuple(min(shard_px, -(-side // chunk) * chunk) for side in (height, width))
        return cls(shard_px=(shards[0], shards[1]), chunk_px=(chunk, chunk))


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One item of an archive, opened."""

    item: str
    array: zarr.Array[Any]
    provenance: Mapping[str, Any]

    @property
    def in_stack(self) -> bool:
        """Return whether it is one image of a stack, rather than an image of its own."""
        return False

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return int(self.array.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return int(self.array.shape[1]), int(self.array.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of a pixel: uint8, uint16 or float32."""
        return np.dtype(self.array.dtype)

    @property
    def chunk_px(self) -> tuple[int, int]:
        """Return (rows, columns) of the least that is read and decoded at once."""
        *_, rows, cols = self.array.chunks
        return int(rows), int(cols)

    def read(self, rect: Rect) -> NDArray[Any]:
        """Return the pixels ``(c, rows, cols)`` of `rect`.

        Raises:
            ArchiveError: if a shard is missing (Zarr itself would return black) or damaged.
        """
        missing = [key for key in self._shard_keys(rect) if not holds_bytes(self._file(key))]
        if missing:
            raise ArchiveError(self._unreadable(rect, f"{missing[0]} is missing"))
        try:
            pixels = self._pixels(rect)
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise UnreadableError(self._unreadable(rect, reason, CHECK_DISK)) from error
            raise ArchiveError(self._unreadable(rect, reason)) from error
        if pixels.shape[1:] != rect.shape:
            raise ArchiveError(self._unreadable(rect, f"the picture is {self.size}"))
        return pixels

    def is_whole(self, rect: Rect) -> bool:
        """Return whether every pixel of `rect` was written and can be read back."""
        try:
            self.read(rect)
        except ArchiveError:
            return False
        return True

    def has_shard(self, rect: Rect) -> bool:
        """Return whether the file of every shard of `rect` is there and not empty.

        Nothing is read: a shard that is there may still be damaged, which `is_whole` finds.
        """
        return all(holds_bytes(self._file(key)) for key in self._shard_keys(rect))

    def replace(self, rect: Rect, pixels: NDArray[Any]) -> None:
        """Write `rect`, which is exactly one shard, and make it durable.

        The old shard is deleted first: a damaged one could not be written over, as writing reads
        it. When this returns, the pixels survive a power cut.

        Raises:
            ArchiveError: if `rect` is not one whole shard, or `pixels` do not fit it.
        """
        expected = (self.channels, *rect.shape)
        if pixels.shape != expected or pixels.dtype != self.dtype:
            raise ArchiveError(
                f"{self.item}: pixels are {pixels.dtype} {pixels.shape}, expected {self.dtype} "
                f"{expected}"
            )
        keys = self._shard_keys(rect)
        height, width = self.size
        inside = rect.rows.stop <= height and rect.cols.stop <= width
        if len(keys) != 1 or not inside or rect != self._shard_at(rect):
            raise ArchiveError(f"{self.item}: {rect} is not one shard of {self._shard_px} px")
        file = self._file(keys[0])
        file.unlink(missing_ok=True)
        remove_partials_of(file)
        self.array[rect.index] = pixels
        fsync(file)
        fsync(file.parent)

    def _pixels(self, rect: Rect) -> NDArray[Any]:
        return np.asarray(self.array[rect.index])

    @property
    def _shard_px(self) -> tuple[int, int]:
        shard = self.array.shards or self.array.chunks
        return int(shard[1]), int(shard[2])

    def _shard_keys(self, rect: Rect) -> list[str]:
        """Return the keys of all shards that hold pixels of `rect`."""
        rows, cols = (
            range(span.start // side, -(-span.stop // side))
            for span, side in zip((rect.rows, rect.cols), self._shard_px, strict=True)
        )
        return [f"{self.array.path}/c/0/{row}/{col}" for row in rows for col in cols]

    def _shard_at(self, rect: Rect) -> Rect:
        """Return the shard, clipped to the picture, in which `rect` begins."""
        spans = []
        for span, side, length in zip(
            (rect.rows, rect.cols), self._shard_px, self.size, strict=True
        ):
            start = span.start // side * side
            spans.append(Span(start, min(start + side, length)))
        return Rect(*spans)

    def _file(self, key: str) -> Place:
        return place_at(self.array.store) / key

    @property
    def _mend(self) -> str:
        """Return what to do about a damaged shard: SR is computed again, LR is read again."""
        if "fingerprint" in self.provenance:
            return "`upres rerun JOB` computes it again once it is marked as failed"
        return self._mend_lr

    @property
    def _mend_lr(self) -> str:
        return "delete the item's folder from the archive and ingest it again"

    def _unreadable(self, rect: Rect, reason: str, mend: str = "") -> str:
        rows, cols = rect.rows, rect.cols
        return (
            f"{self.item} rows {rows.start}-{rows.stop} cols {cols.start}-{cols.stop} cannot be "
            f"read ({reason}); {mend or self._mend}"
        )
