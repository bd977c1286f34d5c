"""Who writes below a place of a bucket that has no ledger: whoever claimed it last.

What belongs here: claiming such a place, and hearing that another process claimed it since. A store
keeps no lock that ends with its holder, and nobody shall wait for one that was killed. So the later
one of two writers goes on, and the earlier one hears of it before it writes again. On one machine
the later one is refused, as everywhere.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.errors import JobBusyError
from pipeline.storage.locks import hold, signature
from pipeline.storage.user_cache import cache_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.storage.store import BucketPlace

_TRIES = 5


@dataclass(slots=True)
class Claim:
    """A place of a bucket that this process writes to, until another one claims it."""

    what: BucketPlace
    file: BucketPlace
    """The object that says who claimed the place last."""
    kept: BucketPlace
    """The object that a later holder goes on from: no earlier one may replace it."""
    content: bytes
    """Of `file`, while this process is the last one that claimed."""
    etag: str | Literal[False] = False
    """Of `kept` as this process knows it; False where there is none."""

    def take(self) -> None:
        """Claim the place, once nothing else is in the way: whoever had it ends.

        Raises:
            StoreError: if the store cannot be written to.
        """
        self.file.write_bytes(self.content)
        self.etag = self._etag_now()

    def check(self) -> None:
        """Make sure that nobody else has claimed the place since.

        Raises:
            JobBusyError: if somebody has; the message names that process and its start.
            StoreError: if the store does not say.
        """
        found = _content(self.file)
        if not found:
            # Lost, which claims nothing. Whoever claims it in this moment has it.
            with suppress(FileExistsError):
                self.file.of_bucket.put(self.file.key, self.content, replaces=False)
            found = _content(self.file)
        if found != self.content:
            holder = found.partition(b"\n")[0].decode(errors="replace").strip() or "another run"
            raise JobBusyError.of(self.what, holder)

    def keep(self, content: bytes) -> None:
        """Make `content` all of `kept`, whatever it is now, as long as nobody else claimed it.

        A request that was held up on the way changes nothing once somebody else stored theirs.

        Raises:
            JobBusyError: if somebody claimed it.
            StoreError: if it cannot be stored.
        """
        for _ in range(_TRIES):
            try:
                self.etag = self.kept.of_bucket.put(self.kept.key, content, replaces=self.etag)
            except (FileExistsError, FileNotFoundError):
                # Lost, or put by whom this process took over from, or by itself: the answer to
                # what is repeated is that it is there.
                self.check()
                self.etag = self._etag_now()
            else:
                return
        raise JobBusyError.of(self.what, "another run")

    def _etag_now(self) -> str | Literal[False]:
        found = self.kept.facts()
        return found.etag if found else False


@contextmanager
def claiming(
    file: BucketPlace, what: BucketPlace, command: str, *, kept: BucketPlace
) -> Iterator[Claim]:
    """Yield what claims `what` by the object `file`, and hold it on this machine meanwhile.

    `command` is how others hear of the holder. `kept` is the object below it that whoever claims it
    next goes on from.

    Raises:
        JobBusyError: if another process of this account and machine holds it.
    """
    with ExitStack() as holding:
        lock = _lock_here(what)
        if lock is not None:
            holding.enter_context(hold(lock, what, command))
        content = f"{signature(command)}\n{uuid.uuid4().hex}\n".encode()
        yield Claim(what, file, kept, content)


def _content(place: BucketPlace) -> bytes:
    """Return the content of an object; nothing where there is none."""
    with suppress(FileNotFoundError):
        return place.read_bytes()
    return b""


def _lock_here(what: BucketPlace) -> Path | None:
    """Return the lock on this machine; None where its user has no folder for one."""
    # Buckets of two stores may have one name.
    store = f"{what} {os.environ.get('AWS_ENDPOINT_URL', '')}"
    file = cache_file(hashlib.sha256(store.encode()).hexdigest()[:16])
    if file is None:
        return None
    lock = file.parent / "claims" / f"{file.stem}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError:
        return None
    return lock
