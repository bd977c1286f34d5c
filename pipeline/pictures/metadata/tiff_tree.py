"""The structure of a TIFF, which EXIF is too: a tree of directories, kept byte for byte.

Only `struct` is needed here. What the entries mean is for others to say: `exif` of a picture, and
`raws` of a camera's own format. Sources: TIFF 6.0 and BigTIFF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUBDIRECTORIES = (34665, 34853, 40965)  # Exif, GPS, Interoperability
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)


@dataclass(frozen=True, slots=True)
class Layout:
    """How numbers are stored in a TIFF structure: byte order "<" or ">", classic or BigTIFF."""

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
        """Return the numbers at byte `at`, by the same codes; ValueError far beyond the end."""
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


def extent(data: bytes, at: int, layout: Layout) -> range:
    """Return where the entries of one directory begin; where they stop, that of the next follows.

    Raises:
        ValueError: if they are not all within the data.
    """
    (number,) = layout.unpack("H", "Q", data, at)
    first, size = (at + 8, 20) if layout.big else (at + 2, 12)
    if first + number * size > len(data):
        raise ValueError(
            f"a directory of {number} entries at byte {at} reaches beyond the end of the data"
        )
    return range(first, first + number * size, size)


def entries(data: bytes, at: int, layout: Layout) -> Iterator[tuple[int, int, int, int]]:
    """Yield (code, type, count, position of the value slot) of one directory."""
    for entry in extent(data, at, layout):
        code, kind, count = layout.unpack("HHI", "HHQ", data, entry)
        yield code, kind, count, entry + (12 if layout.big else 8)


def read_tree(data: bytes, at: int, layout: Layout, depth: int = 0) -> tuple[Tag, ...]:
    """Return one directory with those below it; entries that point outside are left out.

    Of entries with the same code the first is kept. Values that overlap so often that they hold
    more than the file are a ValueError: small files must not grow in memory.
    """
    tags: dict[int, Tag] = {}
    left_bytes = len(data)
    for code, kind, count, slot in entries(data, at, layout):
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
        return read_tree(data, at, layout, depth + 1)
    except (ValueError, struct.error):
        return ()


def pack_directory(tags: tuple[Tag, ...], at: int, layout: Layout) -> bytes:
    """Return the bytes of a directory that will be at offset `at` (even), its values after it."""
    slot = 8 if layout.big else 4
    head = layout.pack("H", "Q", len(tags))
    behind_at = at + len(head) + len(tags) * (12 + 2 * (slot - 4)) + slot
    behind = b""
    for tag in sorted(tags, key=lambda tag: tag.code):
        value = tag.value
        place = behind_at + len(behind)
        if isinstance(value, tuple):
            behind += pack_directory(value, place, layout)
            value = layout.pack("I", "Q", place)
            kind = 16 if layout.big else 4
        else:
            kind = tag.kind
            if len(value) > slot:
                behind += value + b"\0" * (len(value) % 2)
                value = layout.pack("I", "Q", place)
        head += layout.pack("HHI", "HHQ", tag.code, kind, tag.count) + value.ljust(slot, b"\0")
    return head + b"\0" * slot + behind


def packed_tree(tags: tuple[Tag, ...], order: Literal["<", ">"]) -> bytes:
    """Return a classic structure of one directory and those below it."""
    flat = Layout(order, big=False)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + flat.pack("I", "I", 8) + pack_directory(tags, 8, flat)


def classic(tag: Tag, layout: Layout) -> Tag:
    """Return an entry without the 64-bit integers that only BigTIFF has."""
    value = tag.value
    if isinstance(value, tuple):
        return Tag(tag.code, tag.kind, tag.count, tuple(classic(inner, layout) for inner in value))
    if tag.kind not in (16, 17, 18):
        return tag
    wide, narrow = ("q", "i") if tag.kind == 17 else ("Q", "I")
    numbers = struct.unpack(f"{layout.order}{tag.count}{wide}", value)
    most = 2**31 if tag.kind == 17 else 2**32
    if any(not -most <= number < most for number in numbers):
        return Tag(tag.code, 7, len(value), value)
    packed = struct.pack(f"{layout.order}{tag.count}{narrow}", *numbers)
    return Tag(tag.code, 9 if tag.kind == 17 else 4, tag.count, packed)


def leaves(tags: tuple[Tag, ...]) -> Iterator[Tag]:
    """Yield the entries that hold a value, of these directories and of those below."""
    for tag in tags:
        if isinstance(tag.value, tuple):
            yield from leaves(tag.value)
        else:
            yield tag


def pruned(tags: tuple[Tag, ...], gone: set[int]) -> Iterator[Tag]:
    """Yield the entries but for those whose `id` is in `gone`, wherever in the tree these are."""
    for tag in tags:
        if isinstance(tag.value, tuple):
            yield Tag(tag.code, tag.kind, tag.count, tuple(pruned(tag.value, gone)))
        elif id(tag) not in gone:
            yield tag
