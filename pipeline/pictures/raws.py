"""Camera raws: told apart from ordinary TIFFs by content, and refused by the name of their kind.

Most raws are TIFFs whose first directory is a small preview, or sensor data that no reader of
pictures can show. An ordinary TIFF (scans, maps, pyramids, previews after the picture) is never
one: what counts is what only cameras and converters of raws write.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.pictures.metadata.tiff_tree import Layout, entries, extent

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGICS: dict[bytes, str] = {
    b"IIRO": "Olympus ORF",
    b"IIRS": "Olympus ORF",
    b"MMOR": "Olympus ORF",
    b"IIU\0": "Panasonic RW2",
    b"FUJIFILMCCD-RAW": "Fujifilm RAF",
    b"FOVb": "Sigma X3F",
    b"\0MRM": "Minolta MRW",
    b"II\x1a\0\0\0HEAPCCDR": "Canon CRW",
    b"ARRI": "ARRI raw",
}
_EXTENSIONS = {
    ".3fr": "Hasselblad 3FR",
    ".arw": "Sony ARW",
    ".cr2": "Canon CR2",
    ".dcr": "Kodak DCR",
    ".dng": "DNG",
    ".erf": "Epson ERF",
    ".fff": "Hasselblad FFF",
    ".gpr": "GoPro GPR",
    ".iiq": "Phase One IIQ",
    ".k25": "Kodak K25",
    ".kdc": "Kodak KDC",
    ".mef": "Mamiya MEF",
    ".mos": "Leaf MOS",
    ".nef": "Nikon NEF",
    ".nrw": "Nikon NRW",
    ".orf": "Olympus ORF",
    ".pef": "Pentax PEF",
    ".rw2": "Panasonic RW2",
    ".rwl": "Leica RWL",
    ".sr2": "Sony SR2",
    ".srf": "Sony SRF",
    ".srw": "Samsung SRW",
}
_MAKERS = {
    "nikon": "Nikon NEF",
    "sony": "Sony ARW",
    "pentax": "Pentax PEF",
    "ricoh": "Pentax PEF",
    "samsung": "Samsung SRW",
    "hasselblad": "Hasselblad 3FR",
    "phase one": "Phase One IIQ",
    "leaf": "Leaf MOS",
    "mamiya": "Mamiya MEF",
    "eastman kodak": "Kodak DCR",
    "kodak": "Kodak DCR",
    "seiko epson": "Epson ERF",
    "canon": "Canon raw",
    "olympus": "Olympus ORF",
    "panasonic": "Panasonic RW2",
    "leica": "Leica RWL",
}
_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _MAKE, _SUB_IFDS, _DNG_VERSION = (
    254,
    259,
    262,
    271,
    330,
    50706,
)
_SENSOR_COLOURS = (32803, 34892)  # Colour filter array, linear raw
# Of Nikon, Sony, Samsung (two), Kodak (two) and Pentax; of no picture.
_SENSOR_COMPRESSIONS = (34713, 32767, 32769, 32770, 65000, 32867, 65535)
_MOST_DIRECTORIES = 1000
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


@dataclass(frozen=True, slots=True)
class _Directory:
    """What identifies a raw: the tags of one TIFF directory."""

    subfile: int
    compression: int
    photometric: int
    make: str
    is_dng: bool
    below: tuple[int, ...]

    @property
    def holds_sensor_data(self) -> bool:
        return self.photometric in _SENSOR_COLOURS or self.compression in _SENSOR_COMPRESSIONS


def raw_magic(data: bytes) -> str | None:
    """Return the kind of a raw that is not a TIFF by its first bytes, None for anything else."""
    for magic, kind in _MAGICS.items():
        if data.startswith(magic):
            return kind
    return "Canon CR3" if data[4:12] == b"ftypcrx " else None


def raw_tiff(data: bytes, *, name: str) -> str | None:
    """Return the kind of raw that a TIFF's bytes are, None for an ordinary TIFF.

    A file that cannot be followed is None too: what is wrong with it is its reader's to say.
    """
    # With more than the mark alone, as TIFFs may hold pixels at byte 8.
    if data[:16].startswith((b"II*\0\x10\0\0\0CR", b"MM\0*\0\0\0\x10CR")):
        return "Canon CR2"
    if data[8:12] + data[13:16] == b"IIIIwaR" or data[8:15] == b"MMMMRaw":
        return "Phase One IIQ"
    main, below = _directories(data)
    if not main:
        return None
    first = main[0]
    named = _EXTENSIONS.get(PurePosixPath(name).suffix.lower())
    if any(directory.is_dng for directory in main):
        return named or "DNG"
    if any(directory.holds_sensor_data for directory in (*main, *below)):
        return named or _by_maker(first.make) or "sensor data"
    if first.subfile & 1 and any(not directory.subfile & 1 for directory in below):
        return named or _by_maker(first.make) or "of an unknown maker"
    return named if named and first.make else None


def _by_maker(make: str) -> str | None:
    lower = make.lower()
    return next((kind for start, kind in _MAKERS.items() if lower.startswith(start)), None)


def _directories(data: bytes) -> tuple[list[_Directory], list[_Directory]]:
    """Return the directories of the main chain, and those below them, as far as they go."""
    try:
        layout = Layout.of(data)
        root = layout.root(data)
    except (ValueError, struct.error):
        return [], []
    seen: set[int] = set()
    main = list(_chain(data, root, layout, seen))
    below: list[_Directory] = []
    waiting = [at for directory in main for at in directory.below]
    while waiting and len(seen) < _MOST_DIRECTORIES:
        found = list(_chain(data, waiting.pop(0), layout, seen))
        below += found
        waiting += [at for directory in found for at in directory.below]
    return main, below


def _chain(data: bytes, at: int, layout: Layout, seen: set[int]) -> Iterator[_Directory]:
    """Yield one directory after the other, until the chain ends, loops or leaves the file."""
    while at and at not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(at)
        try:
            directory, at = _directory(data, at, layout)
        except (ValueError, struct.error):
            return
        yield directory


def _directory(data: bytes, at: int, layout: Layout) -> tuple[_Directory, int]:
    """Return the directory at a byte, and where the next one is."""
    tags: dict[int, tuple[int, ...] | bytes] = {}
    for code, kind, count, slot in entries(data, at, layout):
        if code in (_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _MAKE, _SUB_IFDS, _DNG_VERSION):
            tags.setdefault(code, _value(data, kind, count, slot, layout))
    make = tags.get(_MAKE, b"")
    (following,) = layout.unpack("I", "Q", data, extent(data, at, layout).stop)
    directory = _Directory(
        subfile=_number(tags.get(_SUBFILE)),
        compression=_number(tags.get(_COMPRESSION)),
        photometric=_number(tags.get(_PHOTOMETRIC), -1),
        make=make.decode("latin1").strip("\0 ") if isinstance(make, bytes) else "",
        is_dng=_DNG_VERSION in tags,
        below=tuple(map(int, tags.get(_SUB_IFDS, ()))),
    )
    return directory, following


def _number(values: tuple[int, ...] | bytes | None, missing: int = 0) -> int:
    return int(values[0]) if values else missing


def _value(
    data: bytes, kind: int, count: int, slot: int, layout: Layout
) -> tuple[int, ...] | bytes:
    """Return the numbers or the text of one entry; nothing where it is of another type."""
    size = count * _TYPE_BYTES.get(kind, 0)
    start = slot if size <= (8 if layout.big else 4) else layout.unpack("I", "Q", data, slot)[0]
    if not 0 < size <= len(data) or start + size > len(data):
        return ()
    if kind == 2:
        return data[start : start + size]
    return struct.unpack_from(f"{layout.order}{count}{_CODES[kind]}", data, start)
