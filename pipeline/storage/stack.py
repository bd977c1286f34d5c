"""Stacks: many small images of one size in one array ``(n, c, y, x)``.

An image of its own takes three files; a stack takes two for each chunk of its images: one with
their pixels, and one (`members/N.json`) that says which images these are, with their provenance.
A chunk is written whole by one writer, the members last: what was interrupted has none, and is
written again. An image that changes leaves a hole in its chunk and goes into another one.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ArchiveError
from pipeline.storage.atomic import write_atomic
from pipeline.storage.image import (
    CODEC,
    DTYPES,
    LEVEL,
    METADATA,
    StoredImage,
    describe,
    fsync,
    holds_bytes,
    numbered_files,
    open_array,
    scanned,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray
    from zarr.storage import StorePath

    from pipeline.geometry import Rect

FOLDER = "@stacks"
"""Where the stacks of an archive lie: no item's path begins so."""

LEAST_MEMBERS = 16
"""From how many images of one size on these go into a stack."""

_SMALL_PIXELS = 256 * 256
_CHUNK_PIXELS = 2**21
_CHUNK_MEMBERS = 1024
_TICK_NS = 50_000_000
_MEMBERS = "members"
_ID = re.compile(rf"stacks/(\d+)x(\d+)x(\d+)-({'|'.join(DTYPES)})/", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What the images of a stack have in common."""

    channels: int
    height: int
    width: int
    dtype: str

    @classmethod
    def of(cls, stack: str) -> Kind:
        """Return the kind of LR images that the stack of this id is for.

        Raises:
            ArchiveError: if it is no id of a stack.
        """
        found = _ID.fullmatch(stack)
        if found is None:
            raise ArchiveError(f"{stack!r} is no stack, expected an id as stacks/3x218x178-uint8/")
        channels, height, width, dtype = found.groups()
        return cls(int(channels), int(height), int(width), dtype)

    @property
    def is_small(self) -> bool:
        """Return whether such images go into stacks."""
        return self.height * self.width <= _SMALL_PIXELS

    @property
    def stack(self) -> str:
        """Return the id of their stack; it ends with a slash, which the id of no item does."""
        return f"stacks/{self.channels}x{self.height}x{self.width}-{self.dtype}/"

    @property
    def chunk_members(self) -> int:
        """Return how many of them make up a chunk."""
        return max(1, min(_CHUNK_MEMBERS, _CHUNK_PIXELS // (self.height * self.width)))


def is_stack(name: str) -> bool:
    """Return whether `name` is the id of a stack, not of an item."""
    return name.endswith("/")


@dataclass(frozen=True, slots=True)
class Member:
    """Where an item lies, and the content hash of the picture that it came from."""

    stack: str
    chunk: int
    place: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Which images a chunk holds: provenance by place; `facts` are those that all share."""

    facts: Mapping[str, Any]
    members: Mapping[int, Mapping[str, Any]]

    @property
    def sha256(self) -> str:
        """Return the content hash of all members."""
        return content_sha256((place, str(m["sha256"])) for place, m in self.members.items())


def content_sha256(members: Iterable[tuple[int, str]]) -> str:
    """Return one hash of the places and the content hashes of the members of a chunk."""
    return hashlib.sha256(json.dumps(sorted(members)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StackedImage(StoredImage):
    """One image of a stack, opened; its pixels are read like those of an image of its own."""

    index: int
    """Which image of the array it is."""

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return int(self.array.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return int(self.array.shape[2]), int(self.array.shape[3])

    def replace(self, rect: Rect, pixels: NDArray[Any]) -> None:
        """Refuse: the images of a chunk are written together, by `Stack.write`.

        Raises:
            ArchiveError: always.
        """
        raise ArchiveError(f"{self.item} lies in a stack, whose chunks are written whole")

    @property
    def _shard_px(self) -> tuple[int, int]:
        return self.size

    def _shard_keys(self, rect: Rect) -> list[str]:
        return [f"{self.array.path}/c/{self.index // _shard_length(self.array)}/0/0/0"]

    def _pixels(self, rect: Rect) -> NDArray[Any]:
        return np.asarray(self.array[(self.index, *rect.index)])


class Stack:
    """One array of equal-sized images, chunk by chunk."""

    def __init__(self, stack: str, folder: Path, array: zarr.Array[Any]) -> None:
        self.id = stack
        self.array = array
        self._folder = folder

    @classmethod
    def open(cls, place: StorePath, root: Path, stack: str) -> Stack:
        """Open a stack of the archive folder `root`, which is `place` to Zarr.

        Raises:
            ArchiveError: if it is not there, or damaged.
        """
        name = _name(stack)
        folder = root / name
        try:
            array = open_array(place / name / LEVEL, folder / LEVEL, axes="ncyx")
        except ArchiveError as error:
            raise ArchiveError(
                f"{folder}: the stack {error}; delete its folder and ingest again"
            ) from error
        return cls(stack, folder, array)

    @classmethod
    def create(
        cls,
        group: zarr.Group,
        root: Path,
        stack: str,
        kind: Kind,
        *,
        chunk_members: int,
        chunks: int,
    ) -> Stack:
        """Make a stack anew, deleting what was there."""
        name = _name(stack)
        folder = root / name
        if folder.exists():
            shutil.rmtree(folder)
        (folder / _MEMBERS).mkdir(parents=True)
        made = group.create_group(name, attributes={"ome": describe(name, axes="ncyx")})
        size = (kind.channels, kind.height, kind.width)
        array = made.create_array(
            LEVEL,
            shape=(chunks * chunk_members, *size),
            dtype=kind.dtype,
            chunks=(1, *size),
            shards=(chunk_members, *size),
            compressors=CODEC,
            dimension_names=("n", "c", "y", "x"),
            config={"write_empty_chunks": True},
        )
        for path in (folder / LEVEL / METADATA, folder / LEVEL, folder / METADATA, folder):
            fsync(path)
        return cls(stack, folder, array)

    @property
    def kind(self) -> Kind:
        """Return what the images have in common."""
        _, channels, height, width = self.array.shape
        return Kind(channels, height, width, str(self.array.dtype))

    @property
    def chunk_members(self) -> int:
        """Return how many images a chunk has room for."""
        return _shard_length(self.array)

    @property
    def chunks(self) -> int:
        """Return how many chunks there is room for."""
        return -(-int(self.array.shape[0]) // self.chunk_members)

    def grow(self, chunks: int) -> None:
        """Make room for as many chunks, if there is less."""
        if chunks > self.chunks:
            self.array.resize((chunks * self.chunk_members, *self.array.shape[1:]))
            fsync(self._folder / LEVEL / METADATA)
            fsync(self._folder / LEVEL)

    def chunk(self, number: int) -> Chunk | None:
        """Return what a chunk holds, None where it was not (wholly) written.

        Raises:
            ArchiveError: if the file that says so is damaged.
        """
        return read_chunk(self._members_file(number))

    def has_pixels(self, number: int) -> bool:
        """Return whether the file with the pixels of a chunk is there and not empty."""
        return holds_bytes(self._pixels_file(number))

    def images(self, number: int) -> dict[int, StackedImage]:
        """Open all images of a chunk, by place; none where it was not written.

        Raises:
            ArchiveError: if the file that says what it holds is damaged.
        """
        chunk = self.chunk(number) or Chunk({}, {})
        start = number * self.chunk_members
        return {
            place: StackedImage(m["item"], self.array, {**chunk.facts, **m}, start + place)
            for place, m in chunk.members.items()
        }

    def is_whole(self, number: int) -> bool:
        """Return whether every image of a chunk was written and can be read back."""
        try:
            chunk = self.chunk(number)
            if chunk is None:
                return False
            self.read(number, sorted(chunk.members))
        except ArchiveError:
            return False
        return True

    def read(self, number: int, places: Sequence[int]) -> NDArray[Any]:
        """Return the pixels ``(n, c, y, x)`` of the images at `places` of a chunk.

        Raises:
            ArchiveError: if they are missing or damaged.
        """
        images = self.images(number)
        missing = [place for place in places if place not in images]
        if missing:
            raise ArchiveError(f"{self._folder}: chunk {number} holds no image at {missing[0]}")
        start, file = number * self.chunk_members, self._pixels_file(number)
        try:
            if not holds_bytes(file):
                raise FileNotFoundError(file)
            block = np.asarray(self.array[start : start + self.chunk_members])
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            raise ArchiveError(
                f"{self.id} chunk {number} cannot be read ({type(error).__name__}: {error}); "
                f"delete {self._members_file(number)}, and the next `upres upscale` or `ingest` "
                "reads its pictures again"
            ) from error
        return block[list(places)]

    def write(
        self,
        number: int,
        pixels: NDArray[Any],
        members: Mapping[int, Mapping[str, Any]],
        facts: Mapping[str, Any],
    ) -> None:
        """Write a chunk: `pixels` ``(n, c, y, x)`` in the order of the places of `members`.

        When this returns, the chunk survives a power cut.

        Raises:
            ArchiveError: if the pixels do not fit.
        """
        kind, places = self.kind, sorted(members)
        wanted = (len(places), kind.channels, kind.height, kind.width)
        if pixels.shape != wanted or str(pixels.dtype) != kind.dtype:
            raise ArchiveError(
                f"{self.id}: pixels are {pixels.dtype} {pixels.shape}, expected {kind.dtype} "
                f"{wanted}"
            )
        block = np.zeros((self.chunk_members, *wanted[1:]), dtype=kind.dtype)
        block[places] = pixels
        self.remove(number)
        file = self._pixels_file(number)
        start = number * self.chunk_members
        self.array[start : start + self.chunk_members] = block
        for path in (file, *list(file.parents)[:5]):
            fsync(path)
        self._write_members(number, Chunk(facts, members))

    def remove(self, number: int) -> None:
        """Remove a chunk, its members first, whatever stands in its place."""
        file = self._pixels_file(number)
        # A writer that was killed leaves its partial file behind, beside the shard.
        partial = file.parent.glob(f"{file.name}.*.partial")
        for path in (self._members_file(number), file, *partial):
            _remove(path)

    def drop(self, number: int, places: Collection[int]) -> None:
        """Leave holes at `places` of a chunk: these images are not of the archive any more."""
        chunk = self.chunk(number)
        if chunk is not None:
            self.retain(number, chunk.members.keys() - set(places), {})

    def retain(self, number: int, places: Collection[int], facts: Mapping[str, Any]) -> None:
        """Keep only the images at `places` of a chunk, and have `facts` said of them."""
        chunk = self.chunk(number)
        if chunk is not None:
            kept = {place: m for place, m in chunk.members.items() if place in places}
            self._write_members(number, Chunk({**chunk.facts, **facts}, kept))

    def numbers(self) -> list[int]:
        """Return the numbers of the chunks that were written, sorted."""
        return sorted(number for number, _ in _members_files(self._folder))

    def _write_members(self, number: int, chunk: Chunk) -> None:
        file = self._members_file(number)
        file.parent.mkdir(exist_ok=True)
        members = {str(place): dict(m) for place, m in sorted(chunk.members.items())}
        content = {"facts": dict(chunk.facts), "members": members}
        write_atomic(file, json.dumps(content).encode())

    def _members_file(self, number: int) -> Path:
        return self._folder / _MEMBERS / f"{number}.json"

    def _pixels_file(self, number: int) -> Path:
        return self._folder / LEVEL / "c" / str(number) / "0" / "0" / "0"


def read_chunk(file: Path) -> Chunk | None:
    """Return what a file of members says, None where there is none.

    Raises:
        ArchiveError: if it is damaged.
    """
    try:
        found = json.loads(file.read_bytes())
        members = {
            int(place): {**member, "item": str(member["item"]), "sha256": str(member["sha256"])}
            for place, member in found["members"].items()
        }
        return Chunk(dict(found["facts"]), members)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(
            f"{file} is damaged ({type(error).__name__}: {error}); delete it and ingest again"
        ) from error


def stamp_of(root: Path, member: Member) -> tuple[int, int]:
    """Return what changes whenever the chunk of a member does."""
    try:
        found = (root / _name(member.stack) / _MEMBERS / f"{member.chunk}.json").stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True, slots=True)
class Index:
    """What the stacks of an archive hold."""

    members: Mapping[str, Member]
    """Where each item lies; the newest place, where an interruption left several."""
    outdated: Sequence[tuple[str, Member]]
    """Items and their older places."""
    broken: Mapping[str, ArchiveError]
    """What is wrong with which chunk, by the id of its stack and its number."""


def index_of(archive_dir: Path) -> Index:
    """Read all files of members of an archive."""
    root = archive_dir / FOLDER
    return _indexed(root, _stamps(root))


def stack_ids(archive_dir: Path) -> list[str]:
    """Return the ids of all stacks of an archive, sound or not."""
    return [_stack_of(name) for name, _ in _stamps(archive_dir / FOLDER)]


def discard_broken(archive_dir: Path, broken: Iterable[str]) -> None:
    """Remove the files of members that cannot be read: they name nothing that could be found."""
    for name in broken:
        stack, number = name.rsplit("/", 1)
        _remove(archive_dir / FOLDER / _name(f"{stack}/") / _MEMBERS / f"{number}.json")


def locate(archive_dir: Path, item: str) -> Member | None:
    """Return where an item lies in the stacks of an archive, None where in none.

    The members are read once and again whenever a file of them was put in place.
    """
    root = archive_dir / FOLDER
    stamps = _stamps(root)
    if not stamps:
        return None
    # A folder that changes twice within one tick of the file system's clock tells nothing of it.
    settled = time.time_ns() - max(stamp for _, stamp in stamps) > _TICK_NS
    return (_remembered if settled else _indexed)(root, stamps).members.get(item)


def _stamps(root: Path) -> tuple[tuple[str, int], ...]:
    """Return the folder of each stack, with the time of the last change to its members."""
    stamps = []
    for entry in sorted(scanned(root), key=lambda e: e.name):
        if entry.is_dir() and _ID.fullmatch(_stack_of(entry.name)):
            folder = root / entry.name / _MEMBERS
            stamps.append((entry.name, folder.stat().st_mtime_ns if folder.is_dir() else 0))
    return tuple(stamps)


def _indexed(root: Path, stamps: tuple[tuple[str, int], ...]) -> Index:
    found: dict[str, Member] = {}
    outdated: list[tuple[str, Member]] = []
    broken: dict[str, ArchiveError] = {}
    for name, _ in stamps:
        stack = _stack_of(name)
        for number, file in _members_files(root / name):
            try:
                chunk = read_chunk(file)
            except ArchiveError as error:
                broken[f"{stack}{number}"] = error
                continue
            for place, member in (chunk.members if chunk else {}).items():
                item = member["item"]
                if item in found:
                    outdated.append((item, found[item]))
                found[item] = Member(stack, number, place, member["sha256"])
    return Index(found, outdated, broken)


_remembered = lru_cache(maxsize=4)(_indexed)


def _members_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the number and the file of each chunk, oldest first."""
    return numbered_files(folder / _MEMBERS, ".json")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _shard_length(array: zarr.Array[Any]) -> int:
    return int((array.shards or array.chunks)[0])


def _name(stack: str) -> str:
    """Return the name of a stack's folder.

    Raises:
        ArchiveError: if it is no id of a stack.
    """
    Kind.of(stack)
    return stack.split("/")[1]


def _stack_of(name: str) -> str:
    return f"stacks/{name}/"
