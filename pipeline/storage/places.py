"""Which folder a path means, whatever it is called: identity by the file system, not by text.

One folder has many paths: symbolic links, bind mounts, a share that is mounted twice, names in
another case. What belongs here: whether a path is the same folder as another one, or inside of it.
Not: which places must be apart (`pipeline.sources.overlap`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipeline.storage.store import Place

_OURS = ("zarr.json", "job.json")
"""Files of folders that upres wrote, which are never read as sources and may hold many folders."""


class Identity(NamedTuple):
    """What a file system calls a file or folder: equal for all of its names."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Identity | None:
        """Return the identity of what `path` leads to; None where there is nothing."""
        try:
            facts = os.stat(path)  # noqa: PTH116 - Path refuses what a directory entry gives.
        except (OSError, ValueError):
            return None
        return cls(facts.st_dev, facts.st_ino)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that exists: its path, and what the file system knows of it."""

    path: Path
    identity: Identity
    times: tuple[int, int]
    """When it was modified and changed last, in ns."""

    @classmethod
    def at(cls, path: Path) -> Folder | None:
        """Return the folder that `path` leads to; None where there is none."""
        try:
            facts = path.stat()
        except (OSError, ValueError):
            return None
        identity = Identity(facts.st_dev, facts.st_ino)
        return cls(path, identity, (facts.st_mtime_ns, facts.st_ctime_ns))

    def is_same(self, other: Folder) -> bool:
        """Return whether both are one folder.

        A share that is mounted twice may have two device numbers. Then the folder has one inode
        number and the same times to the nanosecond, and holds the same names. A file system that
        makes up its times (0) proves nothing.
        """
        if self.identity == other.identity:
            return True
        if self.identity.device == other.identity.device:
            return False
        alike = self.identity.inode == other.identity.inode and self.times == other.times
        return alike and all(self.times) and _names(self.path) == _names(other.path) != []


def lineage(path: Path) -> list[Folder]:
    """Return `path` and the folders that it is in, nearest first, as far as they exist."""
    real = Path(os.path.realpath(path))
    folders = (Folder.at(place) for place in (real, *real.parents))
    return [folder for folder in folders if folder is not None]


def inside(path: Path, folder: Path) -> Path | None:
    """Return where `path` is below `folder`, "." for the folder itself; None where it is not.

    Neither has to exist yet: what does not exist has the names that it will have.
    """
    outer = Path(os.path.realpath(folder))
    anchor = lineage(outer)[0]
    ahead = outer.relative_to(anchor.path)
    for place, below in _steps_up(path):
        if place.is_same(anchor):
            return below.relative_to(ahead) if below.is_relative_to(ahead) else None
    return None


def is_inside(path: Place, folder: Place) -> bool:
    """Return whether `path` is `folder` or is in it; in a bucket, its key says so."""
    if isinstance(path, BucketPlace) or isinstance(folder, BucketPlace):
        return isinstance(path, BucketPlace) and path.is_relative_to(folder)
    return inside(path, folder) is not None


def folders_below(
    root: Path, enter: Callable[[Path], bool] = lambda _below: True
) -> Iterator[Folder]:
    """Yield `root` and every folder below it, each once, links to folders followed.

    `enter` says, of a path below `root`, whether to go there. What upres wrote (archives, datasets,
    jobs) is left out: it is never read as a source.
    """
    seen: set[Identity] = set()
    waiting = [root]
    while waiting:
        here = Folder.at(waiting.pop())
        if here is None or here.identity in seen:
            continue
        seen.add(here.identity)
        entries = _entries(here.path)
        if here.path != root and any(entry.name in _OURS for entry in entries):
            continue
        yield here
        below = (here.path / entry.name for entry in entries if _leads_to_folder(entry))
        waiting += [path for path in below if enter(path.relative_to(root))]


def ways_below(
    path: Path, root: Path, enter: Callable[[Path], bool] = lambda _below: True
) -> Iterator[Path]:
    """Yield every relative path by which `path` is reached from the folder `root`.

    Also by a link or a mount somewhere below `root`, which `inside` does not see: it takes a look
    at each folder there.
    """
    steps = list(_steps_up(path))
    inodes = {place.identity.inode for place, _ in steps}
    for here in folders_below(root, enter):
        if here.identity.inode in inodes:
            for place, below in steps:
                if place.is_same(here):
                    yield here.path.relative_to(root) / below


def identities(paths: Iterable[str | os.PathLike[str]]) -> set[Identity]:
    """Return the identities of those of `paths` that exist."""
    return {found for found in map(Identity.of, paths) if found is not None}


def _steps_up(path: Path) -> Iterator[tuple[Folder, Path]]:
    """Yield the folders that exist on the way up from `path`, and where it is below each."""
    real = Path(os.path.realpath(path))
    for folder in lineage(real):
        yield folder, real.relative_to(folder.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        # Whoever lists the source says so.
        return []


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder))
