"""Locks of folders: files that name their holder, and let go with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.errors import JobBusyError, UsageError
from pipeline.storage.ledger import FILE_NAME
from pipeline.storage.own_files import check_own

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HOLDER = re.compile(rb"\(pid \d+ on .*, since [-+:T\d]+\)\s*$")
"""How the content of every lock ends: who holds it, or held it last."""


def check_lock(lock: Path) -> None:
    """Refuse to take a file for a lock that upres did not write.

    Raises:
        OccupiedError: then.
    """
    check_own(lock, lambda content: not content or _HOLDER.search(content) is not None)


@contextmanager
def hold(lock: Path, folder: Path, command: str) -> Iterator[None]:
    """Hold `folder` by the file `lock`: the lock goes with the process, however it ends.

    Raises:
        JobBusyError: if another process holds it; the message names that process and its start.
        OccupiedError: if `lock` is not a file that upres wrote.
    """
    check_lock(lock)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 4096, 0).decode(errors="replace").strip() or "another run"
            raise JobBusyError(f"{folder} is held by {holder}; wait for it or stop it") from error
        started = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(handle, 0)
        host = os.uname().nodename
        os.pwrite(handle, f"{command} (pid {os.getpid()} on {host}, since {started})".encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def hold_to_read(lock: Path, folder: Path, command: str) -> Iterator[None]:
    """Hold `folder` while it is read; where no lock can be written, none is needed.

    On a read-only disk nobody writes; a lock of somebody else's, which may only be read, still
    tells whether `folder` is being written.

    Raises:
        JobBusyError: if another process holds it.
    """
    try:
        os.close(os.open(lock, os.O_RDWR | os.O_CREAT, 0o644))
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    else:
        with hold(lock, folder, command):
            yield
        return
    handle = None
    try:
        with suppress(FileNotFoundError, PermissionError):
            handle = os.open(lock, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise JobBusyError(f"{folder} is being written; wait for it or stop it") from error
    finally:
        if handle is not None:
            os.close(handle)


def lock_and_ledger_beside(folder: Path) -> tuple[Path, Path]:
    """Return the lock and the ledger of a Zarr store that is not a job: files beside it.

    Their folder is made if need be.

    Raises:
        UsageError: if no folder can be called so.
    """
    try:
        # Resolved, as "." has no name that another one could stand beside.
        store = folder.resolve()
        str(store).encode()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links that go in circles.
        raise UsageError(f"{str(folder)!r} cannot be a folder ({error}); name another") from error
    if not store.name:
        raise UsageError(f"{store} has no name that files could stand beside; name a folder in it")
    store.parent.mkdir(parents=True, exist_ok=True)
    return store.with_name(f"{store.name}.lock"), store.with_name(f"{store.name}.{FILE_NAME}")
