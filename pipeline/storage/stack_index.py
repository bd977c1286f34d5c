"""Where items are in the stacks of an archive, by the members of all its chunks."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from pipeline.errors import ArchiveError
from pipeline.storage.chunk_members import (
    MEMBERS,
    SIZE,
    members_file,
    members_files,
    read_chunk,
    remove_whatever,
)
from pipeline.storage.disk import scanned
from pipeline.storage.stack_kind import (
    STACKS_FOLDER,
    Kind,
    is_stack_id,
    stack_folder,
    stack_of,
)
from pipeline.storage.stamps import stamp_of
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.storage.store import Place

_TICK_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """Where an item is, and the content hash of the picture that it came from."""

    stack: str
    chunk: int
    place: int
    sha256: str
    size: tuple[int, int] | None = None
    """(height, width) of one in a mixed stack; in others all are of one size."""


def chunk_stamp(root: Place, member: Member) -> str:
    """Return what changes whenever the chunk of a member does; "" where it is gone."""
    file = members_file(root / stack_folder(member.stack), member.chunk)
    if isinstance(file, BucketPlace):
        facts = file.facts()
        return "" if facts is None else facts.etag
    try:
        return stamp_of(file.stat())
    except FileNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Index:
    """What the stacks of an archive hold."""

    members: Mapping[str, Member]
    """Where each item is; the newest place, where an interruption left several."""
    outdated: Sequence[tuple[str, Member]]
    """Items and their older places."""
    broken: Mapping[str, ArchiveError]
    """What is wrong with which chunk, by the id of its stack and its number."""


def index_of(archive_dir: Place) -> Index:
    """Read all files of members of an archive."""
    root = archive_dir / STACKS_FOLDER
    return _indexed(root, _stamps(root))


def stack_ids(archive_dir: Place) -> list[str]:
    """Return the ids of all stacks of an archive, sound or not."""
    return [stack_of(name) for name, _ in _stamps(archive_dir / STACKS_FOLDER)]


def discard_broken(archive_dir: Place, broken: Iterable[str]) -> None:
    """Remove the files of members that cannot be read: they name nothing that could be found."""
    for name in broken:
        stack, number = name.rsplit("/", 1)
        folder = archive_dir / STACKS_FOLDER / stack_folder(f"{stack}/")
        remove_whatever(members_file(folder, int(number)))


def locate(archive_dir: Place, item: str) -> Member | None:
    """Return where an item is in the stacks of an archive, None if it is in none.

    The members are read once and again whenever a file of them was put in place.
    """
    root = archive_dir / STACKS_FOLDER
    stamps = _stamps(root)
    if not stamps:
        return None
    # A folder that changes twice within one tick of the file system's clock keeps its time.
    times = [stamp for _, stamp in stamps if isinstance(stamp, int)]
    settled = not times or time.time_ns() - max(times) > _TICK_NS
    return (_remembered if settled else _indexed)(root, stamps).members.get(item)


_Stamps = tuple[tuple[str, int | str], ...]
"""The folder of each stack, with what changes whenever its members do."""


def _stamps(root: Place) -> _Stamps:
    """Return the stamps of all stacks: of a folder its time, in a bucket a hash of the etags."""
    if isinstance(root, BucketPlace):
        return _stamps_in_bucket(root)
    stamps = []
    for entry in sorted(scanned(root), key=lambda e: e.name):
        if entry.is_dir() and is_stack_id(stack_of(entry.name)):
            folder = root / entry.name / MEMBERS
            stamps.append((entry.name, folder.stat().st_mtime_ns if folder.is_dir() else 0))
    return tuple(stamps)


def _stamps_in_bucket(root: BucketPlace) -> _Stamps:
    etags: dict[str, list[str]] = defaultdict(list)
    for one in root.below():
        name, _, inside = one.key[len(root.key) + 1 :].partition("/")
        if inside and is_stack_id(stack_of(name)):
            etags[name] += [f"{inside} {one.etag}"] * inside.startswith(f"{MEMBERS}/")
    return tuple((n, sha256("\n".join(e).encode()).hexdigest()) for n, e in etags.items())


def _indexed(root: Place, stamps: _Stamps) -> Index:
    found: dict[str, Member] = {}
    outdated: list[tuple[str, Member]] = []
    broken: dict[str, ArchiveError] = {}
    for name, _ in stamps:
        stack = stack_of(name)
        mixed = Kind.of(stack).mixed
        for number, file in members_files(root / name):
            try:
                chunk = read_chunk(file, mixed=mixed)
            except ArchiveError as error:
                broken[f"{stack}{number}"] = error
                continue
            for place, member in (chunk.members if chunk else {}).items():
                item = member["item"]
                if item in found:
                    outdated.append((item, found[item]))
                size = member[SIZE] if mixed else None
                found[item] = Member(stack, number, place, member["sha256"], size)
    return Index(found, outdated, broken)


_remembered = lru_cache(maxsize=4)(_indexed)
