"""Places: where bytes are, as values. A local path, or a prefix of a bucket.

What belongs here: the noun `Place`, its one parser, and the verbs that a disk and a bucket answer
in two ways. Not: how a bucket is talked to (`pipeline.storage.object_store`).

A local place is a `pathlib.Path`. A `BucketPlace` answers the same questions by the same names, as
far as there are such questions in a bucket. It carries no credentials, so it may be pickled and
shown; what it is asked is sent by the process that asks.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.errors import NoStoreError, UsageError
from pipeline.storage.object_store import Bucket, Stored
from pipeline.storage.store_opening import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)", re.DOTALL)
_ONE_SLASH = re.compile(rf"({'|'.join(SCHEMES)}):/(?!/)")


@dataclass(frozen=True, slots=True, order=True)
class BucketPlace:
    """An object of a bucket, or all objects whose keys begin with `key` and a slash."""

    scheme: str
    bucket: str
    key: str = ""
    """Without a slash at its ends; "" for the whole bucket."""

    def __str__(self) -> str:
        """Return its address."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __truediv__(self, name: str | PurePosixPath) -> BucketPlace:
        """Return the place of this name in this one."""
        below = str(name).strip("/")
        return self._at(f"{self.key}/{below}" if self.key and below else self.key or below)

    def _at(self, key: str) -> BucketPlace:
        return BucketPlace(self.scheme, self.bucket, key)

    def joinpath(self, *parts: str) -> BucketPlace:
        """Return the place below this one that the parts lead to."""
        return self / "/".join(parts)

    @property
    def name(self) -> str:
        """Return the last part of its key; "" of a bucket."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Return the extension of its name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> BucketPlace:
        """Return the place that it is in; a bucket is in itself."""
        return self._at(self.key.rpartition("/")[0])

    @property
    def parents(self) -> Sequence[BucketPlace]:
        """Return the places that it is in, nearest first."""
        parts = self.key.split("/") if self.key else []
        return [self._at("/".join(parts[:end])) for end in range(len(parts) - 1, -1, -1)]

    def with_name(self, name: str) -> BucketPlace:
        """Return the place of this name beside this one."""
        return self.parent / name

    def is_relative_to(self, other: Path | BucketPlace) -> bool:
        """Return whether it is `other` or in it."""
        if not isinstance(other, BucketPlace):
            return False
        if (self.scheme, self.bucket) != (other.scheme, other.bucket):
            return False
        return not other.key or self.key == other.key or self.key.startswith(f"{other.key}/")

    def absolute(self) -> BucketPlace:
        """Return itself: an address means the same everywhere."""
        return self

    def resolve(self) -> BucketPlace:
        """Return itself: there are no links in a bucket."""
        return self

    @property
    def of_bucket(self) -> Bucket:
        """Return what talks to its bucket."""
        return Bucket(self.scheme, self.bucket)

    def exists(self) -> bool:
        """Return whether there is an object of this key, or one below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Return whether there is an object of this key."""
        return self.facts() is not None

    def is_dir(self) -> bool:
        """Return whether there is an object below this key."""
        return next(self.below(), None) is not None

    def facts(self) -> Stored | None:
        """Return what the store says of the object of this key, None where there is none."""
        try:
            return self.of_bucket.head(self.key) if self.key else None
        except FileNotFoundError:
            return None

    def below(self) -> Iterator[Stored]:
        """Yield all objects below this place, sorted by key; 1,000 a request."""
        return self.of_bucket.below(self.key)

    def listed(self) -> Iterator[tuple[BucketPlace, Stored | None]]:
        """Yield what is right in this place: folders with None, objects with their facts."""
        folders, objects = self.of_bucket.listed(self.key)
        yield from ((self._at(key.strip("/")), None) for key in folders)
        yield from ((self._at(one.key), one) for one in objects)

    def iterdir(self) -> Iterator[BucketPlace]:
        """Yield the places right in this one."""
        return (place for place, _ in self.listed())

    def read_bytes(self) -> bytes:
        """Return the content of the object.

        Raises:
            FileNotFoundError: if there is none.
            StoreError: if it cannot be read.
        """
        return self.of_bucket.get(self.key)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content of the object as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> int:
        """Store the object: whole, and durable when this returns."""
        self.of_bucket.put(self.key, content)
        return len(content)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object, if it is there; a store does not say whether it was."""
        self.of_bucket.delete([self.key])

    def remove_below(self) -> None:
        """Remove all objects below this place."""
        self.of_bucket.delete([one.key for one in self.below()])


