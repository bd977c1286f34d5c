"""Object stores over the network: how they are opened, asked again, and what is said of a fault.

The one home of obstore. Endpoint and credentials are those of the environment of the process that
asks. They stay out of messages and pickles, and so does what a store answers: only its code is
shown. Which place a key is, and what it holds, is in `pipeline.storage.store`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import obstore
from obstore import store as obstores
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from pipeline.errors import NoStoreError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from obstore import ObjectMeta, PutMode

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az")

AGAIN_S = 60
"""How long a request that fails for a passing reason is sent again, with longer and longer waits:
errors 5xx, lost connections, and answers that do not come."""

_ANSWER_S = 30
_CONNECT_S = 5
_MOST_TRIES = 20
_MOMENT_S = 0.3
_PAGE = 1000
_WHOLE_BYTES = 16 * 2**20
"""Up to here an object is sent in one request, above in parts of `_PART_BYTES`."""
_PART_BYTES = 8 * 2**20

_CHECK_S = 8.0
"""How long a store may take to say whether it can be used at all."""

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
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

        Raises:
            FileNotFoundError: if there is none.
            FileExistsError: if there is another one.
        """
        options: obstore.GetOptions = {"if_match": etag} if etag else {}
        with self.plain(key):
            return _patiently(
                lambda: bytes(obstore.get(self._opened(), key, options=options).bytes())
            )

    def get_head(self, key: str, most_bytes: int) -> bytes:
        """Return the first bytes of an object that has at least so many.

        Raises:
            FileNotFoundError: if there is none.
        """
        if not most_bytes:
            return b""  # A range of nothing is refused.
        with self.plain(key):
            return _patiently(
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
            put = _patiently(
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
            _patiently(
                lambda: obstore.put(
                    self._opened(), key, file, attributes=said, chunk_size=_PART_BYTES
                )
            )

    async def put_async(self, key: str, content: Any) -> None:
        """Store an object as `put`, while others are stored as well."""
        in_parts = len(content) > _WHOLE_BYTES
        await patiently(
            lambda: obstore.put_async(
                self._opened(), key, content, use_multipart=in_parts, chunk_size=_PART_BYTES
            )
        )

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, those that are there."""
        with self.plain(keys[0] if keys else ""):
            for start in range(0, len(keys), _PAGE):
                page = list(keys[start : start + _PAGE])
                _patiently(lambda page=page: self._delete_all(page))  # type: ignore[misc]

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

        With `after` only those whose keys are behind it.
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
                if not _is_cut_off(error, began):
                    raise
                time.sleep(_MOMENT_S)
            else:
                return

    def listed(self, folder: str) -> tuple[list[str], list[Stored]]:
        """Return the folders (by their keys) and the objects that are in a folder."""
        with self.plain(folder):
            found = _patiently(lambda: obstore.list_with_delimiter(self._opened(), folder or None))
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
        asked.join(_CHECK_S + 1)
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
                asyncio.run(asyncio.wait_for(patiently(first_page), _CHECK_S))
        except BaseException as error:
            failed.append(error)

    def opened_at(self, prefix: str) -> Any:
        """Return obstore's own store of what is below a prefix, for Zarr."""
        return self._opened(prefix=prefix)

    def _opened(self, *, prefix: str = "", brief: bool = False) -> Any:
        with self.plain(prefix):
            # A process that was forked must not share connections with its parent.
            return _open(self, prefix, (os.getpid(), _environment()), brief=brief)

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
        status, code = _answer_of(str(error))
        if code == "NoSuchBucket":
            return self._missing(place)
        refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError))
        if refused or status in (401, 403):
            answer = f" ({code})" if code else ""
            return StoreError(
                f"{place}: the store refuses the credentials in the environment{answer}; check "
                f"{_KEYS[self.scheme]}, and what they may do"
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


def _answer_of(text: str) -> tuple[int | None, str]:
    """Return the status and the code in what obstore says of an error; None where none came."""
    status = re.search(r"status code: (\d{3})|status: (\d{3})", text)
    code = re.search(r"<Code>(\w{1,60})</Code>", text)
    number = None if status is None else int(status[1] or status[2])
    return number, code[1] if code else ""


def _patiently(ask: Callable[[], T]) -> T:
    """Return what is asked for; where the answer is cut off, ask again.

    Requests that fail before are sent again by obstore itself.
    """
    began = time.monotonic()
    while True:
        try:
            return ask()
        except BaseError as error:
            if not _is_cut_off(error, began):
                raise
            time.sleep(_MOMENT_S)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what is asked for; where the answer is cut off, ask again."""
    began = time.monotonic()
    while True:
        try:
            return await ask()
        except BaseError as error:
            if not _is_cut_off(error, began):
                raise
            await asyncio.sleep(_MOMENT_S)


def _is_cut_off(error: BaseError, began: float) -> bool:
    """Return whether an answer was cut off, so that it may be asked for again after a moment."""
    answered, _ = _answer_of(str(error))
    return answered is None and time.monotonic() - began < AGAIN_S / 2


def _environment() -> int:
    """Return a number that changes with whatever in the environment stores are opened by."""
    names = (n for n in os.environ if n.startswith(("AWS_", "AZURE_", "GOOGLE_")))
    return hash(tuple(sorted((name, os.environ[name]) for name in names)))


@lru_cache(maxsize=64)
def _open(bucket: Bucket, prefix: str, _where: tuple[int, int], *, brief: bool) -> Any:
    """Open a bucket with what is in the environment; once in a process."""
    for name in _ENDPOINTS:
        # What obstore cannot use makes it panic.
        if re.fullmatch(r"(https?://[\w.:\[\]-]+(/[\w./-]*)?)?", os.environ.get(name, "")) is None:
            raise NoStoreError(f"{name} is not an address, expected http(s)://HOST:PORT")
    least = timedelta(seconds=2 if brief else _ANSWER_S)
    client: Any = {
        "timeout": least,
        "connect_timeout": timedelta(seconds=2 if brief else _CONNECT_S),
        "allow_http": _is_plain_http(),
    }
    retry: Any = {
        "max_retries": _MOST_TRIES,
        "retry_timeout": timedelta(seconds=_CHECK_S / 2 if brief else AGAIN_S),
        "backoff": {"max_backoff": timedelta(seconds=1 if brief else 5)},
    }
    kinds: dict[str, Any] = {
        "s3": obstores.S3Store,
        "gs": obstores.GCSStore,
        "az": obstores.AzureStore,
    }
    options = {"prefix": prefix or None, "client_options": client, "retry_config": retry}
    return kinds[bucket.scheme](bucket.name, **options)


def _is_plain_http() -> bool:
    """Return whether the endpoint that the user named is not encrypted."""
    asked = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1")
    return asked or any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
