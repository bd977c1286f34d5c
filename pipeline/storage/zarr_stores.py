"""Zarr's stores of places: a local folder, or what is below a prefix of a bucket."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore, ObjectStore

from pipeline.errors import ArchiveError
from pipeline.storage.store import BucketPlace
from pipeline.storage.store_answers import patiently_async
from pipeline.storage.zarr_metadata import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from zarr.abc.buffer import Buffer, BufferPrototype
    from zarr.abc.store import ByteRequest, Store

    from pipeline.storage.store import Place


@dataclass(slots=True)
class _Alone:
    """What one writer, who alone writes below a prefix, knows without asking the store."""

    prefix: str
    """Of keys, with its slash."""
    stored: set[str] = field(default_factory=set)
    """The keys below the prefix that have objects."""
    metadata: dict[str, bytes] = field(default_factory=dict)
    """Metadata by its key: below the prefix, and of the groups around it as it was read first."""

    def answer(self, key: str) -> tuple[bytes | None] | None:
        """Return an object's bytes, or None for no object, in a tuple; None if that is not known.

        Only metadata is remembered.
        """
        if key in self.metadata:
            return (self.metadata[key],)
        missing = key.startswith(self.prefix) and key not in self.stored
        return (None,) if missing else None

    def put(self, key: str, content: bytes) -> None:
        """Note an object that was stored, or metadata that was read."""
        if key.startswith(self.prefix):
            self.stored.add(key)
        if key.endswith(METADATA):
            self.metadata[key] = content

    def gone(self, key: str) -> None:
        """Note an object that was removed."""
        self.stored.discard(key)
        self.metadata.pop(key, None)


class BucketStore(ObjectStore[Any]):
    """What is below a place in a bucket, as Zarr reads and writes it.

    Errors are those of `pipeline.storage.object_store`. What is pickled is the address alone: who
    unpickles it asks with what is in its own environment.
    """

    def __init__(self, place: BucketPlace, *, read_only: bool = False) -> None:
        super().__init__(place.of_bucket.opened_at(place.key), read_only=read_only)
        self.place = place
        self._seen: set[str] = set()
        """Metadata that was read: Zarr makes sure of the groups around each array it makes."""
        self._alone: dict[str, _Alone] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes it again: its address."""
        return (_again, (self.place, self.read_only))

    def __str__(self) -> str:
        """Return its address."""
        return str(self.place)

    def with_read_only(self, read_only: bool = False) -> BucketStore:
        """Return the same store, to be written or not."""
        return BucketStore(self.place, read_only=read_only)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object's bytes, None where there is none."""
        for alone in self._around(key):
            if byte_range is None and (answer := alone.answer(key)) is not None:
                content = answer[0]
                return None if content is None else prototype.buffer.from_bytes(content)
        with self._plain(key):
            found = await patiently_async(partial(super().get, key, prototype, byte_range))
        if found is not None and key.endswith(METADATA):
            self._seen.add(key)
            for alone in self._around(key):
                alone.put(key, found.to_bytes())
        return found

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return ranges of objects."""
        with self._plain(""):
            return await patiently_async(
                partial(super().get_partial_values, prototype, list(key_ranges))
            )

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        with self._plain(key):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Store an object: whole, and durable once this is over."""
        self._check_writable()
        with self._plain(key):
            await self.place.of_bucket.put_async((self.place / key).key, value.as_buffer_like())
        for alone in self._around(key):
            alone.put(key, value.to_bytes() if key.endswith(METADATA) else b"")

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store an object where there is none."""
        self._check_writable()
        if key in self._seen or any(key in alone.metadata for alone in self._around(key)):
            return
        with self._plain(key):
            await patiently_async(partial(super().set_if_not_exists, key, value))

    async def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        self._check_writable()
        self._seen.discard(key)
        for alone in self._around(key):
            alone.gone(key)
        await asyncio.to_thread((self.place / key).unlink)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects below a prefix."""
        self._check_writable()
        self._seen.clear()
        self._alone.clear()
        await asyncio.to_thread((self.place / prefix).remove_below)

    @contextmanager
    def alone_below(self, path: str) -> Iterator[None]:
        """Spare the requests that ask what is below `path`: there is nothing but what is put now.

        That holds within the block, where nobody else writes there, or changes the groups around
        it.
        """
        self._alone[path] = _Alone(f"{path}/")
        try:
            yield
        finally:
            self._alone.pop(path, None)

    def _around(self, key: str) -> list[_Alone]:
        """Return what is known by those who write below a prefix that `key` is below or around."""
        folder = key.removesuffix(METADATA)
        return [
            alone
            for alone in self._alone.values()
            if key.startswith(alone.prefix)
            or (key.endswith(METADATA) and alone.prefix.startswith(folder))
        ]

    @contextmanager
    def _plain(self, key: str) -> Iterator[None]:
        with self.place.of_bucket.plain((self.place / key).key):
            yield


def _again(place: BucketPlace, read_only: bool) -> BucketStore:
    return BucketStore(place, read_only=read_only)


def store_at(place: Place) -> Store:
    """Return Zarr's store of a place."""
    return BucketStore(place) if isinstance(place, BucketPlace) else LocalStore(place)


def alone_below(store: Store, path: str) -> AbstractContextManager[None]:
    """Say that within the block nobody else writes below `path`, where nothing is yet."""
    return store.alone_below(path) if isinstance(store, BucketStore) else nullcontext()


def place_at(store: object) -> Path | BucketPlace:
    """Return the place that a store is of.

    Raises:
        ArchiveError: if it is another kind of store.
    """
    if isinstance(store, BucketStore):
        return store.place
    if not isinstance(store, LocalStore):
        raise ArchiveError(f"pixels are in {store}, expected a local folder or a bucket")
    return store.root
