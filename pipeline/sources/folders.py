"""Walking a folder: every file at any depth that a pattern takes, each folder once.

What belongs here: order, links, loops, and which names are passed by. Not: what the files are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.pictures.kinds import (
    OURS,
    REPEATED,
    SPECIAL,
    awaited,
    is_folder_of_upres,
    is_of_upres,
    litter,
)
from pipeline.pictures.signatures import HEAD_BYTES
from pipeline.storage.stamps import stamp_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.pictures.kinds import Verdict
    from pipeline.sources.globs import Pattern
    from pipeline.sources.left_out import LeftOut

MAX_COUNTED = 100_000
"""How many entries of litter are counted one by one: snapshots may hold the whole share again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One file; with `refused` it, or the folder that it stands for, cannot be read."""

    path: str
    relative: str
    size_bytes: int = 0
    mtime_ns: int = 0
    refused: str = ""
    stamp: str = ""

    @classmethod
    def at(cls, path: str, relative: str) -> Found:
        """Return the file at a path; a link that leads nowhere is refused."""
        try:
            facts = os.stat(path)  # noqa: PTH116
        except OSError as error:
            remedy = (
                "grant access to" if isinstance(error, PermissionError) else "restore or remove"
            )
            why = f"cannot be opened ({_reason(error)}); {remedy} it"
            return cls(path=path, relative=relative, refused=why)
        return cls(
            path=path,
            relative=relative,
            size_bytes=facts.st_size,
            mtime_ns=facts.st_mtime_ns,
            stamp=stamp_of(facts),
        )

    def head(self) -> bytes | None:
        """Return its first bytes, None if it cannot be opened."""
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123
                return file.read(HEAD_BYTES)
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder to look into: `relative` is "" or its id with a slash."""

    path: str
    relative: str
    positions: frozenset[int]


_Identity = tuple[int, int] | str
"""Which folder it is, whatever it is called: device and inode."""


def _identity(folder: str) -> _Identity | None:
    try:
        facts = os.stat(folder)  # noqa: PTH116
    except OSError:
        return None
    # Some file systems number nothing.
    return (facts.st_dev, facts.st_ino) if facts.st_ino else os.path.realpath(folder)


class Walk:
    """One walk below a folder, in the order of the names.

    A link to a folder is followed as if that were at its place, also out of the root, but after all
    real folders, and no folder is listed twice: which one it is, device and inode say, not its
    path. So loops end, a real folder goes before a link to it, and of two mounts of one folder the
    first by name is listed. What is passed by is counted in `left_out`, and so is the folder
    `skip`, which upres writes into.
    """

    def __init__(
        self, root: str, pattern: Pattern, left_out: LeftOut, *, skip: Path | None = None
    ) -> None:
        self._root = root
        self._pattern = pattern
        self._left_out = left_out
        self._skipped = None if skip is None else _identity(str(skip))
        self._seen: dict[_Identity, frozenset[int]] = {}
        self._links: list[_Place] = []
        self._counted = 0

    def found(self) -> Iterator[Found]:
        """Yield the files.

        Raises:
            OSError: The root cannot be listed; folders below it become files that are refused.
        """
        self._links = [_Place(self._root, "", self._pattern.start())]
        while self._links:
            places = sorted(self._links, key=lambda place: place.relative)
            self._links = []
            for place in places:
                yield from self._below(place)

    def _below(self, place: _Place) -> Iterator[Found]:
        waiting = [place]
        while waiting:
            place = waiting.pop()
            identity = _identity(place.path)
            positions = self._unseen(identity, place.positions)
            if place.relative and identity is not None and identity == self._skipped:
                self._left_out.add(OURS, place.relative.rstrip("/"))
                continue
            if not positions:
                self._left_out.add(REPEATED, place.relative.rstrip("/"))
                continue
            try:
                entries = _entries(place.path)
            except OSError as error:
                yield _unlisted(place, error)
                continue
            if place.relative and is_folder_of_upres(_files_of(entries)):
                self._left_out.add(OURS, place.relative.rstrip("/"))
                continue
            folders: list[_Place] = []
            for entry in entries:
                yield from self._entry(entry, place.relative, positions, folders)
            waiting += reversed(folders)

    def _unseen(self, identity: _Identity | None, positions: frozenset[int]) -> frozenset[int]:
        """Return the positions that this very folder was not looked into with, and note them."""
        if identity is None:
            return positions
        seen = self._seen.get(identity, frozenset())
        self._seen[identity] = seen | positions
        return positions - seen

    def _entry(
        self,
        entry: os.DirEntry[str],
        relative: str,
        positions: frozenset[int],
        folders: list[_Place],
    ) -> Iterator[Found]:
        """Yield an entry if it is a file; add it to `folders` or to the links if it is a folder."""
        name = entry.name
        is_folder, is_link = _is_folder(entry), entry.is_symlink()
        inside = self._pattern.into(positions, name) if is_folder else frozenset[int]()
        if not is_folder and not self._takes(positions, name):
            return
        if is_folder and not inside:
            return
        out = None if self._pattern.spells(positions, name) else litter(name)
        if not is_folder and (original := awaited(name)):
            why = f"is not on this disk: {name} only stands for it; download it from iCloud"
            yield Found(path=entry.path, relative=relative + original, refused=why)
        elif out is not None:
            self._leave(entry, out, is_folder=is_folder and not is_link)
        elif is_folder:
            place = _Place(entry.path, f"{relative}{name}/", inside)
            (self._links if is_link else folders).append(place)
        elif is_of_upres(name):
            self._left_out.add(OURS, relative + name)
        elif _is_file(entry):
            yield Found.at(entry.path, relative + name)
        else:
            self._left_out.add(SPECIAL, relative + name)

    def _takes(self, positions: frozenset[int], name: str) -> bool:
        return self._pattern.takes(positions, awaited(name) or name)

    def _leave(self, entry: os.DirEntry[str], why: Verdict, *, is_folder: bool) -> None:
        """Count a file as left out, or the files in a folder; an empty one counts as itself."""
        number = self._files_in(entry.path) if is_folder else 1
        self._left_out.add(why.why, why.label, max(1, number))

    def _files_in(self, folder: str) -> int:
        """Return how many files a folder holds, as far as may be counted."""
        number, waiting = 0, [folder]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        if self._counted >= MAX_COUNTED:
                            self._left_out.at_least = True
                            return number
                        self._counted += 1
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            number += 1
            except OSError:
                self._left_out.at_least = True
        return number


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _files_of(entries: list[os.DirEntry[str]]) -> set[str]:
    return {entry.name for entry in entries if not _is_folder(entry)}


def _unlisted(place: _Place, error: OSError) -> Found:
    """Return a folder that cannot be listed as an item that fails; at the root there is no item."""
    if not place.relative:
        raise error
    why = f"cannot be listed ({_reason(error)}), so what it holds is missing; grant access to it"
    return Found(path=place.path, relative=place.relative.rstrip("/"), refused=why)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself, which no path resolves.
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether to list an entry: a file, a link to one, or a link that leads nowhere."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110
    except OSError:
        return True


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
