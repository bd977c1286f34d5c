"""The picture formats: one table, from which everything else that knows a format is derived.

To add a format: one entry in `FORMATS`, and one file in `pipeline.pictures.codecs` with its reader
and, unless it is only read, its writer. The choices of ``--format``, the names of exported files,
which files of a folder are read, messages, and which metadata is kept follow from the entry.

Nothing here imports a codec: it is loaded when a file needs it.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pipeline.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pipeline.pictures.metadata.metadata import Metadata
    from pipeline.pictures.strips import Strips

UNBOUNDED = sys.maxsize
SEGMENT_BYTES = 65_533
"""What a segment of a JPEG file holds, with the name of its content."""


class Block(StrEnum):
    """A kind of metadata that a format may have a place for."""

    ICC = "ICC profile"
    EXIF = "EXIF"
    EXIF_TAGS = "EXIF as its own tags"
    """Instead of `EXIF`: what only makes sense in a block of its own, such as a thumbnail, has no
    place, nor has damaged EXIF."""
    XMP = "XMP"
    XMP_EXTENSION = "extended XMP"
    """A second part for XMP that is larger than the first may be."""
    CAPTIONS = "IPTC and Photoshop's resources"
    RESOLUTION = "resolution"
    COMMENTS = "comments"
    CHUNKS = "texts, colours (cICP, sRGB, gAMA, cHRM) and other chunks"
    """As those of a PNG; comments become texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What upres knows of a picture format."""

    name: str
    """What the command line and archives call it."""
    title: str
    """What people call it."""
    extensions: tuple[str, ...]
    """Of its files, in lower case; the first is what upres writes."""
    signature: re.Pattern[bytes]
    """How its files begin."""
    reader: str
    """Function in `pipeline.pictures.codecs`, as "module:name": see `read`."""
    writer: str | None
    """Function in `pipeline.pictures.codecs`, as `reader`: see `write`. None: it is only read."""
    channels: tuple[int, ...]
    """How many a file can hold: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""
    dtypes: tuple[str, ...]
    """Names of the depths that a file can hold, as `picture.WHITE` has them."""
    side_px: int
    """The most pixels on a side that the encoder takes."""
    has_grey: bool = True
    """Whether grey is stored as such: else it comes back as equal RGB."""
    loses: bool = False
    """Whether pixels come back as others than were written."""
    carries: Mapping[Block, int]
    """Metadata that has a place in a file, and the most bytes of each (of comments: of one)."""

    def read(self, data: bytes, max_pixels: int) -> tuple[NDArray[Any], Metadata]:
        """Return the pixels (c, y, x) of a file's bytes as they are stored, and its metadata.

        Raises:
            PictureError: If there is no single picture, or one of more than `max_pixels`.
            Exception: Whatever the codec raises on damaged bytes.
        """
        read = cast("Callable[[bytes, int], tuple[NDArray[Any], Metadata]]", _codec(self.reader))
        return read(data, max_pixels)

    def write(self, file: BinaryIO, pixels: Strips, metadata: Metadata, quality: int) -> None:
        """Write all of a new file, which can be read and sought; `quality` counts where it loses.

        The pixels are such as the format holds, the metadata is fitted to them (`travel.fitted`).
        """
        if self.writer is None:
            raise PictureError(f"{self.title} is only read, expected a format that is written")
        write = cast("Callable[[BinaryIO, Strips, Metadata, int], None]", _codec(self.writer))
        write(file, pixels, metadata, quality)

    def holds(self, shape: tuple[int, ...], dtype: str) -> bool:
        """Return whether a file can hold pixels of this shape (c, y, x) and depth."""
        channels, *sides = shape
        fits = channels in self.channels and dtype in self.dtypes
        return self.writer is not None and fits and max(sides) <= self.side_px

    def most(self, block: Block) -> int:
        """Return the most bytes of a kind of metadata; 0 where it has no place."""
        return self.carries.get(block, 0)


@cache
def _codec(function: str) -> object:
    return resolve_name(f"pipeline.pictures.codecs.{function}")


