"""Object stores over the network: how they are opened and asked, and what is said of a fault.

Endpoint and credentials are those of the environment of the process that asks (`store_opening`).
They stay out of messages and pickles, and so does what a store answers: only its code is shown
(`store_answers`). Which place a key is, and what it holds, is in `pipeline.storage.store`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from platform import node
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from pipeline.errors import NoStoreError, StoreError
from pipeline.storage.spool import is_spooled, large_bytes
from pipeline.storage.store_answers import (
    MOMENT_S,
    answer_of,
    is_cut_off,
    patiently,
    patiently_async,
)
from pipeline.storage.store_opening import CHECK_S, environment, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from obstore import ObjectMeta, PutMode

T = TypeVar("T")

_PAGE = 1000
_WHOLE_BYTES = 16 * 2**20
"""Up to here an object is sent in one request, above in parts of `_PART_BYTES`."""
_PART_BYTES = 8 * 2**20

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "the network", "az": "AZURE_STORAGE_ENDPOINT"}


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store says of one object: `etag` differs whenever the content does."""

    key: str
    size_bytes: int
    etag: str
    mtime_ns: int
    attributes: Mapping[str, str] | None = None
    """What was said of it when it was put; None where that was not asked for."""

    @classmethod
    def of(cls, meta: ObjectMeta, attributes: Mapping[str, str] | None = None) -> Stored:
        """Return the facts of obstore's description."""
        mtime_ns = int(meta["last_modified"].timestamp() * 1e9)
        etag = meta["e_tag"] or ""
        return cls(meta["path"], meta["size"], etag, mtime_ns, attributes)


