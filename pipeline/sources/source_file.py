"""One file of a source, by itself or inside of a zip or tar archive, and its bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import DiskError, SourceError, StoreError, UnsupportedError
from pipeline.sources.item_names import reason_of, shown_path
from pipeline.sources.packed import BROKEN, Container, Member
from pipeline.storage.spool import is_spooled, read_bytes
from pipeline.storage.store import BucketPlace, is_address, place_of

if TYPE_CHECKING:
    from pipeline.storage.store import Place

MAX_MEMBER_BYTES = 2 << 30
"""What one member of a zip or tar may declare; above it is taken for a decompression bomb."""

_HEAD_BYTES = 8
_MAPPED = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How the files of JPEG, PNG and TIFF begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source; small and picklable.

    `item` is its stable id, `address` the path of the file, or of its archive for a `member`.
    `size_bytes` is the file's or the member's, `mtime_ns` the file's or the archive's;
    `archive_bytes` is the size of the archive. With `refused`, reading fails for that reason, and
    with `unread` because of what the file is.
    """

    item: str
    address: str
    size_bytes: int
    mtime_ns: int
    member: Member | None = None
    archive_bytes: int = 0
    refused: str | None = None
    unread: str | None = None
    modified_ns: int | None = None
    """When a member was modified, if its archive knows."""
    etag: str = ""
    """What differs whenever the content does: the etag of an object, the stamp of a file."""

    def read(self, *, max_member_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        """Return the bytes of the file, a copy of that moment.

        Within `spooling_in`, those of a large JPEG, PNG or TIFF are on the disk, as `large_bytes`
        says.

        Raises:
            SourceError: It vanished, is unreadable or refused, its archive changed since it was
                listed, or it is a member larger than `max_member_bytes`.
            StoreError: The store that it is in does not answer, or refuses.
            UnsupportedError: It is of a kind that upres does not read.
        """
        self.check_listed()
        try:
            data = self._read(max_member_bytes)
            # The decoders of others have all bytes of a file in memory anyway.
            return data if data[:_HEAD_BYTES].startswith(_MAPPED) else bytes(data)
        except (SourceError, StoreError) as error:
            raise type(error)(f"{self.item}: {error}") from None
        except DiskError:
            raise  # Not of the file, but of where it would be copied to.
        except (OSError, EOFError, MemoryError, ValueError, *BROKEN) as error:
            words = reason_of(error)
            if isinstance(error, PermissionError):
                remedy = "grant access to it"
            else:
                remedy = "restore the file or ingest the source again"
            raise SourceError(
                f"{self.item}: cannot be read from {shown_path(self.address)} ({words}), expected "
                f"{self.size_bytes} bytes; {remedy}"
            ) from error

    def check_listed(self) -> None:
        """Refuse what the listing itself says cannot be read, without a look at the file.

        Raises:
            SourceError: It is refused.
            UnsupportedError: It is of a kind that upres does not read.
        """
        if self.refused is not None:
            raise SourceError(f"{self.item}: {self.refused}")
        if self.unread is not None:
            raise UnsupportedError(f"{self.item}: {self.unread}")

    def _read(self, max_member_bytes: int) -> bytes:
        if is_address(self.address):
            return self._read_object(place_of(self.address))
        if self.member is not None:
            return self._read_member(self.member, max_member_bytes)
        with Path(self.address).open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            return read_bytes(file, size_bytes) if is_spooled(size_bytes) else file.read()

    def _read_object(self, place: Place) -> bytes:
        if not isinstance(place, BucketPlace):
            raise SourceError(f"{shown_path(self.address)} is not in a bucket")
        try:
            return place.of_bucket.get(place.key, etag=self.etag)
        except FileExistsError:
            raise self._changed() from None

    def _changed(self) -> SourceError:
        return SourceError(
            f"{shown_path(self.address)} changed since it was listed; ingest the source again"
        )

    def _read_member(self, member: Member, max_member_bytes: int) -> bytes:
        if self.size_bytes > max_member_bytes:
            raise SourceError(
                f"declares {self.size_bytes} bytes inside its archive, expected at most "
                f"{max_member_bytes}; unpack it and give the folder instead"
            )
        path = Path(self.address)
        facts = path.stat()
        if (facts.st_size, facts.st_mtime_ns) != (self.archive_bytes, self.mtime_ns):
            raise self._changed()
        data = Container(member.kind, path).read(member, self.size_bytes, self.mtime_ns)
        if len(data) != self.size_bytes:
            raise SourceError(
                f"holds {len(data)} bytes, its archive declares {self.size_bytes}; "
                f"the archive is damaged"
            )
        return data
