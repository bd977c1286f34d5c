"""Photoshop's image resources, which JPEG, TIFF and PNG hold alike, and the IPTC among them.

Source: Adobe Photoshop File Formats Specification, "Image Resource Blocks"; IPTC-IIM 4.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pipeline.pictures.metadata.metadata import in_words

JPEG_HEADER = b"Photoshop 3.0\0"
_IPTC = 0x0404
_SIGNATURES = (b"8BIM", b"PHUT", b"DCSR", b"AgHg", b"MeSa")
_PATHS = range(2000, 2999)
# What would be false in an enlarged picture, or is in the file a second time.
_GONE = {
    0x0408: "Photoshop's grid and guides",
    0x0409: "Photoshop's thumbnail",
    0x040C: "Photoshop's thumbnail",
    0x040F: "Photoshop's copy of the colour profile",
    0x041A: "Photoshop's slices",
    0x0422: "Photoshop's copy of the EXIF",
    0x0423: "Photoshop's copy of the EXIF",
    0x0424: "Photoshop's copy of the XMP",
}


@dataclass(frozen=True, slots=True)
class Resources:
    """IPTC-IIM, all other resources as bytes, and what was left out."""

    iptc: bytes | None = None
    others: bytes | None = None
    notes: tuple[str, ...] = ()


def parted(data: bytes) -> Resources:
    """Return the resources of a block, those left out that cannot be true of an enlarged picture.

    What cannot be read is left out too, and noted.
    """
    iptc: bytes | None = None
    kept, notes, at = [], [], 0
    while at + 12 <= len(data) and data[at : at + 4] in _SIGNATURES:
        kind, end, content = _resource(data, at)
        if content is None:
            break
        if kind == _IPTC and iptc is None and content:
            iptc = content
        elif kind == _IPTC:
            notes.append(f"a second IPTC block of {in_words(len(content))} was not kept")
        elif kind in _GONE:
            notes.append(f"{_GONE[kind]}: removed ({in_words(len(content))})")
        else:
            kept.append(data[at:end])
        at = end
    if data[at:].strip(b"\0"):
        notes.append(
            f"{in_words(len(data) - at)} of the Photoshop block are damaged and were not kept"
        )
    return Resources(iptc, b"".join(kept) or None, tuple(notes))


def without_paths(others: bytes) -> bytes:
    """Return resources without Photoshop's paths, which a turned picture makes false."""
    kept, at = [], 0
    while at + 12 <= len(others):
        kind, end, _ = _resource(others, at)
        if kind not in _PATHS:
            kept.append(others[at:end])
        at = end
    return b"".join([*kept, others[at:]])


def joined(iptc: bytes | None, others: bytes | None) -> bytes:
    """Return a block of all resources, the IPTC first."""
    if iptc is None:
        return others or b""
    head = b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(iptc))
    return head + iptc + b"\0" * (len(iptc) % 2) + (others or b"")


def iptc_of_tiff(value: bytes) -> bytes | None:
    """Return IPTC-IIM of a TIFF's tag 33723, which some write as swapped 32-bit numbers."""
    if value[:1] == b"\x1c":
        return value
    if len(value) % 4 == 0 and value[3:4] == b"\x1c":
        count = len(value) // 4
        return struct.pack(f">{count}I", *struct.unpack(f"<{count}I", value))
    return None


def _resource(data: bytes, at: int) -> tuple[int, int, bytes | None]:
    """Return (id, end, content) of the resource at byte `at`; no content where it is cut off."""
    (kind,) = struct.unpack_from(">H", data, at + 4)
    name_bytes = data[at + 6] + 1
    start = at + 6 + name_bytes + name_bytes % 2 + 4
    if start > len(data):
        return kind, len(data), None
    (size,) = struct.unpack_from(">I", data, start - 4)
    if start + size > len(data):
        return kind, len(data), None
    return kind, min(start + size + size % 2, len(data)), data[start : start + size]