Place = Path | BucketPlace
"""A local path, or a place in a bucket."""


def is_address(text: str) -> bool:
    """Return whether a text names an object store, or something else by a scheme."""
    return _ADDRESS.fullmatch(text) is not None or _ONE_SLASH.match(text) is not None


def place_of(text: str | Place) -> Place:
    """Return the place that a text means: the one parser of places.

    Raises:
        NoStoreError: if it is an address that is not ``s3://``, ``gs://`` or ``az://``, names no
            bucket, or lacks a slash.
    """
    if not isinstance(text, str):
        return text
    found = _ADDRESS.fullmatch(text)
    if found is None:
        if slip := _ONE_SLASH.match(text):
            raise NoStoreError(
                f"{slip[0]}... has one slash, expected {slip[1]}://BUCKET/PREFIX; a local folder "
                f"of such a name is ./{slip[0]}..."
            )
        return Path(text)
    scheme, bucket, key = found[1].lower(), found[2], found[3].strip("/")
    shown = re.sub(r"[^/@]*@", "", bucket)  # Whatever is before an @ may be a password.
    if scheme not in SCHEMES:
        raise NoStoreError(
            f"{scheme}://{shown}... cannot be read or written, expected a local path, s3://, gs:// "
            "or az://"
        )
    if not bucket or "@" in bucket or ":" in bucket:
        raise NoStoreError(
            f"{scheme}://{shown} names no bucket, expected {scheme}://BUCKET/PREFIX; endpoint and "
            "credentials are read from the environment"
        )
    if any(part in ("", ".", "..") for part in key.split("/")) and key:
        raise NoStoreError(
            f"{scheme}://{bucket}/{key} has a part that is empty, '.' or '..'; write it without"
        )
    return BucketPlace(scheme, bucket, key)


def is_taken(place: Place) -> bool:
    """Return whether something has this name, and be it a link that leads nowhere."""
    return place.exists() if isinstance(place, BucketPlace) else os.path.lexists(place)


def check_names_file(place: Place | None) -> None:
    """Make sure that a file can be written at `place`, if it is in a bucket, as far as names go.

    Raises:
        UsageError: if it is the bucket, or a folder there.
    """
    if isinstance(place, BucketPlace) and (not place.key or place.is_dir()):
        what = "a folder" if place.key else "a bucket"
        raise UsageError(f"{place} is {what}, expected a file; name one in it")


@contextmanager
def local_copy(place: Place) -> Iterator[Path]:
    """Yield a file of this machine with the content of `place`, for libraries that take no other.

    Raises:
        FileNotFoundError: if it is in a bucket, and there is none.
        StoreError: if it cannot be read.
    """
    if not isinstance(place, BucketPlace):
        yield place
        return
    with tempfile.NamedTemporaryFile(prefix="upres-", suffix=place.suffix) as file:
        file.write(place.read_bytes())
        file.flush()
        yield Path(file.name)


def local(place: Place, what: str) -> Path:
    """Return a place that can only be a local path.

    Raises:
        UsageError: if it is in a bucket.
    """
    if isinstance(place, BucketPlace):
        raise UsageError(f"{what} is {place}, expected a local path")
    return place


def check_stores(*places: Place | str | None) -> None:
    """Make sure that those of `places` that are in buckets can be used.

    Raises:
        NoStoreError: if there is no such bucket.
        StoreError: if its store does not answer, or refuses the credentials.
    """
    found = (None if one is None else place_of(one) for one in places)
    for place in dict.fromkeys(p for p in found if isinstance(p, BucketPlace)):
        fixed, wildcard, _ = re.sub(r"[*?\[{]", "*", place.key).partition("*")
        place.of_bucket.check(fixed.rpartition("/")[0] if wildcard else fixed)
