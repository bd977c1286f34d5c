"""What EXIF says of a picture, and what of it goes where: into a TIFF, out of one, or nowhere.

Its structure is that of a TIFF (`tiff_tree`); decoding pictures is `pipeline.pictures.codecs`, and
single values that depend on the pixels are changed in place by `exif_values`.
Source: CIPA DC-008 (EXIF 2.32).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

from pipeline.pictures.metadata.metadata import in_words
from pipeline.pictures.metadata.tiff_tree import (
    Layout,
    Tag,
    classic,
    entries,
    leaves,
    pack_directory,
    packed_tree,
    pruned,
    read_tree,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PREFIX = b"Exif\0\0"
_ORIENTATION = 274
_COPYRIGHT, _MAKER_NOTE = 33432, 37500
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


def of_tiff(data: bytes, at: int, layout: Layout) -> tuple[bytes | None, tuple[str, ...]]:
    """Return as EXIF what a TIFF's directory at byte `at` says about the picture, and notes.

    The notes name what is neither kept nor a description of the file's layout.
    """
    every = read_tree(data, at, layout)
    tags = tuple(classic(tag, layout) for tag in every if _tells(tag))
    notes = tuple(_lost(data, at, layout, every))
    return (packed_tree(tags, layout.order) if tags else None), notes


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
    if any(tag.code == _MAKER_NOTE for tag in leaves(tags)):
        yield MOVED


def _listed(codes: list[int]) -> str:
    return ", ".join(map(str, codes[:50]))


MOVED = "the notes of the camera's maker were moved, and positions in them may be wrong"


def lost_in_tiff(exif: bytes) -> tuple[str, ...]:
    """Return notes on what of EXIF does not become tags of a TIFF as it is."""
    try:
        layout = Layout.of(exif)
        root = layout.root(exif)
        return tuple(_lost(exif, root, layout, read_tree(exif, root, layout)))
    except (ValueError, struct.error):
        return ()


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
        tags = tuple(classic(t, layout) for t in read_tree(exif, layout.root(exif), layout))
    except (ValueError, struct.error):
        return None, (f"damaged EXIF of {in_words(len(exif))} is too large, and was not kept",)
    gone: list[Tag] = []
    while (excess := len(packed := packed_tree(tags, layout.order)) - most_bytes) > 0:
        first = len(gone)
        for tag in sorted(leaves(tags), key=_size, reverse=True):
            gone.append(tag)
            excess -= _size(tag) + 12
            if excess <= 0:
                break
        tags = tuple(pruned(tags, {id(tag) for tag in gone[first:]}))
    if not gone:
        return packed, ()
    size = in_words(sum(map(_size, gone)))
    listed = _listed([tag.code for tag in gone])
    return packed, (f"EXIF tags {listed} ({size}) are too large, and were not kept",)


def _size(tag: Tag) -> int:
    return len(tag.value)


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
        tags = read_tree(exif, layout.root(exif), layout)
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
        tags = read_tree(exif, layout.root(exif), layout)
    except (ValueError, struct.error):
        return exif
    kept = tuple(classic(tag, layout) for tag in tags if tag.code not in codes)
    return packed_tree(kept, layout.order)


def is_sound(exif: bytes) -> bool:
    """Return whether EXIF has a first directory that can be read."""
    try:
        layout = Layout.of(exif)
        read_tree(exif, layout.root(exif), layout)
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
            found = read_tree(exif, layout.root(exif), layout)
            tags = tuple(classic(tag, layout) for tag in found if _tells(tag))
        except (ValueError, struct.error):
            tags = ()
    if xmp:
        tags += (Tag(700, 1, len(xmp), xmp),)
    if iptc:
        tags += (Tag(33723, 7, len(iptc), iptc),)
    if photoshop:
        tags += (Tag(34377, 1, len(photoshop), photoshop),)
    return tags


def grafted(head: bytes, added: tuple[Tag, ...], *, size: int) -> tuple[bytes, bytes]:
    """Return what begins a TIFF of `size` bytes and what follows it, to add entries to it.

    Its directory moves to the end of the file. `head` is all that comes before its pixels, among
    which the directory is now.
    """
    layout = Layout.of(head)
    codes = {tag.code for tag in added}
    kept = tuple(tag for tag in read_tree(head, layout.root(head), layout) if tag.code not in codes)
    padding = b"\0" * (-size % 16)
    at = size + len(padding)
    first = head[: 8 if layout.big else 4] + layout.pack("I", "Q", at)
    return first, padding + pack_directory(kept + added, at, layout)
