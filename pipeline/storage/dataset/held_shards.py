"""Shards of a bucket in memory: fetched whole, some at once, and the last few kept.

What belongs here: which objects are in memory, and when they go. Not: what is in them.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import tensorstore

from pipeline.storage.zarr_metadata import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from pipeline.storage.store import BucketPlace

_AT_ONCE = 8
"""Shards that a process fetches at once: 16 MB each, or less."""


class HeldFiles:
    """Objects in memory, by their places, as tensorstore reads and writes them."""

    def __init__(self) -> None:
        self._context = tensorstore.Context()
        self._files = tensorstore.KvStore.open({"driver": "memory"}, context=self._context).result()
        self._open: dict[BucketPlace, tensorstore.TensorStore] = {}

    def put(self, place: BucketPlace, content: bytes | None) -> None:
        """Hold an object, or let go of it where `content` is None."""
        self._files.write(place.key, content).result()

    def content(self, place: BucketPlace) -> bytes:
        """Return what an object holds."""
        return self._files.read(place.key).result().value

    def open(self, folder: BucketPlace, metadata: bytes) -> tensorstore.TensorStore:
        """Open an array whose description is given, with the shards of it that are held."""
        if folder not in self._open:
            self.put(folder / METADATA, metadata)
            spec = {
                "driver": "zarr3",
                "kvstore": {"driver": "memory", "path": f"{folder.key}/"},
                "store_data_equal_to_fill_value": True,
            }
            self._open[folder] = tensorstore.open(spec, context=self._context).result()
        return self._open[folder]


class HeldShards:
    """The shards of one dataset that are in memory: those that are being read, and the last few.

    One thread reads at a time; what is fetched ahead comes meanwhile.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._files = HeldFiles()
        self._asked: OrderedDict[BucketPlace, Future[bool]] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.RLock()

    def ask(self, places: Sequence[BucketPlace]) -> list[Future[bool]]:
        """Begin to fetch the objects that are not held; return what waits for each.

        It gives whether there is such an object, and it is not empty.
        """
        with self._lock:
            return [self._wanted(place) for place in places]

    def _wanted(self, place: BucketPlace) -> Future[bool]:
        known = self._asked.get(place)
        if known is None or (known.done() and known.exception() is not None):
            self._asked[place] = _fetchers(os.getpid()).submit(self._fetch, place)
        self._asked.move_to_end(place)
        return self._asked[place]

    def _fetch(self, place: BucketPlace) -> bool:
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            content = b""
        with self._lock:
            # It may have been let go of meanwhile.
            if content and place in self._asked:
                self._files.put(place, content)
        return bool(content)

    @contextmanager
    def holding(self, places: Sequence[BucketPlace]) -> Iterator[list[bool]]:
        """Hold objects; yield which of them are there.

        Raises:
            StoreError: if one cannot be read.
        """
        with self._reading:
            try:
                yield [one.result() for one in self.ask(places)]
            except BaseException:
                self._let_go(places)
                raise
            finally:
                self._let_go(list(self._asked)[: max(0, len(self._asked) - self._keep)])

    def open(self, folder: BucketPlace, metadata: bytes) -> tensorstore.TensorStore:
        """Open an array, as `HeldFiles.open`."""
        return self._files.open(folder, metadata)

    def drop(self, place: BucketPlace) -> None:
        """Let go of an object that is another one now."""
        self._let_go([place])

    def close(self) -> None:
        """Let go of everything."""
        with self._reading:
            self._let_go(list(self._asked))
            self._files = HeldFiles()

    def _let_go(self, places: Sequence[BucketPlace]) -> None:
        with self._lock:
            for place in places:
                if self._asked.pop(place, None) is not None:
                    self._files.put(place, None)


@lru_cache(maxsize=1)
def _fetchers(_pid: int) -> ThreadPoolExecutor:
    """Return the threads of this process that fetch shards."""
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="shards")
