"""Who may read: nothing that is made of a picture is open to more people than the picture is.

What belongs here: permission bits of what is read, and of what is written in its stead. A umask
knows only one answer for all; a private picture is private wherever its copy goes.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.storage.store import Place

logger = logging.getLogger(__name__)

GROUP, OTHERS = 0o070, 0o007
EVERYONE = GROUP | OTHERS


def readers(paths: Iterable[str | Place], *, near: Place) -> int:
    """Return the permission bits of those, beside the owner, who may read every one of `paths`.

    That is any of `GROUP` and `OTHERS`. The folders that lead to a path count as well, but for
    those that lead to `near` too, where a copy is to be: whom they keep out, they keep out there.
    A path that is not there, or cannot be looked at, is for nobody else. Other groups than that
    of this process count as nobody, as its files will not be theirs. So does everybody else for
    what is in a bucket, as its credentials are this account's. In a bucket `near`, the bucket says
    who may read: there it is `EVERYONE`.
    """
    if isinstance(near, BucketPlace):
        return EVERYONE
    allowed = EVERYONE
    folders: set[str] = set()
    for path in set(map(str, paths)):
        allowed &= who_reads(path)
        folders.add(os.path.dirname(path))  # noqa: PTH120 - a million.
    passed: dict[Path, int] = {}
    for folder in folders:
        allowed &= _passage(Path(folder).absolute(), near, passed)
    return allowed


def who_reads(path: str | Path) -> int:
    """Return who may read `path` itself, wherever it is; nobody where it cannot be looked at."""
    return _bits(path, 0o044)


def who_enters(folder: Path, *, near: Path) -> int:
    """Return who may reach what is in `folder`.

    ``readers([folder / name], near=near) == who_reads(folder / name) & who_enters(folder)``
    """
    return _passage(folder.absolute(), near, {})


def _passage(folder: Path, near: Path, passed: dict[Path, int]) -> int:
    shared = {near.absolute(), *near.absolute().parents}
    allowed = EVERYONE
    for outer in (folder, *folder.parents):
        if outer in shared:
            break
        if outer not in passed:
            passed[outer] = _bits(outer, 0o011)
        allowed &= passed[outer]
    return allowed


def close_to(path: Place, allowed: int) -> None:
    """Take from a file or folder of upres's own all permissions that `allowed` does not name.

    None are added. A folder that is closed closes all that is in it. Where permissions cannot be
    changed (some disks have none, or the file is another account's), that is logged.
    """
    if isinstance(path, BucketPlace):
        return
    mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116 - a million.
    if not mode & EVERYONE & ~allowed:
        return
    try:
        path.chmod(mode & ~(EVERYONE & ~allowed))
    except OSError as error:
        logger.warning(
            "%s can be read by more accounts than its source, and that cannot be changed (%s); "
            "close a folder around it",
            path,
            error.strerror,
        )


def make_folder(path: Place, allowed: int) -> None:
    """Make a folder, and those that lead to it, for `allowed`; one that is there stays as it is."""
    if isinstance(path, BucketPlace) or path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700 | allowed)
    except FileExistsError:
        if not path.is_dir():
            raise


def _bits(path: str | Path, asked: int) -> int:
    """Return `GROUP` and `OTHERS` as far as the mode of `path` grants them what `asked` says."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a million.
    except (OSError, ValueError):  # ValueError: a path with a NUL byte.
        return 0
    granted = found.st_mode & asked
    # Folders of the system belong to other groups, and are open to all.
    group = granted & GROUP and (found.st_gid == os.getegid() or granted & OTHERS)
    return (GROUP if group else 0) | (OTHERS if granted & OTHERS else 0)
