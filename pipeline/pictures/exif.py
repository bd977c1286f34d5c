"""EXIF and the TIFF structure that it is: a tree of directories, kept byte for byte.

Only `struct` is needed here; decoding pictures is `pipeline.pictures.codecs`, and single values
that depend
on the pixels are changed in place by `pipeline.pictures.exif_values`.
Sources: TIFF 6.0, BigTIFF, and CIPA DC-008 (EXIF 2.32).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.pictures.metadata import in_words

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PREFIX = b"Exif\0\0"
_ORIENTATION = 274
_COPYRIGHT, _MAKER_NOTE = 33432, 37500
_SUBDIRECTORIES = (34665, 34853, 40965)  # Exif, GPS, Interoperability
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
# What of a TIFF's first directory describes the layout of the file, or is kept by other means.
_LAYOUT = frozenset({
    *range(254, 260), *range(262, 267), 273, 277, 278, 279, 282, 283, 284, *range(288, 294), 296,
    317, 320, 321, *range(322, 329), 332, 333, 334, 336, 338, 339, 342, *range(344, 348), 351,
    *range(512, 522), *range(529, 533), 559, 700, *range(32995, 33000), 33723, 34377, 34675,
    34908, 34909, 34910,
    59932, 59933,  # Padding, and the distance that a maker's notes were moved.
})  # fmt: skip
_SILENT = frozenset({
    254, *range(256, 260), 262, 266, 273, 277, 278, 279, 282, 283, 284, 292, 293, 296, 317, 320,
    *range(322, 326), 338, 339, 347, *range(512, 522), *range(529, 533), 559, 700, 33723, 34377,
    34675, 59932,
})  # fmt: skip
"""Of these, what every file says of itself, or what is kept by other means: not worth a note."""
SAMPLE_RANGE = "the range of the samples"
_UNTRUE = {
    280: f"{SAMPLE_RANGE} (MinSampleValue)",
    281: f"{SAMPLE_RANGE} (MaxSampleValue)",
    330: "the pictures in sub-directories of the TIFF",
    340: f"{SAMPLE_RANGE} (SMinSampleValue)",
    341: f"{SAMPLE_RANGE} (SMaxSampleValue)",
    343: "the clipping path of the TIFF",
    37724: "the layers of Photoshop",
    50838: "the metadata of ImageJ",
    50839: "the metadata of ImageJ",
}
"""What would be false beside other pixels, in words."""


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


def entries(data: bytes, at: int, layout: Layout) -> Iterator[tuple[int, int, int, int]]:
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
        return _directory(data, at, layout, depth + 1)
    except (ValueError, struct.error):
        return ()


def _pack_directory(tags: tuple[Tag, ...], at: int, layout: Layout) -> bytes:
    """Return the bytes of a directory that will be at offset `at` (even), values behind it."""
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


def of_tiff(data: bytes, at: int, layout: Layout) -> tuple[bytes | None, tuple[str, ...]]:
    """Return as EXIF what a TIFF's directory at byte `at` says about the picture, and notes.

    The notes name what is neither kept nor a description of the file's layout.
    """
    every = _directory(data, at, layout)
    tags = tuple(_classic(tag, layout) for tag in every if _tells(tag))
    notes = tuple(_lost(data, at, layout, every))
    return (_packed(tags, layout.order) if tags else None), notes


def _lost(data: bytes, at: int, layout: Layout, tags: tuple[Tag, ...]) -> Iterator[str]:
    """Yield notes on what of a directory, read as `tags`, does not become tags of a TIFF."""
    gone = {_UNTRUE[tag.code] for tag in tags if tag.code in _UNTRUE}
    if any(_describes_layout(tag) for tag in tags):
        gone.add("a description of the TIFF's own layout")
    yield from (f"{what}: not kept" for what in sorted(gone))
    codes = {code for code, *_ in entries(data, at, layout)}
    if stored := sorted(codes & _LAYOUT - _SILENT):
        yield f"tags {_listed(stored)} describe how the file was stored, and were not kept"
    if unread := sorted(codes - {tag.code for tag in tags} - _LAYOUT - _UNTRUE.keys()):
        yield f"tags {_listed(unread)} cannot be read, and were not kept"
    if any(tag.code == _MAKER_NOTE for tag in _leaves(tags)):
        yield MOVED


def _listed(codes: list[int]) -> str:
    return ", ".join(map(str, codes[:50]))


MOVED = "the notes of the camera's maker were moved, and positions in them may be wrong"


def lost_in_tiff(exif: bytes) -> tuple[str, ...]:
    """Return notes on what of EXIF does not become tags of a TIFF as it is."""
    try:
        layout = Layout.of(exif)
        root = layout.root(exif)
        return tuple(_lost(exif, root, layout, _directory(exif, root, layout)))
    except (ValueError, struct.error):
        return ()


def _packed(tags: tuple[Tag, ...], order: Literal["<", ">"]) -> bytes:
    """Return a classic structure of one directory and those below it."""
    flat = Layout(order, big=False)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + flat.pack("I", "I", 8) + _pack_directory(tags, 8, flat)


def _classic(tag: Tag, layout: Layout) -> Tag:
    """Return an entry without the 64-bit integers that only BigTIFF has."""
    value = tag.value
    if isinstance(value, tuple):
        return Tag(tag.code, tag.kind, tag.count, tuple(_classic(inner, layout) for inner in value))
    if tag.kind not in (16, 17, 18):
        return tag
    wide, narrow = ("q", "i") if tag.kind == 17 else ("Q", "I")
    numbers = struct.unpack(f"{layout.order}{tag.count}{wide}", value)
    most = 2**31 if tag.kind == 17 else 2**32
    if any(not -most <= number < most for number in numbers):
        return Tag(tag.code, 7, len(value), value)
    packed = struct.pack(f"{layout.order}{tag.count}{narrow}", *numbers)
    return Tag(tag.code, 9 if tag.kind == 17 else 4, tag.count, packed)


def _describes_layout(tag: Tag) -> bool:
    """Return whether an entry is a description that holds the file's layout."""
    layouts = (b"<?xml", b"ImageJ=", b'{"shape"')
    return tag.code == 270 and isinstance(tag.value, bytes) and tag.value.startswith(layouts)


