"""Files and folders as the disk has them: what is there, and that it stays there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def holds_bytes(file: Path) -> bool:
    """Return whether `file` is there and not empty: Zarr reads both other cases as black."""
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def scanned(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return what is in a folder, nothing where there is none."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def numbered(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, path) of what is in `folder` and is named by a number."""
    for entry in scanned(folder):
        if is_number(entry.name):
            yield int(entry.name), entry.path


def numbered_files(folder: Path, suffix: str) -> Iterator[tuple[int, Path]]:
    """Yield (number, path) of the files in `folder` called ``<number><suffix>``, lowest first."""
    stems = (Path(entry.name) for entry in scanned(folder))
    found = (int(p.stem) for p in stems if p.suffix == suffix and is_number(p.stem))
    for number in sorted(found):
        yield number, folder / f"{number}{suffix}"


def is_number(name: str) -> bool:
    """Return whether `name` is how Zarr writes a number: not "07", nor another script's digit."""
    return name.isdecimal() and name.isascii() and (name[0] != "0" or name == "0")


def sync_tree(folder: Path) -> None:
    """Make everything in a folder survive a power cut."""
    for path in (folder, *folder.rglob("*")):
        fsync(path)


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