FORMATS: tuple[Format, ...] = (
    Format(
        name="png",
        title="PNG",
        extensions=(".png",),
        signature=re.compile(rb"\x89PNG\r\n\x1a\n"),
        reader="png:read_png",
        writer="png:write_png",
        channels=(1, 2, 3, 4),
        dtypes=("uint8", "uint16"),
        side_px=1_000_000,
        carries=dict.fromkeys(
            (Block.ICC, Block.EXIF, Block.XMP, Block.CAPTIONS, Block.RESOLUTION, Block.CHUNKS),
            UNBOUNDED,
        ),
    ),
    Format(
        name="tiff",
        title="TIFF",
        extensions=(".tif", ".tiff"),
        signature=re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
        reader="tiff:read_tiff",
        writer="tiff:write_tiff",
        channels=(1, 2, 3, 4),
        dtypes=("uint8", "uint16", "float32"),
        side_px=2**31 - 1,
        carries=dict.fromkeys(
            (Block.ICC, Block.EXIF_TAGS, Block.XMP, Block.CAPTIONS, Block.RESOLUTION), UNBOUNDED
        ),
    ),
    Format(
        name="jpeg",
        title="JPEG",
        extensions=(".jpg", ".jpeg", ".jpe", ".jfif"),
        signature=re.compile(rb"\xff\xd8\xff"),
        reader="jpeg:read_jpeg",
        writer="jpeg:write_jpeg",
        channels=(1, 3),
        dtypes=("uint8",),
        side_px=65_500,
        loses=True,
        carries={
            Block.ICC: 255 * (SEGMENT_BYTES - len("ICC_PROFILE\0--")),
            Block.EXIF: SEGMENT_BYTES - len("Exif\0\0"),
            Block.XMP: SEGMENT_BYTES - len("http://ns.adobe.com/xap/1.0/\0"),
            Block.XMP_EXTENSION: UNBOUNDED,
            Block.CAPTIONS: UNBOUNDED,
            Block.RESOLUTION: UNBOUNDED,
            Block.COMMENTS: SEGMENT_BYTES,
        },
    ),
    Format(
        name="webp",
        title="WebP",
        extensions=(".webp",),
        signature=re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
        reader="webp:read_webp",
        writer="webp:write_webp",
        channels=(1, 2, 3, 4),
        dtypes=("uint8",),
        side_px=16_383,
        has_grey=False,
        carries=dict.fromkeys((Block.ICC, Block.EXIF, Block.XMP), UNBOUNDED),
    ),
)
"""All of them, in the order in which ``--format`` offers them."""

BY_NAME: dict[str, Format] = {format.name: format for format in FORMATS}

EXTENSIONS: dict[str, str] = {end: format.name for format in FORMATS for end in format.extensions}
"""File name extension, in lower case, to format."""

SUFFIXES: dict[str, str] = {format.name: format.extensions[0] for format in FORMATS}
"""Format to the extension that upres writes."""

WRITTEN: tuple[str, ...] = tuple(format.name for format in FORMATS if format.writer)
"""The formats that upres writes, in the order in which ``--format`` offers them."""


def _either(titles: list[str]) -> str:
    return " or ".join(part for part in (", ".join(titles[:-1]), titles[-1]) if part)


READ = _either(sorted(format.title for format in FORMATS))
"""What upres reads, in words."""


def recognised(head: bytes) -> Format | None:
    """Return the format that a file's first bytes declare, whatever its name promises."""
    return next((format for format in FORMATS if format.signature.match(head)), None)


def holding(name: str, shape: tuple[int, ...], dtype: str) -> Format:
    """Return the format of a name, after checking that its files can hold (c, y, x) of a depth.

    Raises:
        PictureError: If not; the message names formats that can.
    """
    if name not in WRITTEN:
        raise PictureError(f"format is {name!r}, expected one of {', '.join(sorted(WRITTEN))}")
    if not BY_NAME[name].holds(shape, dtype):
        channels, height, width = shape
        fitting = [other.upper() for other in sorted(WRITTEN) if BY_NAME[other].holds(shape, dtype)]
        side_px = BY_NAME[name].side_px
        most = f" (at most {side_px} a side)" if max(height, width) > side_px else ""
        raise PictureError(
            f"{name.upper()} cannot hold {width} x {height} pixels of {channels} channels "
            f"{dtype}{most}; write {' or '.join(fitting) or 'smaller pictures'} instead"
        )
    return BY_NAME[name]
