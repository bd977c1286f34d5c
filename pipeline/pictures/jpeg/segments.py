"""The segments of a JPEG file besides its picture: metadata before it, other files after it.

Sources: ITU-T T.81 annex B; Adobe XMP Specification part 3 (ExtendedXMP); ICC.1 annex B; Android's
Ultra HDR and Motion Photo formats.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.pictures.formats import SEGMENT_BYTES
from pipeline.pictures.metadata import photoshop
from pipeline.pictures.metadata.metadata import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
_EXTENDED_PART_BYTES = 65_000
_COMMENT, _APP13 = 0xFE, 0xED
# What is kept by other means, or describes how the file was compressed.
_KNOWN = {
    0xE0: (b"JFIF\0",),
    0xE1: (b"Exif\0", _XMP, _EXTENDED),
    0xE2: (b"ICC_PROFILE\0",),
    0xEE: (b"Adobe",),
}
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_NOT_FILLER = re.compile(rb"[^\x00\n\r ]")
_GAIN_MAP = (b"hdr-gain-map", b"urn:iso:std:iso:ts:21496")
"""What a picture says if its gain map stands behind it."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a JPEG file holds besides picture, EXIF, standard XMP and colour profile."""

    iptc: bytes | None = None
    photoshop: bytes | None = None
    xmp_extended: bytes | None = None
    comments: tuple[bytes, ...] = ()
    notes: tuple[str, ...] = ()
    end: int = 0
    """Where the picture ends."""


def extras(data: bytes) -> Extras:
    """Return what a JPEG file holds besides; whatever is not kept is noted."""
    segments, end = _walk(data)
    blocks = [body for marker, body in segments if marker == _APP13]
    resources = photoshop.parted(
        b"".join(
            body[len(photoshop.JPEG_HEADER) :]
            for body in blocks
            if body.startswith(photoshop.JPEG_HEADER)
        )
    )
    extended, damaged = _extended(segments)
    return Extras(
        iptc=resources.iptc,
        photoshop=resources.others,
        xmp_extended=extended,
        comments=tuple(body for marker, body in segments if marker == _COMMENT and body),
        notes=(*resources.notes, *damaged, *_unkept(segments), *_behind(data, end)),
        end=end,
    )


def with_segments(data: bytes, segments: Iterable[bytes]) -> bytes:
    """Return the file with segments put in after the application segments it begins with."""
    at = 2
    while data[at] == 0xFF and 0xE0 <= data[at + 1] <= 0xEF:
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return b"".join([data[:at], *segments, data[at:]])


def photoshop_segments(iptc: bytes | None, others: bytes | None) -> Iterator[bytes]:
    """Yield the segments that hold Photoshop's resources, as many as it takes."""
    block, most = photoshop.joined(iptc, others), SEGMENT_BYTES - len(photoshop.JPEG_HEADER)
    for start in range(0, len(block), most):
        yield _segment(_APP13, photoshop.JPEG_HEADER + block[start : start + most])


