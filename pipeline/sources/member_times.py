"""When a member of a zip or tar was modified, as its archive knows it."""

from __future__ import annotations

import struct
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tarfile
    import zipfile

_NTFS, _UNIX = 0x000A, 0x5455
"""Extra fields of zip that hold times in UTC: of Windows in 100 ns, of Unix in seconds."""

_NTFS_EPOCH = 11_644_473_600
"""Seconds from 1601 to 1970."""


def zip_member_ns(info: zipfile.ZipInfo) -> int | None:
    """Return when a member of a zip was modified, in ns since 1970; None where it cannot be.

    The extra fields of Windows and Unix are exact and in UTC; without them zip knows local time in
    steps of two seconds.
    """
    fields = dict(_extra_fields(info.extra))
    ntfs, unix = fields.get(_NTFS, b""), fields.get(_UNIX, b"")
    if len(ntfs) >= 16 and ntfs[4:8] == b"\x01\x00\x18\x00":
        return (int.from_bytes(ntfs[8:16], "little") - _NTFS_EPOCH * 10**7) * 100
    if len(unix) >= 5 and unix[0] & 1:
        return int.from_bytes(unix[1:5], "little", signed=True) * 10**9
    try:
        return int(datetime(*info.date_time).timestamp()) * 10**9
    except (ValueError, OverflowError, OSError):  # Some tools write month 0.
        return None


def tar_member_ns(info: tarfile.TarInfo) -> int | None:
    """Return when a member of a tar was modified, in ns since 1970; None where it cannot be."""
    exact = info.pax_headers.get("mtime")
    try:
        return int(Decimal(exact if exact is not None else str(info.mtime)) * 10**9)
    except (InvalidOperation, ValueError, OverflowError):
        return None


def _extra_fields(extra: bytes) -> list[tuple[int, bytes]]:
    """Return the extra fields of a zip's member, as far as they are whole."""
    fields, at = [], 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        fields.append((kind, extra[at + 4 : at + 4 + size]))
        at += 4 + size
    return fields
