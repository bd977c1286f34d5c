"""EXIF and the TIFF structure that it is: a tree of directories, kept byte for byte.

Only `struct` is needed here; decoding pictures is `pipeline.images`.
Sources: TIFF 6.0, BigTIFF, and CIPA DC-008 (EXIF 2.32).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = b"Exif\0\0"
_ORIENTATION = 274
_COPYRIGHT = 33432
_SUBDIRECTORIES = (34665, 34853, 40965)  # Exif, GPS, Interoperability
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
# What of a TIFF's first directory tells about the picture instead of the file's layout: names,
# makers, orientation, dates, owners, rating, Windows's titles, and the two directories below.
_TELLING = (269, 270, 271, 272, _ORIENTATION, 305, 306, 315, 316, 18246, _COPYRIGHT)
_TELLING += (*range(40091, 40096), 34665, 34853)


@dataclass(frozen=True, slots=True)
class Layout:
    """How numbers lie in a TIFF structure: byte order "<" or ">", classic or BigTIFF."""

    order: Literal["<", ">"]
    big: bool

    @classmethod
    def of(cls, data: bytes) -> Layout:
        """Read the first bytes of a structure; ValueError if they are none of one."""
        if data[:2] not in (b"II", b"MM") or len(data) < 8:
            raise ValueError(f"a TIFF structure starts with II or MM, met {data[:4]!r}")
        return cls("<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+"))

    def pack(self, classic: str, big: str, *values: int) -> bytes:
        """Return numbers as bytes, by the `struct` codes of the classic and the big layout."""
        return struct.pack(self.order + (big if self.big else classic), *values)

    def unpack(self, classic: str, big: str, data: bytes, at: int) -> tuple[int, ...]:
        """Return the numbers at byte `at`, by the same codes; ValueError far behind the end."""
        if at > len(data):  # BigTIFF points farther than an index can be.
            raise ValueError(f"byte {at} is wanted of {len(data)} bytes")
        return struct.unpack_from(self.order + (big if self.big else classic), data, at)

    def root(self, data: bytes) -> int:
        """Return where the first directory begins."""
        return self.unpack("I", "Q", data, 8 if self.big else 4)[0]


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry: its value as bytes in the file's order, or the directory that it points to."""

    code: int
    kind: int
    count: int
    value: bytes | tuple[Tag, ...]


def _entries(data: bytes, at: int, layout: Layout) -> Iterator[tuple[int, int, int, int]]:
    """Yield (code, type, count, position of the value slot) of one directory."""
    (number,) = layout.unpack("H", "Q", data, at)
    first, size = (at + 8, 20) if layout.big else (at + 2, 12)
    if first + number * size > len(data):
        raise ValueError(f"a directory of {number} entries at byte {at} ends behind the data")
    for entry in range(first, first + number * size, size):
        code, kind, count = layout.unpack("HHI", "HHQ", data, entry)
        yield code, kind, count, entry + (12 if layout.big else 8)


def _directory(data: bytes, at: int, layout: Layout, depth: int = 0) -> tuple[Tag, ...]:
    """Return one directory with those below it; entries that point outside are left out.

    Of entries with the same code the first is kept. Values that overlap so often that they hold
    more than the file are a ValueError: small files must not grow in memory.
    """
    tags: dict[int, Tag] = {}
    left_bytes = len(data)
    for code, kind, count, slot in _entries(data, at, layout):
        size = count * (_TYPE_BYTES[kind] if kind < len(_TYPE_BYTES) else 0)
        (place,) = layout.unpack("I", "Q", data, slot)
        start = slot if size <= (8 if layout.big else 4) else place
        if code in tags or size < 1 or start + size > len(data):
            continue
        if code not in _SUBDIRECTORIES:
            tags[code] = Tag(code, kind, count, data[start : start + size])
            left_bytes -= size
        elif depth < 2 and (below := _directory_below(data, place, layout, depth)):
            tags[code] = Tag(code, 4, 1, below)
        if left_bytes < 0:
            raise ValueError(f"the values of the directory at byte {at} overlap")
    return tuple(tags.values())


def _directory_below(data: bytes, at: int, layout: Layout, depth: int) -> tuple[Tag, ...]:
    """Return a directory below another; a broken one is empty, and costs not the one above."""
    try:
        return _directory(data, at, layout, depth + 1)
    except (ValueError, struct.error):
        return ()