def _tells(tag: Tag) -> bool:
    """Return whether an entry says something about the picture instead of the file's layout."""
    return tag.code not in _LAYOUT and tag.code not in _UNTRUE and not _describes_layout(tag)


def shrunk(exif: bytes, most_bytes: int) -> tuple[bytes | None, tuple[str, ...]]:
    """Return EXIF of at most that many bytes, and a note on the largest values, which went.

    EXIF that is small enough keeps its very bytes; one that is broken goes whole.
    """
    if len(exif) <= most_bytes:
        return exif, ()
    try:
        layout = Layout.of(exif)
        tags = tuple(_classic(t, layout) for t in _directory(exif, layout.root(exif), layout))
    except (ValueError, struct.error):
        return None, (f"damaged EXIF of {in_words(len(exif))} is too large, and was not kept",)
    gone: list[Tag] = []
    while (excess := len(packed := _packed(tags, layout.order)) - most_bytes) > 0:
        first = len(gone)
        for tag in sorted(_leaves(tags), key=_size, reverse=True):
            gone.append(tag)
            excess -= _size(tag) + 12
            if excess <= 0:
                break
        tags = tuple(_without(tags, {id(tag) for tag in gone[first:]}))
    if not gone:
        return packed, ()
    size = in_words(sum(map(_size, gone)))
    listed = _listed([tag.code for tag in gone])
    return packed, (f"EXIF tags {listed} ({size}) are too large, and were not kept",)


def _leaves(tags: tuple[Tag, ...]) -> Iterator[Tag]:
    for tag in tags:
        if isinstance(tag.value, tuple):
            yield from _leaves(tag.value)
        else:
            yield tag


def _size(tag: Tag) -> int:
    return len(tag.value)


def _without(tags: tuple[Tag, ...], gone: set[int]) -> Iterator[Tag]:
    for tag in tags:
        if isinstance(tag.value, tuple):
            yield Tag(tag.code, tag.kind, tag.count, tuple(_without(tag.value, gone)))
        elif id(tag) not in gone:
            yield tag


def find_orientation(exif: bytes) -> tuple[int, int] | None:
    """Return (orientation, its position), or None without one; broken EXIF has none."""
    try:
        layout = Layout.of(exif)
        for code, kind, count, at in entries(exif, layout.root(exif), layout):
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


def without(exif: bytes, codes: Collection[int]) -> bytes:
    """Return EXIF without some entries of its first directory; broken EXIF stays as it is."""
    try:
        layout = Layout.of(exif)
        tags = _directory(exif, layout.root(exif), layout)
    except (ValueError, struct.error):
        return exif
    kept = tuple(_classic(tag, layout) for tag in tags if tag.code not in codes)
    return _packed(kept, layout.order)


def is_sound(exif: bytes) -> bool:
    """Return whether EXIF has a first directory that can be read."""
    try:
        layout = Layout.of(exif)
        _directory(exif, layout.root(exif), layout)
    except (ValueError, struct.error):
        return False
    return True


def additions(
    exif: bytes | None,
    xmp: bytes | None,
    *,
    iptc: bytes | None = None,
    photoshop: bytes | None = None,
) -> tuple[Tag, ...]:
    """Return EXIF, XMP, IPTC and Photoshop's resources as TIFF entries; broken EXIF has none."""
    tags: tuple[Tag, ...] = ()
    if exif:
        try:
            layout = Layout.of(exif)
            found = _directory(exif, layout.root(exif), layout)
            tags = tuple(_classic(tag, layout) for tag in found if _tells(tag))
        except (ValueError, struct.error):
            tags = ()
    if xmp:
        tags += (Tag(700, 1, len(xmp), xmp),)
    if iptc:
        tags += (Tag(33723, 7, len(iptc), iptc),)
    if photoshop:
        tags += (Tag(34377, 1, len(photoshop), photoshop),)
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
