"""The arrays of a dataset: rows in and out, shard by shard.

zarr makes and describes the arrays; tensorstore carries pixels in and out of them, as zarr 3.1
takes half a millisecond for each inner chunk and tensorstore 0.05 (`benchmarks.loader`).

Sources: Zarr v3 core and sharding specifications.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore
import zarr
from zarr.codecs import ZstdCodec

from pipeline.errors import DatasetError, StoreError
from pipeline.storage.dataset.shards import shard_name, shards_at
from pipeline.storage.dataset.spec import IDENTITY, MOMENTS, SPLIT
from pipeline.storage.disk import fsync
from pipeline.storage.manifest import NO_PATCH
from pipeline.storage.zarr_metadata import METADATA
from pipeline.storage.zarr_stores import store_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.storage.dataset.spec import DatasetSpec
    from pipeline.storage.store import Place

# Training waits for decoding: against level 1, files are a fifth larger and read in two thirds of
# the time. The checksum turns a flipped bit into an error.
_CODEC = ZstdCodec(level=-5, checksum=True)
_MOST_WORDS = 300


class PatchArrays:
    """The arrays of one dataset, whose first axis counts the patches."""

    def __init__(self, path: Place, spec: DatasetSpec, *, keep: int = 0) -> None:
        """Read nothing yet; from a bucket, the last `keep` shards will stay in memory."""
        self.path = path
        self.spec = spec
        self._shards = shards_at(path, keep=keep)

    def __len__(self) -> int:
        """Return the number of rows; that is the length of `SPLIT`, which grows last."""
        return self._shape(SPLIT)[0]

    def create(self) -> None:
        """Make the arrays that are not there yet, without rows."""
        group = zarr.open_group(store_at(self.path), mode="r+", zarr_format=3)
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
        self._shards.forget()

    def holds(self, name: str, chunk: int) -> bool:
        """Return whether the shard of a chunk is there and not empty."""
        return self._shards.holds(name, chunk)

    def require(self, name: str, rows: NDArray[np.int64]) -> None:
        """Make sure that the shards of `rows` are there."""
        self._shards.require(name, self._chunks_of(rows))

    def fetch_ahead(self, names: Sequence[str], rows: NDArray[np.int64]) -> None:
        """Begin to fetch the shards of `rows`, where that takes time."""
        self._shards.fetch_ahead(names, self._chunks_of(rows))

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the patches ``(m, c, y, x)`` at `rows` of one array, in the order of `rows`.

        Raises:
            DatasetError: if one cannot be read, or its shard is missing: Zarr would return black.
            StoreError: if it is in a bucket that does not answer.
        """
        with self._readable(name), self._shards.opened(name, self._chunks_of(rows)) as store:
            return np.asarray(store[tensorstore.d[0][rows]].read().result())

    def read_all(self, name: str) -> NDArray[Any]:
        """Return all rows of one array; what has no shard reads as its fill value.

        Raises:
            DatasetError: if it is damaged.
            StoreError: if it is in a bucket that does not answer.
        """
        chunks = range(-(-self._shape(name)[0] // self.spec.chunk_patches))
        with self._readable(name), self._shards.opened(name, chunks, all_there=False) as store:
            return np.asarray(store.read().result())

    def write(self, name: str, chunk: int, places: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Replace one shard in one piece: `values` at `places`, nothing elsewhere."""
        start = chunk * self.spec.chunk_patches
        stop = min(start + self.spec.chunk_patches, len(self))
        block = values
        if len(values) < stop - start or not np.array_equal(places, np.arange(stop - start)):
            block = np.zeros((stop - start, *values.shape[1:]), dtype=values.dtype)
            block[places] = values
        try:
            self._shards.write(name, chunk, slice(start, stop), block)
        except StoreError:
            raise
        except (ValueError, OSError) as error:
            shard = self.path / name / shard_name(name, chunk)
            raise OSError(f"{shard} cannot be written ({_first_line(error)})") from error

    def _chunks_of(self, rows: NDArray[np.int64]) -> list[int]:
        chunks: list[int] = np.unique(rows // self.spec.chunk_patches).tolist()
        return chunks

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """Say of an array that cannot be read which it is, and what to do."""
        try:
            yield
        except (DatasetError, StoreError):
            raise
        except (ValueError, OSError, IndexError) as error:
            raise DatasetError(
                f"{self.path / name} cannot be read ({_first_line(error)}); run `upres prepare` "
                "again with --check"
            ) from error

    def _shape(self, name: str) -> tuple[int, ...]:
        file = self.path / name / METADATA
        try:
            shape = json.loads(self._shards.metadata(name))["shape"]
            return (int(shape[0]), *map(int, shape[1:]))
        except StoreError:
            raise
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
        return zarr.open_array(store_at(self.path / name), mode="r+", zarr_format=3)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    # tensorstore goes on with the spec of what it opened.
    if not lines:
        return type(error).__name__
    words = lines[0].split(" [")[0]
    # TensorStore names the file, perhaps twice, and the cause last.
    return words if len(words) <= _MOST_WORDS else f"{words[:60]} ... {words[65 - _MOST_WORDS :]}"
