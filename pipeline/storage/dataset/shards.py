"""Where the shards of a dataset's arrays are, and how tensorstore comes to them.

On a disk it opens the files. From a bucket a shard is fetched whole, by one request, and opened in
memory; one that is written is made in memory and stored whole. So a bucket is asked in one way for
all that upres keeps in it, with the same patience and the same words (`storage.object_store`).
tensorstore's own driver asks for each patch, and waits without end for an answer that never comes.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import tensorstore

from pipeline.errors import DatasetError
from pipeline.storage.dataset.held_shards import HeldFiles, HeldShards
from pipeline.storage.dataset.spec import IDENTITY, MOMENTS, SPLIT
from pipeline.storage.disk import fsync, holds_bytes
from pipeline.storage.store import BucketPlace
from pipeline.storage.zarr_metadata import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.storage.store import Place


class Shards(Protocol):
    """The shards of all arrays of one dataset, by the name of the array and the chunk."""

    def metadata(self, name: str) -> bytes:
        """Return the description of an array; FileNotFoundError if there is none."""

    def forget(self) -> None:
        """Read the description of each array again, as it grew."""

    def holds(self, name: str, chunk: int) -> bool:
        """Return whether a shard is there and not empty."""

    def require(self, name: str, chunks: Sequence[int]) -> None:
        """Make sure that shards are there; DatasetError if one is not."""

    def opened(
        self, name: str, chunks: Sequence[int], *, all_there: bool = True
    ) -> AbstractContextManager[tensorstore.TensorStore]:
        """Open an array to read some of its shards.

        Raises DatasetError if one is missing, as Zarr would return black; unless not `all_there`.
        """

    def fetch_ahead(self, names: Sequence[str], chunks: Sequence[int]) -> None:
        """Begin to fetch shards that will be read, where that takes time."""

    def write(self, name: str, chunk: int, rows: slice, block: NDArray[Any]) -> None:
        """Replace one shard in one piece, durably; `rows` are those of the array that it holds."""


def shards_at(place: Place, *, keep: int = 0) -> Shards:
    """Return the shards of the dataset at a place, of which `keep` from a bucket stay in memory."""
    return BucketShards(place, keep) if isinstance(place, BucketPlace) else DiskShards(place)


def shard_name(name: str, chunk: int) -> str:
    """Return what the file of a shard is called in the folder of its array."""
    others = {MOMENTS: ".0.0", IDENTITY: "", SPLIT: ""}.get(name, ".0.0.0")
    return f"c.{chunk}{others}"


class DiskShards:
    """Shards that are files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def metadata(self, name: str) -> bytes:
        """Return the description of an array."""
        return (self.path / name / METADATA).read_bytes()

    def forget(self) -> None:
        """Do nothing: a file that was replaced is seen."""

    def holds(self, name: str, chunk: int) -> bool:
        """Return whether a shard is there and not empty."""
        return holds_bytes(self._file(name, chunk))

    def require(self, name: str, chunks: Sequence[int]) -> None:
        """Make sure that shards are there."""
        for chunk in chunks:
            if not self.holds(name, chunk):
                raise missing_shard(self._file(name, chunk), chunk)

    @contextmanager
    def opened(
        self, name: str, chunks: Sequence[int], *, all_there: bool = True
    ) -> Iterator[tensorstore.TensorStore]:
        """Open an array to read it."""
        if all_there:
            self.require(name, chunks)
        yield self._store(name)

    def fetch_ahead(self, names: Sequence[str], chunks: Sequence[int]) -> None:
        """Do nothing: that is for the page cache."""

    def write(self, name: str, chunk: int, rows: slice, block: NDArray[Any]) -> None:
        """Replace a file."""
        file = self._file(name, chunk)
        # What a killed writer left beside it.
        for path in file.parent.glob(f"{file.name}.__lock*"):
            path.unlink(missing_ok=True)
        self._store(name)[rows].write(block).result()
        fsync(file)
        fsync(file.parent)

    def _store(self, name: str) -> tensorstore.TensorStore:
        stamp = (self.path / name / METADATA).stat()
        return _opened(str(self.path / name), stamp.st_mtime_ns, stamp.st_ino, os.getpid())

    def _file(self, name: str, chunk: int) -> Path:
        return self.path / name / shard_name(name, chunk)


class BucketShards:
    """Shards that are objects. Pickled it is an address: who unpickles it fetches its own."""

    def __init__(self, place: BucketPlace, keep: int = 0) -> None:
        self.place = place
        self._keep = keep
        self._metadata: dict[str, bytes] = {}
        self._held = HeldShards(keep)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes it again."""
        return (BucketShards, (self.place, self._keep))

    def metadata(self, name: str) -> bytes:
        """Return the description of an array, which is read once."""
        if name not in self._metadata:
            self._metadata[name] = (self.place / name / METADATA).read_bytes()
        return self._metadata[name]

    def forget(self) -> None:
        """Read the description of each array again."""
        self._metadata.clear()
        self._held.close()

    def holds(self, name: str, chunk: int) -> bool:
        """Return whether a shard is there and not empty."""
        return holds_bytes(self._object(name, chunk))

    def require(self, name: str, chunks: Sequence[int]) -> None:
        """Make sure that shards are there, by a request for 1,000 of them."""
        folder = self.place / name
        found = {one.key for one in folder.below() if one.size_bytes} if len(chunks) else set()
        for chunk in chunks:
            if self._object(name, chunk).key not in found:
                raise missing_shard(self._object(name, chunk), chunk)

    @contextmanager
    def opened(
        self, name: str, chunks: Sequence[int], *, all_there: bool = True
    ) -> Iterator[tensorstore.TensorStore]:
        """Fetch shards, several at once, and open what has them."""
        objects = [self._object(name, chunk) for chunk in chunks]
        with self._held.holding(objects) as found:
            for chunk, place, there in zip(chunks, objects, found, strict=True):
                if all_there and not there:
                    raise missing_shard(place, chunk)
            yield self._held.open(self.place / name, self.metadata(name))

    def fetch_ahead(self, names: Sequence[str], chunks: Sequence[int]) -> None:
        """Begin to fetch shards."""
        self._held.ask([self._object(name, chunk) for chunk in chunks for name in names])

    def write(self, name: str, chunk: int, rows: slice, block: NDArray[Any]) -> None:
        """Store an object."""
        place, folder, made = self._object(name, chunk), self.place / name, HeldFiles()
        made.open(folder, self.metadata(name))[rows].write(block).result()
        place.write_bytes(made.content(place))
        self._held.drop(place)

    def _object(self, name: str, chunk: int) -> BucketPlace:
        return self.place / name / shard_name(name, chunk)


def missing_shard(place: Place, chunk: int) -> DatasetError:
    """Return the error that says that the shard of a chunk is not there."""
    return DatasetError(
        f"{place} is missing; run `upres prepare` again with --check, which rebuilds chunk {chunk}"
    )


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
