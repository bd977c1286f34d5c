"""Which scan of a JPEG ends before its part of the picture does.

A decoder stops reading a scan once it has all blocks, and skips what stands between there and the
next marker. So noise after a scan changes a pixel only where the decoder asked for more. Noise
after all scans at once takes one decoding to find a whole picture whole. Source: ITU-T T.81, B.1.1
and F.2.2.5.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from itertools import chain
from typing import TYPE_CHECKING

from pipeline.storage.spool import large_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOISE = hashlib.sha512().digest().replace(b"\xff", b"\x7f")
"""Decodes to all symbols of a Huffman table, as often as each is meant to occur; no markers."""


def with_noise(data: bytes, ends: Sequence[Sequence[int]]) -> bytes:
    """Return `data` with noise at every end, by scan and restart interval, in rising order."""
    whole, start = memoryview(data), 0
    parts: list[bytes | memoryview] = []
    for end in chain.from_iterable(ends):
        parts += [whole[start:end], NOISE]
        start = end
    return large_bytes([*parts, whole[start:]], len(data) + len(parts) // 2 * len(NOISE))


def first_short(
    ends: Sequence[Sequence[int]], is_whole: Callable[[Sequence[Sequence[int]]], bool]
) -> int | None:
    """Return which scan lacks data, None where all are whole.

    `is_whole` says so of scans from the first on: once where all are, else log2(scans) times more.
    """
    if is_whole(ends):
        return None
    return bisect_left(range(1, len(ends)), True, key=lambda count: not is_whole(ends[:count]))
