"""Who works on a folder: locks that are gone with the process that holds them, however it ends.

What belongs here: taking a lock and saying who holds it. Not: what a lock guards, which its caller
knows. The operating system keeps the locks, so they hold between containers that share a volume
too; the file of a lock says who holds it, or held it last, and stays.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from filelock import lock_descriptor

from pipeline.errors import JobBusyError, UsageError
from pipeline.storage.ledger import FILE_NAME, hold_by_server, ledger_file
from pipeline.storage.own_files import check_own

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pipeline.storage.store import Place

_HOLDER = re.compile(rb"\(pid \d+ on .*, since [-+:T\d]+\)\s*$")
"""How the content of every lock ends."""

_LOCKED_BYTES = 1 if sys.platform == "win32" else 0
"""Windows keeps locked bytes from all but the holder: who that is is written after them."""

_BINARY = getattr(os, "O_BINARY", 0)


def check_lock(lock: Path) -> None:
    """Make sure that a lock, if it is there, is one that upres wrote.

    Raises:
        OccupiedError: if it is not.
    """
    with suppress(PermissionError):  # On Windows nobody else can read a lock that is held.
        check_own(lock, lambda content: not content or _HOLDER.search(content) is not None)


@contextmanager
def hold(lock: Path, what: Place, command: str) -> Iterator[None]:
    """Hold `what` alone, by the file `lock`; `command` is how others hear of the holder.

    Raises:
        JobBusyError: if another process holds it; the message names that process and its start.
        OccupiedError: if `lock` is not a file that upres wrote.
    """
    check_lock(lock)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | _BINARY, 0o644)
    try:
        if not lock_descriptor(handle, blocking=False):
            raise JobBusyError.of(what, _holder(handle))
        _sign(handle, command)
        yield
    finally:
        os.close(handle)


@contextmanager
def hold_to_read(lock: Path, what: Path, command: str) -> Iterator[None]:
    """Hold `what` while it is read, as `hold`; where no lock can be written, none is needed.

    On a read-only disk nobody writes; a lock of somebody else's, which may only be read, still
    says whether `what` is being written.

    Raises:
        JobBusyError: if another process holds it.
    """
    try:
        os.close(os.open(lock, os.O_RDWR | os.O_CREAT, 0o644))
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    else:
        with hold(lock, what, command):
            yield
        return
    handle = None
    try:
        with suppress(FileNotFoundError, PermissionError):
            handle = os.open(lock, os.O_RDONLY | _BINARY)
        if handle is not None and not _share(handle):
            raise JobBusyError(f"{what} is being written; wait for it or stop it")
        yield
    finally:
        if handle is not None:
            os.close(handle)


def hold_by_ledger(
    url: str, *, job: str, what: Place, command: str
) -> AbstractContextManager[None]:
    """Hold `what`, which is in a bucket, by its ledger: by its server, or a lock beside its file.

    Raises:
        JobBusyError: if another process holds it; the message names that process and its start.
        LedgerError: if the server cannot be reached.
    """
    file = ledger_file(url)
    if file is None:
        return hold_by_server(url, job=job, what=str(what), command=command)
    return hold(file.with_name(f"{file.name}.lock"), what, command)


def lock_and_ledger_beside(store: Path) -> tuple[Path, Path]:
    """Return where lock and ledger are of a Zarr store that is not part of a job: beside it.

    The folder that they are in is made, if need be.

    Raises:
        UsageError: if no folder can be called so.
    """
    place = resolved_store(store)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place.with_name(f"{place.name}.lock"), place.with_name(f"{place.name}.{FILE_NAME}")


def resolved_store(store: Path) -> Path:
    """Return the path of a store with links followed: "." has no name to stand beside.

    Raises:
        UsageError: if no folder can be called so, or nothing could stand beside it.
    """
    try:
        place = store.resolve()
        str(place).encode()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links that go in circles.
        raise UsageError(f"{str(store)!r} cannot be a folder ({error}); name another") from error
    if not place.name:
        raise UsageError(f"{place} has no name that files could stand beside; name a folder in it")
    return place


def signature(command: str) -> str:
    """Return how others hear of this process, which holds something from now on."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{command} (pid {os.getpid()} on {platform.node()}, since {started})"


def _sign(handle: int, command: str) -> None:
    """Write who holds a lock into its file."""
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, b" " * _LOCKED_BYTES + signature(command).encode())


def _holder(handle: int) -> str:
    """Return who holds a lock that others hold."""
    os.lseek(handle, _LOCKED_BYTES, os.SEEK_SET)
    return os.read(handle, 4096).decode(errors="replace").strip() or "another run"


def _share(handle: int) -> bool:
    """Lock against those who hold a file alone, and not against others who share it.

    `filelock` has no lock of this kind; where the system has none, readers refuse each other, too.
    """
    if sys.platform == "win32":
        return lock_descriptor(handle, blocking=False)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
