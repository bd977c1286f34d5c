"""How a JPEG is built: its segments, the frame they declare, and the scans of compressed data.

Nothing is judged here: structure that breaks off ends what is found. Whether all of it is there is
for `stream` to say. Source: ITU-T T.81.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Iterator

EOI = 0xD9
"""The marker that ends a picture."""
PROGRESSIVE = (0xC2, 0xCA)
"""The kinds of frames whose blocks come in several scans."""
_SOS, _DHT, _DRI = 0xDA, 0xC4, 0xDD
_FRAMES = {
    0xC0: "baseline",
    0xC1: "sequential",
    0xC2: "progressive",
    0xC3: "lossless",
    0xC9: "arithmetic",
    0xCA: "progressive arithmetic",
}
_OTHER_FRAMES = (0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Frame:
    """What the frame header declares; `sampling` is component -> (horizontal, vertical)."""

    kind: int
    bits: int
    height: int
    width: int
    sampling: dict[int, tuple[int, int]]

    def units(self, components: tuple[int, ...]) -> int:
        """Return how many MCUs a scan of these components has."""
        most_h = max(h for h, _ in self.sampling.values())
        most_v = max(v for _, v in self.sampling.values())
        if len(components) == 1:
            h, v = self.sampling[components[0]]
            columns, rows = -(-self.width * h // most_h), -(-self.height * v // most_v)
            return -(-columns // 8) * -(-rows // 8)
        return -(-self.width // (8 * most_h)) * -(-self.height // (8 * most_v))


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan: its compressed data is the bytes from `start` to `end`, with `restarts` in it."""

    components: tuple[int, ...]
    first: int
    last: int
    high: int
    low: int
    interval: int
    zero_symbols: tuple[tuple[int, int], ...]
    """By component, what zero bits stand for in its DC and AC table."""
    start: int
    end: int
    restarts: tuple[int, ...]
    ends: tuple[int, ...]
    """Where the data of each restart interval ends, in front of its marker; the last is `end`."""
    marker: int | None
    """What ended it; None where the file did."""


@dataclass(slots=True)
class Tables:
    """What segments have set so far."""

    frame: Frame | None = None
    interval: int = 0
    symbols: dict[int, int] = field(default_factory=dict)
    """Table class and number, as in DHT, to the symbol that zero bits stand for."""


def read_frame(data: bytes) -> Frame:
    """Return the frame header of a JPEG.

    Raises:
        PictureError: If there is none, or of a kind or depth that no decoder here knows.
    """
    tables = Tables()
    for _ in _segments(data, 2, tables):
        if tables.frame is not None:
            break
    frame = tables.frame
    if frame is None:
        raise PictureError("holds no frame header before its data, expected one; it is damaged")
    if frame.kind not in _FRAMES:
        raise PictureError(
            f"is a JPEG of process {frame.kind - 0xC0}, expected baseline or progressive; "
            "convert it"
        )
    if frame.bits != 8:
        raise PictureError(f"samples are {frame.bits}-bit, expected 8; convert it to 8 bits")
    return frame


def _segments(data: bytes, at: int, tables: Tables) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, body, end) of segments up to SOS or EOI; stop early where they break off."""
    # Searched for, as decoders skip what stands between segments.
    while match := _MARKER.search(data, at):
        marker, body = match[1][0], match.end()
        if marker == EOI:
            yield marker, body, body
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at = body
            continue
        if body + 2 > len(data):
            return
        end = body + int.from_bytes(data[body : body + 2], "big")
        if end < body + 2 or end > len(data):
            return
        _take(data[body + 2 : end], marker, tables)
        yield marker, body + 2, end
        if marker == _SOS:
            return
        at = end


def _take(body: bytes, marker: int, tables: Tables) -> None:
    """Note what a segment sets."""
    if marker == _DRI and len(body) >= 2:
        tables.interval = int.from_bytes(body[:2], "big")
    elif marker == _DHT:
        at = 0
        while at + 17 <= len(body):
            size = sum(body[at + 1 : at + 17])
            if at + 17 < len(body) and size:
                tables.symbols[body[at]] = body[at + 17]
            at += 17 + size
    elif (marker in _FRAMES or marker in _OTHER_FRAMES) and tables.frame is None and len(body) >= 6:
        bits, height, width, count = struct.unpack_from(">BHHB", body)
        components = (body[6 + 3 * n : 9 + 3 * n] for n in range(count))
        sampling = {c[0]: (max(1, c[1] >> 4), max(1, c[1] & 15)) for c in components if len(c) == 3}
        tables.frame = Frame(marker, bits, height, width, sampling or {0: (1, 1)})


def scans_of(data: bytes, tables: Tables) -> Iterator[Scan]:
    """Yield the scans of the first picture in the file, as far as its structure holds."""
    at = 2
    while True:
        starts = [(body, end) for m, body, end in _segments(data, at, tables) if m == _SOS]
        if not starts or tables.frame is None:
            return
        scan = _scan(data, *starts[0], tables)
        if scan is None:
            return
        yield scan
        if scan.marker is None or scan.marker == EOI:
            return
        at = scan.end


def _scan(data: bytes, body: int, start: int, tables: Tables) -> Scan | None:
    count = data[body]
    if body + 1 + 2 * count + 3 > start or tables.frame is None:
        return None
    pairs = [data[body + 1 + 2 * n : body + 3 + 2 * n] for n in range(count)]
    first, last, bits = data[body + 1 + 2 * count : body + 4 + 2 * count]
    if not pairs or any(pair[0] not in tables.frame.sampling for pair in pairs):
        return None
    restarts: list[int] = []
    ends: list[int] = []
    end, marker = len(data), None
    for at, code in _markers(data, start):
        end = _unfilled(data, start, at)
        if not 0xD0 <= code <= 0xD7:
            marker = code
            break
        ends.append(end)
        restarts.append(code - 0xD0)
    if marker is None:
        end = len(data)
    symbols = tables.symbols
    return Scan(
        components=tuple(pair[0] for pair in pairs),
        first=first,
        last=last,
        high=bits >> 4,
        low=bits & 15,
        interval=tables.interval,
        # Without a table of its own a stream is taken to have the standard's.
        zero_symbols=tuple(
            (symbols.get(pair[1] >> 4, 0), symbols.get(0x10 | (pair[1] & 15), 1)) for pair in pairs
        ),
        start=start,
        end=end,
        restarts=tuple(restarts),
        ends=(*ends, end),
        marker=marker,
    )


def _unfilled(data: bytes, start: int, end: int) -> int:
    """Return where the data in front of a marker ends: any number of 0xFF may fill the gap."""
    while end > start and data[end - 1] == 0xFF:
        end -= 1
    return end


def _markers(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Yield (place, code) of the markers from `start` on; 0xFF before 0 is data."""
    whole = np.frombuffer(data, dtype=np.uint8)
    for at in range(start, len(data) - 1, _PIECE):
        # By numpy: one byte in 256 is 0xFF, and a regular expression stops at each.
        places = at + np.flatnonzero(whole[at : min(at + _PIECE, len(data) - 1)] == 0xFF)
        codes = whole[places + 1]
        for found in np.flatnonzero((codes != 0) & (codes != 0xFF)).tolist():
            yield int(places[found]), int(codes[found])
