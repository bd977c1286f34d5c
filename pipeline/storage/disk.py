"""Files and folders as a disk or a bucket has them: what is there, and that it stays there.

What a bucket has stored stays there, so nothing is to be synced.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar, cast

from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.storage.store import Place

AnyPlace = TypeVar("AnyPlace", bound="Place")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is right in a folder of a bucket, as `os.DirEntry` says it of a disk."""

    name: str
    place: BucketPlace
    is_folder: bool

    def is_dir(self) -> bool:
        """Return whether it is a folder."""
        return self.is_folder

    def is_file(self) -> bool:
        """Return whether it is an object."""
        return not self.is_folder


@dataclass(frozen=True, slots=True)
class Used:
    """How many bytes files have, and how many files there are."""

    size_bytes: int
    files: int

    def __add__(self, other: Used) -> Used:
        """Return the sum of both."""
        return Used(self.size_bytes + other.size_bytes, self.files + other.files)

    def __sub__(self, other: Used) -> Used:
        """Return what is left without the other."""
        return Used(self.size_bytes - other.size_bytes, self.files - other.files)


def used_by(place: Place) -> Used:
    """Return what all files below a place have; a file that vanishes meanwhile has nothing."""
    if isinstance(place, BucketPlace):
        sizes = [one.size_bytes for one in place.below()]
    else:
        sizes = [size for at, _, names in os.walk(place) for size in _sizes(at, names)]
    return Used(sum(sizes), len(sizes))


def _sizes(folder: str, names: Sequence[str]) -> Iterator[int]:
    for name in names:
        with suppress(FileNotFoundError):
            yield os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - millions.


def size_of(file: Place) -> int | None:
    """Return how many bytes a file or an object has, None where there is none."""
    if isinstance(file, BucketPlace):
        facts = file.facts()
        return None if facts is None else facts.size_bytes
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def holds_bytes(file: Place) -> bool:
    """Return whether `file` is there and not empty: Zarr reads both other cases as black."""
    return bool(size_of(file))


def scanned(folder: Place) -> Sequence[os.DirEntry[str] | Entry]:
    """Return what is in a folder, nothing where there is none."""
    if isinstance(folder, BucketPlace):
        return [Entry(place.name, place, facts is None) for place, facts in folder.listed()]
    return _scanned(folder)


def _scanned(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def grid_of_files(folder: Place) -> Iterator[tuple[int, int]]:
    """Yield (row, column) of each file ``folder/row/column`` that is not empty, by one walk."""
    if isinstance(folder, BucketPlace):
        for one in folder.below():
            parts = PurePosixPath(one.key[len(folder.key) + 1 :]).parts
            if len(parts) == 2 and all(map(is_number, parts)) and one.size_bytes:
                yield int(parts[0]), int(parts[1])
        return
    for row in _scanned(folder):
        if is_number(row.name):
            for file in _scanned(row.path):
                if is_number(file.name) and file.is_file() and file.stat().st_size:
                    yield int(row.name), int(file.name)


def holds_below(folder: Place, name: str) -> bool:
    """Return whether any folder inside `folder` holds a file of this name."""
    if isinstance(folder, BucketPlace):
        own = (folder / name).key
        return any(f.key.endswith(f"/{name}") and f.key != own for f in folder.below())
    return any(name in names for at, _, names in os.walk(folder) if at != str(folder))


def head_of(file: Place, most_bytes: int) -> bytes:
    """Return the first bytes of a file, of an object all of them."""
    if isinstance(file, BucketPlace):
        return file.read_bytes()[:most_bytes]
    with file.open("rb") as opened:
        return opened.read(most_bytes)


def remove_tree(folder: Place) -> None:
    """Remove a folder and all that is in it."""
    if isinstance(folder, BucketPlace):
        folder.remove_below()
    else:
        shutil.rmtree(folder)


def make_folders(folder: Place) -> None:
    """Make a folder and those that it is in, where there are such things."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)


def remove_partials_of(file: Place) -> None:
    """Remove what Zarr, when it is killed, leaves beside a file that it was writing."""
    if isinstance(file, Path):
        for partial in file.parent.glob(f"{file.name}.*.partial"):
            partial.unlink(missing_ok=True)


def numbered_files(folder: AnyPlace, suffix: str) -> Iterator[tuple[int, AnyPlace]]:
    """Yield (number, path) of the files in `folder` called ``<number><suffix>``, lowest first."""
    stems = (Path(entry.name) for entry in scanned(folder))
    found = (int(p.stem) for p in stems if p.suffix == suffix and is_number(p.stem))
    for number in sorted(found):
        yield number, cast("AnyPlace", folder / f"{number}{suffix}")


def is_number(name: str) -> bool:
    """Return whether `name` is how Zarr writes a number: not "07", nor another script's digit."""
    return name.isdecimal() and name.isascii() and (name[0] != "0" or name == "0")


def sync_tree(folder: Place) -> None:
    """Make everything in a folder survive a power cut."""
    if isinstance(folder, Path):
        for path in (folder, *folder.rglob("*")):
            fsync(path)


def fsync(path: Place) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    if isinstance(path, BucketPlace):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
