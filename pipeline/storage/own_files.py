"""By what upres knows its own files again, where it chose the name: reports and previews.

What belongs here: signing such files, and refusing to replace one that is not signed. Not: exported
pictures, which the ledger knows (`export`).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from pipeline.errors import OccupiedError
from pipeline.storage.disk import head_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.storage.store import Place

_HEAD_BYTES = 64 * 1024
_PNG_HEADER = 8 + 25
"""Signature and first chunk of a PNG."""

_SIGN = b"Software\0upres"


def signed_png(content: bytes) -> bytes:
    """Return a PNG with a text chunk after its header that says who drew it."""
    body = b"tEXt" + _SIGN
    chunk = struct.pack(">I", len(_SIGN)) + body + struct.pack(">I", zlib.crc32(body))
    return content[:_PNG_HEADER] + chunk + content[_PNG_HEADER:]


def is_signed_png(content: bytes) -> bool:
    """Return whether a file begins as `signed_png` makes it."""
    return content[_PNG_HEADER + 4 : _PNG_HEADER + 8 + len(_SIGN)] == b"tEXt" + _SIGN


def is_report(content: bytes) -> bool:
    """Return whether a file begins as the reports of every version do."""
    return b"Content-Security-Policy" in content and " – upres report</title>".encode() in content


def is_dataset_report(content: bytes) -> bool:
    """Return whether a file begins as the reports of datasets do."""
    return b"Content-Security-Policy" in content and " – upres dataset</title>".encode() in content


def is_trial(content: bytes) -> bool:
    """Return whether a file begins as the pages of candidates do."""
    return b"Content-Security-Policy" in content and " – upres try</title>".encode() in content


def check_own(path: Place, is_own: Callable[[bytes], bool]) -> None:
    """Make sure that what is at `path`, if anything, is a file that upres wrote.

    Raises:
        OccupiedError: if it is not.
    """
    try:
        own = is_own(head_of(path, _HEAD_BYTES))
    except FileNotFoundError:
        return
    except IsADirectoryError:
        own = False
    if not own:
        raise OccupiedError(
            f"{path} exists and was not written by upres, expected no file of that name; move it "
            "away"
        )