def _content(found: obstore.GetResult) -> bytes:
    size_bytes = found.meta["size"]
    if not is_spooled(size_bytes):
        return bytes(found.bytes())
    return large_bytes(map(memoryview, found.stream(min_chunk_size=_PART_BYTES)), size_bytes)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket, by its name alone: whoever asks opens it with what is in the environment."""

    scheme: str
    name: str

    def __str__(self) -> str:
        """Return its address."""
        return f"{self.scheme}://{self.name}"

    def get(self, key: str, *, etag: str = "") -> bytes:
        """Return the content of an object, if its etag is `etag`, or whatever it is.

        It is on the disk where it is large, as `large_bytes` says.

        Raises:
            FileNotFoundError: if there is none.
            FileExistsError: if there is another one.
        """
        options: obstore.GetOptions = {"if_match": etag} if etag else {}
        with self.plain(key):
            return patiently(lambda: _content(obstore.get(self._opened(), key, options=options)))

    def get_head(self, key: str, most_bytes: int) -> bytes:
        """Return the first bytes of an object that has at least so many.

        Raises:
            FileNotFoundError: if there is none.
        """
        if not most_bytes:
            return b""  # A range of nothing is refused.
        with self.plain(key):
            return patiently(
                lambda: bytes(obstore.get_range(self._opened(), key, start=0, end=most_bytes))
            )

    def head(self, key: str) -> Stored:
        """Return what the store says of an object, with its attributes.

        Raises:
            FileNotFoundError: if there is none.
        """
        with self.plain(key):
            found = obstore.get(self._opened(), key, options={"head": True})
            attributes = {str(k).lower(): str(v) for k, v in found.attributes.items()}
            return Stored.of(found.meta, attributes)

    def put(
        self,
        key: str,
        content: bytes | memoryview,
        *,
        replaces: str | Literal[False] | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> str:
        """Store an object, durably and in one piece when this returns; return its etag.

        With `replaces` False nothing may be there, with an etag only an object that has it.

        Raises:
            FileExistsError: if another one is there.
        """
        mode: PutMode = "overwrite"
        if replaces is not None:
            mode = {"e_tag": replaces} if replaces else "create"
        in_parts = mode == "overwrite" and len(content) > _WHOLE_BYTES
        with self.plain(key):
            put = patiently(
                lambda: obstore.put(
                    self._opened(),
                    key,
                    content,
                    mode=mode,
                    attributes=dict(attributes or {}),
                    use_multipart=in_parts,
                    chunk_size=_PART_BYTES,
                )
            )
        return put["e_tag"] or ""

    def put_file(
        self,
        key: str,
        file: Path,
        *,
        replaces: str | Literal[False],
        attributes: Mapping[str, str],
    ) -> None:
        """Store a file as `put`; a large one in parts, under a name that is reserved first.

        Raises:
            FileExistsError: if another object is there.
        """
        if file.stat().st_size <= _WHOLE_BYTES:
            self.put(key, file.read_bytes(), replaces=replaces, attributes=attributes)
            return
        if replaces is False:
            self.put(key, b"", replaces=False, attributes={**attributes, "upres-sha256": ""})
        elif self.head(key).etag != replaces:
            raise FileExistsError(errno.EEXIST, "another object is there", f"{self}/{key}")
        with self.plain(key):
            said = dict(attributes)
            patiently(
                lambda: obstore.put(
                    self._opened(), key, file, attributes=said, chunk_size=_PART_BYTES
                )
            )

    async def put_async(self, key: str, content: Any) -> None:
        """Store an object as `put`, while others are stored as well."""
        in_parts = len(content) > _WHOLE_BYTES
        await patiently_async(
            lambda: obstore.put_async(
                self._opened(), key, content, use_multipart=in_parts, chunk_size=_PART_BYTES
            )
        )

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, those that are there."""
        with self.plain(keys[0] if keys else ""):
            for start in range(0, len(keys), _PAGE):
                page = list(keys[start : start + _PAGE])
                patiently(lambda page=page: self._delete_all(page))  # type: ignore[misc]

    def _delete_all(self, keys: Sequence[str]) -> None:
        try:
            obstore.delete(self._opened(), keys)
        except FileNotFoundError:
            # Some stores say so, and then nothing of the others.
            for key in keys:
                with suppress(FileNotFoundError):
                    obstore.delete(self._opened(), key)

    def below(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        """Yield every object below a folder, at any depth, sorted by key: a request for 1,000.

        With `after` only those whose keys come after it.
        """
        pages = self._pages(folder, after)
        while True:
            with self.plain(folder):
                page = next(pages, None)
            if page is None:
                return
            # Some stores keep an object of no bytes for a folder.
            yield from (Stored.of(meta) for meta in page if meta["path"] != folder)

    def _pages(self, folder: str, after: str) -> Iterator[Sequence[ObjectMeta]]:
        """Yield the pages of a listing; one that is cut off is asked for again."""
        last, began = after, time.monotonic()
        while True:
            try:
                for page in obstore.list(
                    self._opened(), folder or None, offset=last or None, chunk_size=_PAGE
                ):
                    yield page
                    last, began = page[-1]["path"] if page else last, time.monotonic()
            except BaseError as error:
                if not is_cut_off(error, began):
                    raise
                time.sleep(MOMENT_S)
            else:
                return

    def listed(self, folder: str) -> tuple[list[str], list[Stored]]:
        """Return the folders (by their keys) and the objects that are in a folder."""
        with self.plain(folder):
            found = patiently(lambda: obstore.list_with_delimiter(self._opened(), folder or None))
        objects = (Stored.of(meta) for meta in found["objects"] if meta["path"] != folder)
        return list(found["common_prefixes"]), list(objects)

    def check(self, folder: str) -> None:
        """Make sure, within ten seconds, that the bucket is there and a folder of it may be read.

        Raises:
            NoStoreError: if there is no such bucket.
            StoreError: if its store does not answer, or refuses the credentials.
        """
        asked = threading.Thread(target=self._ask, args=(folder, failed := []), daemon=True)
        asked.start()
        asked.join(CHECK_S + 1)
        if asked.is_alive():
            failed.append(StoreError(f"{self}: {self._silent()}"))
        if failed:
            raise failed[0]

    def _ask(self, folder: str, failed: list[BaseException]) -> None:
        async def first_page() -> None:
            # Credentials may be for this folder alone.
            async for _ in obstore.list(self._opened(brief=True), folder or None, chunk_size=1):
                break

        try:
            with self.plain(""):
                asyncio.run(asyncio.wait_for(patiently_async(first_page), CHECK_S))
        except BaseException as error:
            failed.append(error)

    def opened_at(self, prefix: str) -> Any:
        """Return obstore's own store of what is below a prefix, for Zarr."""
        return self._opened(prefix=prefix)

    def _opened(self, *, prefix: str = "", brief: bool = False) -> Any:
        with self.plain(prefix):
            # A process that was forked must not share connections with its parent.
            return open_store(
                self.scheme, self.name, prefix, (os.getpid(), environment()), brief=brief
            )

    @contextmanager
    def plain(self, key: str) -> Iterator[None]:
        """Turn the errors of obstore into ours, in a line each, with nothing secret in them.

        Raises:
            FileNotFoundError, FileExistsError, StoreError: instead.
        """
        place = f"{self}/{key}" if key else str(self)
        try:
            yield
        except (StoreError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._missing(place) from None
            raise FileNotFoundError(errno.ENOENT, "there is no such object", place) from None
        except (AlreadyExistsError, PreconditionError):
            raise FileExistsError(errno.EEXIST, "another object is there", place) from None
        except TimeoutError:
            raise StoreError(f"{place}: {self._silent()}") from None
        except BaseError as error:
            raise self._explained(error, place) from None

    def _explained(self, error: BaseError, place: str) -> StoreError:
        status, code = answer_of(str(error))
        if code == "NoSuchBucket":
            return self._missing(place)
        refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError))
        if refused or status in (401, 403):
            answer = f" ({code})" if code else ""
            return StoreError(
                f"{place}: the store refuses the credentials in the environment of {node()}"
                f"{answer}; check {_KEYS[self.scheme]} there, and what they may do"
            )
        if status is None:
            return StoreError(f"{place}: {self._silent()}")
        answer = f"{status} {code}".strip()
        return StoreError(
            f"{place}: the store answered {answer}; repeat the command once it works again"
        )

    def _missing(self, place: str) -> NoStoreError:
        return NoStoreError(
            f"{place}: there is no bucket {self.name!r}; check its name, or create it"
        )

    def _silent(self) -> str:
        return (
            "the store does not answer; check the network and "
            f"{_ENDPOINT[self.scheme]}, then repeat the command"
        )
