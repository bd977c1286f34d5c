"""Files that appear whole or not at all.

What belongs here: replacing one file, or one object of a bucket. Not: Zarr stores, which replace
shards on their own.
"""

from __future__ import annotations

import io
import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from pipeline.storage.access import EVERYONE, close_to
from pipeline.storage.disk import fsync
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.storage.store import Place


@contextmanager
def replace_atomically(path: Place, *, readers: int = EVERYONE) -> Iterator[BinaryIO]:
    """Yield a file to write; on a clean exit it becomes `path`, durable on the disk.

    Any other exit leaves what stood at `path` untouched and removes the partial file. A reader of
    `path` sees the old bytes or the new ones, never a mixture. The folder must exist. The file is
    for its owner and `readers`, as far as the umask lets them. An object of a bucket is stored in
    one request at the end; who may read it is for the bucket to say.
    """
    if isinstance(path, BucketPlace):
        content = io.BytesIO()
        yield content
        path.write_bytes(content.getvalue())
        return
    # The name does not hold the final one: that may already be as long as a name can be.
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            close_to(partial, readers)
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # The name of the partial file means nothing to a user.
        if isinstance(error, OSError) and error.filename in (None, partial, str(partial)):
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def write_atomic(path: Place, content: bytes, *, readers: int = EVERYONE) -> None:
    """Make `content` all of `path`, under the promises of `replace_atomically`."""
    with replace_atomically(path, readers=readers) as file:
        file.write(content)


def remove_partials(folder: Place) -> None:
    """Remove what writers that were killed have left in a folder; none may be writing there."""
    if isinstance(folder, BucketPlace):
        return
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path, *, readers: int = EVERYONE) -> Iterator[BinaryIO]:
    """Yield a new file to write, which can be read and sought; it stays on a clean exit.

    It is for its owner and `readers`, as far as the umask lets them. It is not durable yet.

    Raises:
        OSError: if there is a file already, or it cannot be written; then nothing is left.
    """
    with path.open("x+b") as file:
        try:
            close_to(path, readers)
            yield file
            file.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def place_new(partial: Path, path: Path) -> None:
    """Give the finished file `partial` the name `path`, if nothing has that name.

    Raises:
        FileExistsError: if something has; it is untouched, and `partial` is still there.
    """
    try:
        os.link(partial, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        _place_without_links(partial, path)
    else:
        partial.unlink()


def _place_without_links(partial: Path, path: Path) -> None:
    """Reserve the name by an empty file, which only one can make, then replace that.

    For FAT and for shares that know no hard links.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        partial.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where folders can be synced (POSIX)."""
    if os.name == "posix":
        fsync(folder)