def comment_segments(comments: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the segment of each comment."""
    return (_segment(_COMMENT, comment) for comment in comments)


def guid_of(extended: bytes) -> bytes:
    """Return the name under which the standard XMP refers to its extension."""
    return hashlib.md5(extended, usedforsecurity=False).hexdigest().upper().encode()


def extended_segments(extended: bytes) -> Iterator[bytes]:
    """Yield the segments that hold the extension of an XMP packet."""
    guid, size = guid_of(extended), len(extended)
    for start in range(0, size, _EXTENDED_PART_BYTES):
        part = extended[start : start + _EXTENDED_PART_BYTES]
        yield _segment(0xE1, _EXTENDED + guid + struct.pack(">II", size, start) + part)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _walk(data: bytes, at: int = 0) -> tuple[list[tuple[int, bytes]], int]:
    """Return ((marker, body) of each segment of the picture at byte `at`; where it ends)."""
    segments: list[tuple[int, bytes]] = []
    at += 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xD9:
            return segments, at + 2
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        size = int(struct.unpack_from(">H", data, at + 2)[0])
        if size < 2:
            return segments, len(data)
        if marker == _COMMENT or 0xE0 <= marker <= 0xEF:
            segments.append((marker, data[at + 4 : at + 2 + size]))
        at += 2 + size
        if marker == 0xDA:
            found = _SCAN_END.search(data, at)
            if found is None:
                return segments, len(data)
            at = found.end() - 2
    return segments, at + 2 if data[at : at + 2] == b"\xff\xd9" else len(data)


def _extended(segments: Iterable[tuple[int, bytes]]) -> tuple[bytes | None, tuple[str, ...]]:
    """Return (the extension of the XMP, reassembled; what to note of it)."""
    parts: dict[bytes, dict[int, bytes]] = defaultdict(dict)
    sizes: dict[bytes, int] = {}
    for marker, body in segments:
        if marker != 0xE1 or not body.startswith(_EXTENDED) or len(body) < len(_EXTENDED) + 40:
            continue
        guid = body[len(_EXTENDED) :][:32]
        size, start = struct.unpack_from(">II", body, len(_EXTENDED) + 32)
        parts[guid][start] = body[len(_EXTENDED) + 40 :]
        sizes[guid] = size
    named = [body for marker, body in segments if marker == 0xE1 and body.startswith(_XMP)]
    for guid, found in parts.items():
        whole = b"".join(found[start] for start in sorted(found))
        if len(whole) == sizes[guid] and any(guid in body for body in named):
            return whole, ()
    if parts:
        return None, ("the extension of the XMP is damaged and was not kept",)
    return None, ()


def _unkept(segments: Iterable[tuple[int, bytes]]) -> Iterator[str]:
    """Yield a note for each kind of segment that is not kept."""
    sizes: dict[str, int] = defaultdict(int)
    for marker, body in segments:
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) > 14:
            sizes["the JFIF thumbnail"] += len(body) - 14
        elif marker == 0xE0 and body.startswith(b"JFIF\0\1") and _is_ratio(body):
            sizes["the ratio of the sides of a pixel (JFIF)"] += 4
        elif marker == 0xE0 and body.startswith(b"JFXX\0"):
            sizes["the JFIF thumbnail"] += len(body)
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            sizes["the index of further pictures in the file (MPF)"] += len(body)
        elif marker == 0xEB and b"jumb" in body[:32]:
            sizes["signed content credentials, which hold for the original's bytes alone"] += len(
                body
            )
        elif marker == _APP13 and body.startswith(photoshop.JPEG_HEADER):
            continue
        elif marker != _COMMENT and not body.startswith(_KNOWN.get(marker, ())):
            name = re.split(rb"[^ -~]", body[:16])[0].decode("ascii")
            sizes[f"JPEG segment APP{marker - 0xE0} ({name or 'unnamed'})"] += len(body)
    yield from (f"{what}: {in_words(size)}, not kept" for what, size in sizes.items())


def _is_ratio(jfif: bytes) -> bool:
    """Return whether JFIF says of which shape pixels are, and that they are not square."""
    return len(jfif) >= 12 and jfif[7] == 0 and jfif[8:10] != jfif[10:12]


def _behind(data: bytes, end: int) -> Iterator[str]:
    """Yield a note for each file that stands after the picture."""
    picture_end = end
    while _NOT_FILLER.search(data, end):
        if data[end : end + 3] == b"\xff\xd8\xff":
            inner, stop = _walk(data, end)
            is_map = any(b"hdrgm" in body or b"HDRGainMap" in body for _, body in inner)
            what = (
                "the gain map of the HDR picture"
                if is_map or any(data.find(name, 0, picture_end) >= 0 for name in _GAIN_MAP)
                else "a further picture in the file"
            )
        elif data[end + 4 : end + 8] == b"ftyp":
            stop, what = len(data), "the embedded film of the motion photo"
        else:
            stop, what = _next_file(data, end), "data after the picture"
        yield f"{what}: {in_words(stop - end)}, not kept"
        end = stop


def _next_file(data: bytes, at: int) -> int:
    """Return where the next JPEG picture or film begins, or the end."""
    film = data.find(b"ftyp", at + 5)
    found = [data.find(b"\xff\xd8\xff\xe0", at + 1), data.find(b"\xff\xd8\xff\xe1", at + 1)]
    starts = [start for start in (*found, film - 4 if film > 0 else -1) if start > at]
    return min(starts, default=len(data))