def _pack_directory(tags: tuple[Tag, ...], at: int, layout: Layout) -> bytes:
    """Return the bytes of a directory that will lie at offset `at` (even), values behind it."""
    slot = 8 if layout.big else 4
    head = layout.pack("H", "Q", len(tags))
    behind_at = at + len(head) + len(tags) * (12 + 2 * (slot - 4)) + slot
    behind = b""
    for tag in sorted(tags, key=lambda tag: tag.code):
        value = tag.value
        place = behind_at + len(behind)
        if isinstance(value, tuple):
            behind += _pack_directory(value, place, layout)
            value = layout.pack("I", "Q", place)
            kind = 16 if layout.big else 4
        else:
            kind = tag.kind
            if len(value) > slot:
                behind += value + b"\0" * (len(value) % 2)
                value = layout.pack("I", "Q", place)
        head += layout.pack("HHI", "HHQ", tag.code, kind, tag.count) + value.ljust(slot, b"\0")
    return head + b"\0" * slot + behind


def of_tiff(data: bytes, at: int, layout: Layout) -> bytes | None:
    """Return as EXIF what a TIFF's directory at byte `at` tells about the picture."""
    tags = tuple(tag for tag in _directory(data, at, layout) if _tells(tag))
    if not tags:
        return None
    flat = Layout(layout.order, big=False)
    magic = b"II*\0" if flat.order == "<" else b"MM\0*"
    return magic + flat.pack("I", "I", 8) + _pack_directory(tags, 8, flat)


def _tells(tag: Tag) -> bool:
    """Tell whether to keep an entry; descriptions that hold the file's layout would lie later."""
    layouts = (b"<?xml", b"ImageJ=", b'{"shape"')
    described = tag.code == 270 and isinstance(tag.value, bytes) and tag.value.startswith(layouts)
    return tag.code in _TELLING and not described


def find_orientation(exif: bytes) -> tuple[int, int] | None:
    """Return (orientation, its position), or None without one; broken EXIF has none."""
    try:
        layout = Layout.of(exif)
        for code, kind, count, at in _entries(exif, layout.root(exif), layout):
            if (code, kind, count) == (_ORIENTATION, 3, 1):
                (turn,) = struct.unpack_from(f"{layout.order}H", exif, at)
                return turn, at
    except (ValueError, struct.error):
        pass
    return None


def reset_orientation(exif: bytes, at: int) -> bytes:
    """Return the same EXIF with the orientation at byte `at` set to 1."""
    order = Layout.of(exif).order
    return exif[:at] + struct.pack(f"{order}H", 1) + exif[at + 2 :]


def copyright_of(exif: bytes | None) -> str:
    """Return who owns the picture, as its EXIF says; "" where it says nothing, or is broken."""
    if exif is None:
        return ""
    try:
        layout = Layout.of(exif)
        tags = _directory(exif, layout.root(exif), layout)
    except (ValueError, struct.error):
        return ""
    values = [tag.value for tag in tags if tag.code == _COPYRIGHT]
    text = values[0] if values and isinstance(values[0], bytes) else b""
    # Photographer and editor are parted by a NUL.
    return "; ".join(part.strip() for part in _text(text).split("\0") if part.strip())


def _text(value: bytes) -> str:
    """Return text, of which EXIF wants ASCII, and cameras write UTF-8 or Windows's letters."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("cp1252", errors="replace")


def byte_order(exif: bytes | None) -> Literal["<", ">"]:
    """Return the byte order to write a TIFF in: that of its EXIF, whose values are not parsed."""
    return ">" if exif and exif.startswith(b"MM") else "<"


def additions(exif: bytes | None, xmp: bytes | None) -> tuple[Tag, ...]:
    """Return EXIF and XMP as TIFF entries; EXIF that is broken has none."""
    tags: tuple[Tag, ...] = ()
    if exif:
        try:
            layout = Layout.of(exif)
            found = _directory(exif, layout.root(exif), layout)
            tags = tuple(tag for tag in found if _tells(tag))
        except (ValueError, struct.error):
            tags = ()
    if xmp:
        tags += (Tag(700, 1, len(xmp), xmp),)
    return tags


def graft(tiff: bytes, added: tuple[Tag, ...]) -> bytes:
    """Return the file with entries added to its directory, which moves to the end of the file."""
    layout = Layout.of(tiff)
    codes = {tag.code for tag in added}
    kept = tuple(
        tag for tag in _directory(tiff, layout.root(tiff), layout) if tag.code not in codes
    )
    tiff += b"\0" * (-len(tiff) % 16)
    root = layout.pack("I", "Q", len(tiff))
    start = 8 if layout.big else 4
    directory = _pack_directory(kept + added, len(tiff), layout)
    return b"".join([tiff[:start], root, tiff[start + len(root) :], directory])
