"""The arrays of a dataset on the disk: rows in and out, shard by shard.

zarr makes and describes the arrays; tensorstore carries pixels in and out of them, as zarr 3.1
takes half a millisecond for each inner chunk and tensorstore 0.05 (`benchmarks.loader`).

Sources: Zarr v3 core and sharding specifications.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from pipeline.errors import DatasetError
from pipeline.storage.dataset.spec import IDENTITY, MOMENTS, SPLIT
from pipeline.storage.disk import fsync, holds_bytes
from pipeline.storage.manifest import NO_PATCH
from pipeline.storage.zarr_metadata import METADATA

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.storage.dataset.spec import DatasetSpec

# Training waits for decoding: against level 1, files are a fifth larger and read in two thirds of
# the time. The checksum turns a flipped bit into an error.
_CODEC = ZstdCodec(level=-5, checksum=True)
_MOST_WORDS = 300


class PatchArrays:
    """The arrays of one dataset, whose first axis counts the patches."""

    def __init__(self, path: Path, spec: DatasetSpec) -> None:
        self.path = path
        self.spec = spec

    def __len__(self) -> int:
        """Return the number of rows; that is the length of `SPLIT`, which grows last."""
        return self._shape(SPLIT)[0]

    def create(self) -> None:
        """Make the arrays that are not there yet, without rows."""
        group = zarr.open_group(LocalStore(self.path), mode="r+", zarr_format=3)
        spec = self.spec
        for name, px in spec.pixel_arrays.items():
            self._create(group, name, (spec.channels, *px), "uint8", ("n", "c", "y", "x"), 0)
        self._create(group, MOMENTS, (spec.channels, 2), "int64", ("n", "c", "moment"), 0)
        self._create(group, IDENTITY, (), "uint64", ("n",), 0)
        self._create(group, SPLIT, (), "uint8", ("n",), NO_PATCH)

    def check(self) -> None:
        """Make sure that all arrays are there: without one, what the others hold says nothing."""
        expected: dict[str, tuple[int, ...]] = {
            name: (self.spec.channels, *px) for name, px in self.spec.pixel_arrays.items()
        }
        expected |= {MOMENTS: (self.spec.channels, 2), IDENTITY: (), SPLIT: ()}
        for name, patch in expected.items():
            found = self._shape(name)
            if found[1:] != patch or found[0] < len(self):
                raise DatasetError(
                    f"{self.path / name / METADATA} declares shape {found}, expected "
                    f"{(len(self), *patch)}; restore it, or prepare the dataset in another folder"
                )

    def grow(self, rows: int) -> None:
        """Make all arrays `rows` long, durably; those that are longer stay so."""
        for name in (*self.spec.pixel_arrays, MOMENTS, IDENTITY, SPLIT):
            array = self._zarr(name)
            if array.shape[0] < rows:
                array.resize((rows, *array.shape[1:]))
                fsync(self.path / name / METADATA)
                fsync(self.path / name)

    def holds(self, name: str, chunk: int) -> bool:
        """Return whether the shard of a chunk is there and not empty."""
        return holds_bytes(self._shard(name, chunk))

    def require(self, name: str, rows: NDArray[np.int64]) -> None:
        """Make sure that the shards of `rows` are there."""
        for chunk in np.unique(rows // self.spec.chunk_patches).tolist():
            if not holds_bytes(self._shard(name, chunk)):
                raise DatasetError(
                    f"{self._shard(name, chunk)} is missing; run `upres prepare` again with "
                    f"--check, which rebuilds chunk {chunk}"
                )

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the patches ``(m, c, y, x)`` at `rows` of one array, in the order of `rows`.

        Raises:
            DatasetError: if one cannot be read, or its shard is missing: Zarr would return black.
        """
        self.require(name, rows)
        try:
            return np.asarray(self._store(name)[tensorstore.d[0][rows]].read().result())
        except (ValueError, OSError, IndexError) as error:
            raise DatasetError(
                f"{self.path / name} cannot be read ({_first_line(error)}); run `upres prepare` "
                "again with --check"
            ) from error

    def read_all(self, name: str) -> NDArray[Any]:
        """Return all rows of one array; what has no shard reads as its fill value.

        Raises:
            DatasetError: if it is damaged.
        """
        try:
            return np.asarray(self._store(name).read().result())
        except (ValueError, OSError) as error:
            raise DatasetError(
                f"{self.path / name} cannot be read ({_first_line(error)}); run `upres prepare` "
                "again with --check"
            ) from error

    def write(self, name: str, chunk: int, places: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Replace one shard in one piece: `values` at `places`, nothing elsewhere."""
        start = chunk * self.spec.chunk_patches
        stop = min(start + self.spec.chunk_patches, len(self))
        shard = self._shard(name, chunk)
        store = self._store(name)[start:stop]
        block = values
        if len(values) < stop - start or not np.array_equal(places, np.arange(stop - start)):
            block = np.zeros(store.shape, dtype=values.dtype)
            block[places] = values
        # What a killed writer left beside it.
        for path in shard.parent.glob(f"{shard.name}.__lock*"):
            path.unlink(missing_ok=True)
        try:
            store.write(block).result()
        except (ValueError, OSError) as error:
            raise OSError(f"{shard} cannot be written ({_first_line(error)})") from error
        fsync(shard)
        fsync(shard.parent)

    def _shape(self, name: str) -> tuple[int, ...]:
        file = self.path / name / METADATA
        try:
            shape = json.loads(file.read_bytes())["shape"]
            return (int(shape[0]), *map(int, shape[1:]))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DatasetError(
                f"{file} is missing or damaged ({type(error).__name__}: {error}); restore it, or "
                "prepare the dataset in another folder"
            ) from error

    def _create(
        self,
        group: zarr.Group,
        name: str,
        patch: tuple[int, ...],
        dtype: str,
        axes: Sequence[str],
        fill_value: int,
    ) -> None:
        if (self.path / name / METADATA).exists():
            return
        many = self.spec.chunk_patches
        sharded = len(patch) == 3
        group.create_array(
            name,
            shape=(0, *patch),
            dtype=dtype,
            chunks=((1 if sharded else many), *patch),
            shards=(many, *patch) if sharded else None,
            compressors=_CODEC,
            fill_value=fill_value,
            dimension_names=tuple(axes),
            # All files of an array in one folder: each folder more is one more to make durable.
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        fsync(self.path / name / METADATA)
        fsync(self.path / name)

    def _zarr(self, name: str) -> zarr.Array[Any]:
        return zarr.open_array(LocalStore(self.path / name), mode="r+", zarr_format=3)

    def _store(self, name: str) -> tensorstore.TensorStore:
        stamp = (self.path / name / METADATA).stat()
        return _opened(str(self.path / name), stamp.st_mtime_ns, stamp.st_ino, os.getpid())

    def _shard(self, name: str, chunk: int) -> Path:
        others = {MOMENTS: ".0.0", IDENTITY: "", SPLIT: ""}.get(name, ".0.0.0")
        return self.path / name / f"c.{chunk}{others}"


@lru_cache(maxsize=32)
def _opened(folder: str, _mtime_ns: int, _inode: int, _pid: int) -> tensorstore.TensorStore:
    """Open an array; another time or inode of its metadata means that it grew."""
    spec = {
        "driver": "zarr3",
        # It takes no path with ".." in it.
        "kvstore": {"driver": "file", "path": f"{os.path.realpath(folder)}/"},
        # A black patch is written too: then a shard's existence is proof of its patches.
        "store_data_equal_to_fill_value": True,
        # What is written is made durable by the writer, with the folders that it is in.
        "context": {"file_io_sync": False},
    }
    return tensorstore.open(spec).result()


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    # tensorstore goes on with the spec of what it opened.
    if not lines:
        return type(error).__name__
    words = lines[0].split(" [")[0]
    # TensorStore names the file, perhaps twice, and the cause last.
    return words if len(words) <= _MOST_WORDS else f"{words[:60]} ... {words[65 - _MOST_WORDS :]}"
