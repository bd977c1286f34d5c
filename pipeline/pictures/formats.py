"""Picture files and their pixels: the one home of Pillow, tifffile and imagecodecs.

What belongs here: bytes of a JPEG, PNG, TIFF or WebP file to a `Picture` and back, with the
metadata that travels along. Not: where the bytes come from (`sources`), nor archives.

Reading never guesses and never repairs: a file that is damaged, of another kind, or larger than the
bound is a `PictureError`. JPEG and lossy WebP hold no checksum, so damage inside their compressed
data is noticed only where it breaks the stream, or the structure of a JPEG (`jpeg_stream`).
"""

from __future__ import annotations

import io
import logging
import math
import re
import struct
import threading
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms, JpegImagePlugin

from pipeline.errors import PictureError, in_one_line
from pipeline.pictures import jpeg_segments, photoshop, png_chunks, travel
from pipeline.pictures.exif import PREFIX as EXIF_PREFIX
from pipeline.pictures.exif import (
    SAMPLE_RANGE,
    Layout,
    additions,
    byte_order,
    find_orientation,
    graft,
    reset_orientation,
)
from pipeline.pictures.exif import of_tiff as exif_of_tiff
from pipeline.pictures.float_range import declared_range, from_unit, to_unit
from pipeline.pictures.interlace import decode_interlaced
from pipeline.pictures.jpeg_stream import check_whole, read_frame
from pipeline.pictures.kinds import called
from pipeline.pictures.metadata import Metadata as Metadata
from pipeline.pictures.metadata import in_words, plain
from pipeline.pictures.raws import raw_magic, raw_tiff
from pipeline.pictures.signatures import HEAD_BYTES, READ, described
from pipeline.storage.access import EVERYONE
from pipeline.storage.atomic import replace_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

# tifffile logs what it tolerates; what upres does not tolerate is raised here instead.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

MAX_PIXELS = 1_000_000_000
"""Rows times columns that a file may declare; above it is taken for a decompression bomb."""

EXTENSIONS: dict[str, str] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".webp": "webp",
}
"""File name extension, in lower case, to format."""

SUFFIXES: dict[str, str] = {"jpeg": ".jpg", "png": ".png", "tiff": ".tif", "webp": ".webp"}
"""Format to the extension that upres writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Pixels (c, y, x) of dtype uint8, uint16 or float32, and the metadata of their file.

    c is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for RGB and alpha; alpha is never
    premultiplied. float32 is finite, with 0..1 as its range.
    """

    pixels: NDArray[Any]
    metadata: Metadata

    def __post_init__(self) -> None:
        """Refuse pixels that no file could have held."""
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or not 1 <= shape[0] <= 4 or 0 in shape:
            raise PictureError(f"pixels have shape {shape}, wanted (c, y, x) with c from 1 to 4")
        if dtype not in (np.uint8, np.uint16, np.float32):
            raise PictureError(f"pixels are {dtype}, wanted uint8, uint16 or float32")


# Reading


def read_picture(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Return the one picture in a file's bytes, as `decode_picture`, C-contiguous and writable."""
    picture = decode_picture(data, name=name, max_pixels=max_pixels)
    return replace(picture, pixels=np.require(picture.pixels, requirements=["C", "W"]))


def decode_picture(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Return the one picture in a file's bytes, upright, at the file's own depth.

    The pixels may be a view in any order of memory, which spares a large picture its second copy.
    `name` is the file's name, which stands in every error; the bytes decide the format. Size is
    checked before anything is decoded. CMYK, several frames and every other kind that is not
    listed at `Picture` are refused.

    Raises:
        PictureError: In one line, whatever the bytes are.
    """
    name = in_one_line(name)
    format = _sniff(data, name=name)
    if format == "tiff" and (kind := raw_tiff(data, name=name)):
        raise PictureError(
            f"{name}: is a camera raw ({kind}), of which only a small preview could be read, "
            f"wanted {READ}; develop it first, for instance to 16-bit TIFF"
        )
    try:
        pixels, metadata = _READERS[format](data, max_pixels)
        metadata = replace(metadata, notes=plain(metadata.notes))
        return _upright(Picture(pixels=pixels, metadata=metadata))
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except Exception as error:  # Decoders raise anything on damaged bytes, MemoryError included.
        words = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, UnicodeDecodeError):  # Of a decoder that fails to say what is wrong.
            words = "its decoder refuses it"
        raise PictureError(
            f"{name}: damaged or truncated {format.upper()} of {len(data)} bytes ({words}), "
            f"wanted a whole file; restore it from its origin"
        ) from error


def _sniff(data: bytes, *, name: str) -> str:
    """Return the format that the bytes declare, whatever the name promises."""
    format = _signature(data)
    if format is None:
        words = described(data[:HEAD_BYTES], called=called(name))
        step = "develop it first, for instance to 16-bit TIFF" if raw_magic(data) else "convert it"
        raise PictureError(f"{name}: {words}, wanted {READ}; {step}")
    return format


def _signature(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_PNG_SIGNATURE):
        return "png"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise PictureError(f"declares {width} x {height} pixels, wanted at least 1 x 1")
    if width * height > max_pixels:
        raise PictureError(
            f"declares {width} x {height} pixels, wanted at most {max_pixels} in all; "
            f"cut the picture, or raise the bound if the file is trusted"
        )


def _channels_first(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (y, x) or (y, x, c) as (c, y, x)."""
    return np.moveaxis(np.atleast_3d(pixels), 2, 0)


def _mode(channels: int, dtype: np.dtype[Any]) -> str:
    if channels == 1:
        return {"uint8": "L", "uint16": "I;16", "float32": "F"}[dtype.name]
    base = ("LA", "RGB", "RGBA")[channels - 2]
    return base + {"uint8": "", "uint16": ";16", "float32": ";32F"}[dtype.name]


def _dpi(pair: Any) -> tuple[float, float] | None:
    """Return two usable numbers, or None: resolution is often 0, infinite or nonsense."""
    try:
        x, y = (float(value) for value in pair)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (x, y) if all(math.isfinite(v) and v > 0 for v in (x, y)) else None


def _filled(value: Any) -> bytes | None:
    return bytes(value) if isinstance(value, (bytes, bytearray)) and value else None


# Reading: JPEG


def _read_jpeg(data: bytes, max_pixels: int) -> tuple[NDArray[Any], Metadata]:
    """Read the first picture; a phone's previews and gain maps behind it are not frames."""
    read_frame(data)
    with _open_jpeg(data) as image:
        _check_size(*image.size, max_pixels)
        if image.mode not in ("L", "RGB"):
            raise PictureError(f"colours are {image.mode}, wanted grey or RGB; convert to RGB")
        try:
            samples = np.asarray(image)
        except OSError:
            check_whole(data, None, decode=_jpeg_samples)  # Tells what is missing, if it sees it.
            raise
        check_whole(data, samples, decode=_jpeg_samples)
        pixels = _channels_first(samples)
        info = image.info
    exif = _filled(info.get("exif"))
    extras = jpeg_segments.extras(data)
    metadata = Metadata(
        format="jpeg",
        mode=image.mode,
        icc=_filled(info.get("icc_profile")),
        exif=_filled(exif.removeprefix(EXIF_PREFIX)) if exif else None,
        xmp=_filled(info.get("xmp")),
        dpi=_dpi(info.get("dpi")),
        xmp_extended=extras.xmp_extended,
        iptc=extras.iptc,
        photoshop=extras.photoshop,
        comments=extras.comments,
        notes=extras.notes,
    )
    return pixels, metadata


def _open_jpeg(data: bytes) -> JpegImagePlugin.JpegImageFile:
    # The class instead of Image.open: that applies Pillow's own, process-wide bomb bound.
    with _silent():
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))


def _jpeg_samples(data: bytes) -> NDArray[Any]:
    with _open_jpeg(data) as image:
        return np.asarray(image)


_SILENCE = threading.Lock()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Pillow's warnings on odd EXIF inside; the lock as warning filters are process-wide."""
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) from the frame header of a JPEG stream."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    raise PictureError("a JPEG stream has no frame header, wanted one; the file is damaged")


# Reading: PNG

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_PNG_PALETTE = 3
_PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_XMP = b"XML:com.adobe.xmp\0"
_MAX_METADATA_BYTES = 64 << 20


def _read_png(data: bytes, max_pixels: int) -> tuple[NDArray[Any], Metadata]:
    """Read by libpng at full depth: Pillow cuts 16-bit RGB to 8 bits, and fills missing rows."""
    chunks, bare = _png_chunks(data)
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    _check_size(width, height, max_pixels)
    if b"IDAT" not in chunks:
        raise PictureError("holds no pixels (no IDAT chunk), wanted some; the file is damaged")
    if b"acTL" in chunks and (frames := int.from_bytes(chunks[b"acTL"][:4], "big")) > 1:
        raise PictureError(f"holds {frames} frames, wanted one; export the frames as files")
    pixels = _channels_first(_png_samples(chunks, bare))
    if pixels.shape[1:] != (height, width):
        raise PictureError(f"decodes to {pixels.shape}, wanted {height} rows {width} columns")
    mode = _PNG_MODES[colour]
    if depth == 16:
        mode = "I;16" if colour == 0 else f"{mode};16"
    extras, icc = png_chunks.extras(data), _png_icc(chunks.get(b"iCCP"))
    lost = (
        ("the colour profile is damaged and was not kept",) if b"iCCP" in chunks and not icc else ()
    )
    metadata = Metadata(
        format="png",
        mode="1" if (depth, colour) == (1, 0) else mode,
        icc=icc,
        exif=_filled(chunks.get(b"eXIf", b"").removeprefix(EXIF_PREFIX)) or extras.exif,
        xmp=extras.xmp,
        dpi=_png_dpi(chunks.get(b"pHYs")),
        iptc=extras.iptc,
        photoshop=extras.photoshop,
        chunks=extras.chunks,
        notes=(*extras.notes, *lost),
    )
    return pixels, metadata


def _png_samples(chunks: dict[bytes, bytes], bare: bytes) -> NDArray[Any]:
    header = chunks[b"IHDR"]
    palette = {kind: body for kind, body in chunks.items() if kind in (b"PLTE", b"tRNS")}
    entries = len(palette.get(b"PLTE", b"")) // 3
    # Without any, libpng refuses the file by itself.
    if header[9] == _PNG_PALETTE and 0 < entries < 1 << header[8]:
        _check_indices(header, bare, entries=entries)
    return _png_decode(header, bare, palette)


def _png_decode(header: bytes, bare: bytes, palette: Mapping[bytes, bytes]) -> NDArray[Any]:
    if header[12] != 1:
        return imagecodecs.png_decode(bare)
    return decode_interlaced(
        header, _png_data(bare), palette=palette, decode=imagecodecs.png_decode
    )


def _check_indices(header: bytes, bare: bytes, *, entries: int) -> None:
    """Refuse pixels that point behind the palette, for which libpng makes up a black."""
    depth = header[8]
    grey = header[:9] + b"\0" + header[10:]
    chunks = ((b"IHDR", grey), (b"IDAT", _png_data(bare)), (b"IEND", b""))
    plain = _PNG_SIGNATURE + b"".join(_png_chunk(*chunk) for chunk in chunks)
    # As greys, indices come stretched to the range of a byte.
    highest = int(_png_decode(grey, plain, {}).max()) // (255 // ((1 << depth) - 1))
    if highest >= entries:
        raise PictureError(
            f"pixels name colour {highest} of a palette of {entries}, counted from 0; the file is "
            "damaged: save it again from its original"
        )


def _png_key(body: bytes, depth: int) -> bytes:
    """Return a transparent colour within the depth: libpng takes it so, but complains on stderr."""
    values = struct.unpack(f">{len(body) // 2}H", body[: len(body) // 2 * 2])
    return struct.pack(f">{len(values)}H", *(value & ((1 << depth) - 1) for value in values))


def _png_data(bare: bytes) -> bytes:
    """Return the bodies of all IDAT chunks together."""
    bodies, at = [], len(_PNG_SIGNATURE)
    while at < len(bare):
        size, kind = struct.unpack_from(">I4s", bare, at)
        if kind == b"IDAT":
            bodies.append(bare[at + 8 : at + 8 + size])
        at += 12 + size
    return b"".join(bodies)


def _png_chunks(data: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Return (chunks by type, IDAT left empty; the file with nothing but its pixels).

    Every checksum is verified, up to IEND.
    """
    chunks: dict[bytes, bytes] = {}
    # libpng prints complaints about other chunks, such as odd colour profiles, on stderr.
    bare = [_PNG_SIGNATURE]
    at = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise PictureError(f"ends at byte {len(data)} without IEND; the file is truncated")
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            raise PictureError(
                f"chunk {kind!r} at byte {at} ends behind the file of {len(data)} bytes; it is "
                f"truncated"
            )
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != checksum:
            raise PictureError(
                f"chunk {kind!r} at byte {at} fails its checksum; the file is damaged"
            )
        if kind == b"CgBI":
            raise PictureError(
                "is a PNG of Apple's own kind (CgBI); convert it with Xcode's pngcrush"
            )
        if kind[:1].isupper() and kind not in _PNG_CRITICAL:
            raise PictureError(f"holds the unknown critical chunk {kind!r}; save it as a plain PNG")
        if not chunks and kind != b"IHDR":
            raise PictureError(f"the first chunk is {kind!r}, wanted IHDR; the file is damaged")
        body = data[at + 8 : end] if kind != b"IDAT" else b""
        chunks.setdefault(kind, body)
        if kind == b"tRNS" and chunks[b"IHDR"][9] in (0, 2):
            bare.append(_png_chunk(kind, _png_key(body, chunks[b"IHDR"][8])))
        elif kind[:1].isupper() or kind == b"tRNS":
            bare.append(data[at : end + 4])
        at = end + 4
    return chunks, b"".join(bare)


def _png_icc(chunk: bytes | None) -> bytes | None:
    return _inflate(chunk[chunk.index(b"\0") + 2 :]) if chunk and b"\0" in chunk else None


def _inflate(packed: bytes) -> bytes | None:
    """Return what zlib data holds; None where it is broken, as metadata never costs a picture."""
    try:
        return _filled(zlib.decompressobj().decompress(packed, _MAX_METADATA_BYTES))
    except zlib.error:
        return None


def _png_dpi(chunk: bytes | None) -> tuple[float, float] | None:
    if chunk is None or len(chunk) != 9:
        return None
    x, y, unit = struct.unpack(">IIB", chunk)
    return _dpi((x * 0.0254, y * 0.0254)) if unit == 1 else None


# Reading: WebP


def _read_webp(data: bytes, max_pixels: int) -> tuple[NDArray[Any], Metadata]:
    chunks = _webp_chunks(data)
    if b"ANMF" in chunks or b"ANIM" in chunks:
        raise PictureError("is an animation, wanted one frame; export the frames as files")
    width, height = _webp_size(chunks)
    _check_size(width, height, max_pixels)
    pixels = _channels_first(imagecodecs.webp_decode(data))
    if pixels.shape[1:] != (height, width):
        raise PictureError(f"decodes to {pixels.shape}, wanted {height} rows {width} columns")
    exif = _filled(chunks.get(b"EXIF"))
    metadata = Metadata(
        format="webp",
        mode=_mode(pixels.shape[0], pixels.dtype),
        icc=_filled(chunks.get(b"ICCP")),
        exif=_filled(exif.removeprefix(EXIF_PREFIX)) if exif else None,
        xmp=_filled(chunks.get(b"XMP ")),
        notes=tuple(_webp_notes(data, chunks)),
    )
    return pixels, metadata


def _webp_notes(data: bytes, chunks: dict[bytes, bytes]) -> Iterator[str]:
    """Yield a note for each part of the file that is not kept."""
    for kind, body in chunks.items():
        if kind not in _WEBP_CHUNKS:
            yield f"WebP chunk {kind.decode('latin-1')} ({in_words(len(body))}) was not kept"
    behind = data[8 + int(struct.unpack_from("<I", data, 4)[0]) :]
    if behind.strip(b"\0"):
        yield f"data behind the picture: {in_words(len(behind))}, not kept"


_WEBP_CHUNKS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"EXIF", b"XMP ")


def _webp_chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a RIFF file by type, the first of each."""
    end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if end > len(data):
        raise PictureError(f"declares {end} bytes, holds {len(data)}; the file is truncated")
    chunks: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        if at + 8 + size > end:
            raise PictureError(f"chunk {kind!r} at byte {at} ends behind the file; it is damaged")
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return chunks


def _webp_size(chunks: dict[bytes, bytes]) -> tuple[int, int]:
    """Return (width, height) of the bitstream itself, which is what the decoder allocates."""
    if b"VP8L" in chunks:
        (bits,) = struct.unpack_from("<I", chunks[b"VP8L"], 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if b"VP8 " in chunks:
        width, height = struct.unpack_from("<HH", chunks[b"VP8 "], 6)
        return width & 0x3FFF, height & 0x3FFF
    raise PictureError("holds no VP8 or VP8L chunk, wanted one; the file is damaged")


# Reading: TIFF

_GREY_INVERTED, _GREY, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_COLOURS = {4: "a mask", 5: "CMYK", 8: "CIE Lab", 9: "ICC Lab", 32803: "raw sensor data"}
_JPEG_IN_TIFF = 7
# None, CCITT 2-4, LZW, JPEG, Deflate, PackBits, old Deflate, LZMA, Zstandard.
_TIFF_COMPRESSIONS = (1, 2, 3, 4, 5, _JPEG_IN_TIFF, 8, 32773, 32946, 34925, 50000)
_PREMULTIPLIED, _STRAIGHT = 1, 2


def _read_tiff(data: bytes, max_pixels: int) -> tuple[NDArray[Any], Metadata]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = _only_page(file)
        _check_size(page.imagewidth, page.imagelength, max_pixels)
        _check_kind(page)
        _check_segments(page, data, max_pixels)
        samples = page.asarray(maxworkers=1)
        pixels = samples if page.axes == "SYX" else _channels_first(samples)
        value_range = None
        if pixels.dtype.kind == "f":
            pixels, value_range = to_unit(pixels, _declared_range(page))
        mode, pixels = _tiff_pixels(page, pixels)
        exif, notes = exif_of_tiff(data, page.offset, Layout.of(data))
        if value_range is not None:  # It is written again with the pixels.
            notes = tuple(note for note in notes if not note.startswith(SAMPLE_RANGE))
        if others := len(file.pages) - 1:
            notes += (f"smaller copies of the picture in the file ({others}): not kept",)
        if page.tags.valueof(296) == 1 and page.tags.valueof(282) != page.tags.valueof(283):
            notes += ("the ratio of the sides of a pixel (TIFF) was not kept",)
        resources = photoshop.parted(_raw(page, data, 34377) or b"")
        metadata = Metadata(
            format="tiff",
            mode=mode,
            icc=_filled(page.tags.valueof(34675)),
            exif=exif,
            xmp=_filled(page.tags.valueof(700)),
            dpi=_tiff_dpi(page),
            iptc=photoshop.iptc_of_tiff(_raw(page, data, 33723) or b"") or resources.iptc,
            photoshop=resources.others,
            notes=(*notes, *resources.notes),
            value_range=value_range,
        )
    return pixels, metadata


def _raw(page: tifffile.TiffPage, data: bytes, code: int) -> bytes | None:
    """Return the bytes of a tag, whatever type it claims."""
    tag = page.tags.get(code)
    return data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] if tag else None


def _declared_range(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return what SMin- and SMaxSampleValue say, or else Min- and MaxSampleValue."""
    for codes in ((340, 341), (280, 281)):
        if found := declared_range(*(page.tags.valueof(code) for code in codes)):
            return found
    return None


def _only_page(file: tifffile.TiffFile) -> tifffile.TiffPage:
    """Return the file's one full-size page; reduced copies of it may stand by."""
    pages = [file.pages[index].aspage() for index in range(len(file.pages))]
    full = [page for page in pages if not page.is_reduced] or pages
    count = len(full)
    if file.is_imagej:
        count = max(count, int((file.imagej_metadata or {}).get("images", 1)))
    if count != 1:
        raise PictureError(f"holds {count} pages, wanted one; save the pages as files")
    return full[0]


def _check_kind(page: tifffile.TiffPage) -> None:
    """Refuse what `_tiff_pixels` could only guess at."""
    colour, bits = int(page.photometric), page.bitspersample
    if colour not in (_GREY_INVERTED, _GREY, _RGB, _PALETTE, _YCBCR):
        met = _COLOURS.get(colour, f"photometric {colour}")
        raise PictureError(f"colours are {met}, wanted grey, RGB or palette; convert to RGB")
    if page.compression not in _TIFF_COMPRESSIONS:
        compression = getattr(page.compression, "name", page.compression)
        raise PictureError(
            f"compression is {compression}, wanted LZW, Deflate or the like; save it with one"
        )
    if colour == _YCBCR and page.compression != _JPEG_IN_TIFF:
        raise PictureError("colours are YCbCr without JPEG compression; convert to RGB")
    if page.imagedepth != 1:
        raise PictureError(f"is a volume of {page.imagedepth} slices, wanted one picture")
    kind = (bits, int(page.sampleformat))
    small = bits == 1 or (bits in (2, 4) and colour == _PALETTE)
    if not (kind in ((8, 1), (16, 1), (32, 3)) or (small and kind[1] == 1)):
        names = {1: "unsigned", 2: "signed", 3: "floating point"}
        raise PictureError(
            f"samples are {bits}-bit {names.get(kind[1], 'of an unknown kind')}, wanted 1, 8 or "
            f"16-bit unsigned or 32-bit floating point"
        )


def _check_segments(page: tifffile.TiffPage, data: bytes, max_pixels: int) -> None:
    """Require every strip or tile to lie in the file: tifffile fills missing ones with zeros."""
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
        _check_size(width, height, max_pixels)
        wanted = math.ceil(page.imagelength / height) * math.ceil(page.imagewidth / width) * planes
    else:
        height, width = min(page.rowsperstrip, page.imagelength), page.imagewidth
        wanted = math.ceil(page.imagelength / max(1, height)) * planes
    met = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if not len(page.dataoffsets) == len(page.databytecounts) == wanted and not page.is_contiguous:
        raise PictureError(f"lists {len(met)} strips or tiles, wanted {wanted}; it is damaged")
    for offset, size in met:
        if offset < 8 or size < 1 or offset + size > len(data):
            raise PictureError(
                f"a strip or tile lies at bytes {offset} to {offset + size}, "
                f"the file has {len(data)}; it is truncated or damaged"
            )
        if page.compression == _JPEG_IN_TIFF:
            columns, rows = _jpeg_size(data[offset : offset + size])
            if columns > width or rows > height:
                raise PictureError(f"a JPEG tile is {columns} x {rows}, wanted {width} x {height}")


def _tiff_pixels(page: tifffile.TiffPage, pixels: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Return (mode as in the file, pixels (c, y, x)) of samples (c, y, x)."""
    colour = int(page.photometric)
    if colour == _PALETTE:
        return _resolve(pixels, page)
    if page.bitspersample == 1:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if colour == _GREY_INVERTED:
        if pixels.dtype == np.float32:
            raise PictureError("floating point grey counts from white, wanted from black")
        pixels = np.iinfo(pixels.dtype).max - pixels
    base = 1 if colour in (_GREY_INVERTED, _GREY) else 3
    alpha = [int(kind) for kind in page.extrasamples]
    if len(pixels) - base != len(alpha) or alpha not in ([], [_PREMULTIPLIED], [_STRAIGHT]):
        raise PictureError(
            f"has {len(pixels)} channels whose meaning is not stated (extra samples {alpha}), "
            f"wanted {base}, or {base + 1} with alpha; drop the others"
        )
    if alpha == [_PREMULTIPLIED]:
        pixels = _straighten(pixels)
    mode = "1" if page.bitspersample == 1 else _mode(len(pixels), pixels.dtype)
    # As Pillow names it; the pixels are straight, and are premultiplied again in a TIFF.
    return mode.replace("A", "a") if alpha == [_PREMULTIPLIED] else mode, pixels


def _resolve(pixels: NDArray[Any], page: tifffile.TiffPage) -> tuple[str, NDArray[Any]]:
    """Return (mode, RGB or RGBA (c, y, x) uint8) of palette indices and alpha (1 or 2, y, x)."""
    alpha = [int(kind) for kind in page.extrasamples]
    if len(pixels) != 1 + len(alpha) or alpha not in ([], [_STRAIGHT]):
        raise PictureError(
            f"has a palette and {len(pixels) - 1} other channels (extra samples {alpha}), wanted "
            f"at most one of straight alpha; drop the others"
        )
    # Indices of one bit come as truth values, which would select instead.
    indices = pixels[0].astype(np.uint8) if pixels.dtype == np.bool_ else pixels[0]
    colormap = page.colormap
    if colormap is None or indices.max() >= colormap.shape[1]:
        raise PictureError("pixels point outside the palette; the file is damaged")
    # Entries are 16 bits wide; where none of them is above 255, their writer meant 8 bits, as
    # libtiff takes it too.
    colours = colormap >> 8 if colormap.max() > 255 else colormap
    resolved = colours.astype(np.uint8)[:, indices]
    return ("PA", np.concatenate([resolved, pixels[1:]])) if alpha else ("P", resolved)


def _straighten(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels with the colours divided by alpha, rounded; colour 0 where alpha is 0."""
    alpha = pixels[-1:].astype(np.float64)
    top = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    share = np.divide(top, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    excess = float((pixels[:-1].astype(np.float64) - alpha).max())
    if excess > top / 32:
        raise PictureError(
            f"colours exceed their alpha by up to {excess:g}, wanted none above it, as the file "
            f"says that they are premultiplied; save it with straight alpha"
        )
    colours = pixels[:-1] * share
    if pixels.dtype != np.float32:
        colours = np.minimum(np.rint(colours), top)
    return np.concatenate([colours.astype(pixels.dtype), pixels[-1:]])


def _tiff_dpi(page: tifffile.TiffPage) -> tuple[float, float] | None:
    per_inch = {2: 1.0, 3: 2.54}.get(int(page.tags.valueof(296, default=2)))
    pair = [page.tags.valueof(code) for code in (282, 283)]
    if per_inch is None or not all(isinstance(v, tuple) and len(v) == 2 and v[1] for v in pair):
        return None
    return _dpi([per_inch * top / bottom for top, bottom in pair])


_READERS: dict[str, Callable[[bytes, int], tuple[NDArray[Any], Metadata]]] = {
    "jpeg": _read_jpeg,
    "png": _read_png,
    "tiff": _read_tiff,
    "webp": _read_webp,
}


# Orientation


def _upright(picture: Picture) -> Picture:
    """Return the picture as its EXIF orientation shows it, the orientation reset to 1."""
    metadata, pixels = picture.metadata, picture.pixels
    if metadata.exif is not None and (found := find_orientation(metadata.exif)):
        turn, at = found
        pixels = _turn(pixels, turn)
        exif = reset_orientation(metadata.exif, at)
        xmp = metadata.xmp and _XMP_ORIENTATION.sub(rb"\g<1>1\g<3>", metadata.xmp)
        metadata = replace(metadata, exif=exif, xmp=xmp)
        height, width = picture.pixels.shape[1:]
        metadata = travel.upright(metadata, turn, width=width, height=height)
    elif metadata.xmp and (said := _XMP_ORIENTATION.search(metadata.xmp)):
        # EXIF goes first; where it says nothing XMP counts (Metadata Working Group, 2010).
        turn = int(said[2])
        pixels = _turn(pixels, turn)
        xmp = _XMP_ORIENTATION.sub(rb"\g<1>1\g<3>", metadata.xmp)
        height, width = picture.pixels.shape[1:]
        metadata = travel.upright(replace(metadata, xmp=xmp), turn, width=width, height=height)
    return Picture(pixels=pixels, metadata=metadata)


_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)([1-8])(\s*[\"'<])")


def _turn(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return (c, y, x) pixels upright; orientation as in EXIF, 1 to 8, others mean 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, :, ::-1]
    return pixels


# Writing


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a format can hold; the most pixels on a side are those of its encoder."""

    channels: tuple[int, ...]
    dtypes: tuple[str, ...]
    side_px: int


_LIMITS = {
    "jpeg": _Limits((1, 3), ("uint8",), 65_500),
    "png": _Limits((1, 2, 3, 4), ("uint8", "uint16"), 1_000_000),
    "tiff": _Limits((1, 2, 3, 4), ("uint8", "uint16", "float32"), 2**31 - 1),
    "webp": _Limits((1, 2, 3, 4), ("uint8",), 16_383),
}


def write_picture(
    path: Path, picture: Picture, *, format: str, quality: int = 95, readers: int = EVERYONE
) -> tuple[str, ...]:
    """Write the picture as `encode_picture` at `path`, whole or not at all; folders are created.

    The file is for its owner and `readers`, as far as the umask lets them. Return notes: a sentence
    for each thing in the metadata that the file does not hold.

    Raises:
        PictureError: The format cannot hold the picture; the message names formats that can.
        OSError: The file system refuses; what stood at `path` is untouched.
    """
    data, notes = encode_picture(picture, name=path.name, format=format, quality=quality)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path, readers=readers) as file:
        file.write(data)
    return notes


def encode_picture(
    picture: Picture, *, name: str, format: str, quality: int = 95
) -> tuple[bytes, tuple[str, ...]]:
    """Return the bytes of a file in `format`, and notes; the same picture, the same bytes.

    A note is a sentence for each thing in the metadata that the file does not hold.

    PNG, TIFF and WebP are lossless: reading them back gives the same values (WebP has no grey, so
    grey comes back as equal RGB). JPEG is 4:4:4 at `quality` (1 to 100, for JPEG alone). What is
    said of the picture's size and its thumbnail is made true of these pixels.

    Raises:
        PictureError: The format cannot hold the picture; the message names formats that can.
    """
    _check_format(picture, format)
    if not 1 <= quality <= 100:
        raise PictureError(f"quality is {quality}, wanted 1 to 100")
    channels, height, width = picture.pixels.shape
    target = travel.Target(
        format=format,
        width=width,
        height=height,
        channels=channels,
        dtype=picture.pixels.dtype.name,
        thumbnail=partial(_thumbnail, picture.pixels),
    )
    try:
        metadata, notes = travel.fitted(picture.metadata, target)
        return _WRITERS[format](replace(picture, metadata=metadata), quality), notes
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except Exception as error:  # Encoders raise anything, such as on metadata above a limit.
        raise PictureError(
            f"{name}: cannot be written as {format.upper()} ({error}); write TIFF instead"
        ) from error


def _thumbnail(pixels: NDArray[Any], most_px: int) -> bytes:
    """Return a JPEG of at most `most_px` a side, in the colours of the pixels, without alpha."""
    colours = pixels[: 1 if len(pixels) <= 2 else 3]
    height, width = colours.shape[1:]
    # Of a picture of thousands of pixels a side, every so manieth is enough.
    step = max(1, max(height, width) // (4 * most_px))
    colours = colours[:, ::step, ::step]
    if colours.dtype == np.float32:
        colours = np.rint(np.clip(np.nan_to_num(colours), 0, 1) * 255).astype(np.uint8)
    elif colours.dtype == np.uint16:
        colours = (colours >> 8).astype(np.uint8)
    image = Image.fromarray(_channels_last(colours))
    share = min(1.0, most_px / max(height, width))
    image = image.resize((max(1, round(width * share)), max(1, round(height * share))))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def encode_preview(pixels: NDArray[Any], *, format: Literal["jpeg", "png"]) -> bytes:
    """Return grey or RGB ``(c, y, x)`` of uint8 as the bytes of a small file, for showing.

    Raises:
        PictureError: If JPEG or PNG cannot hold the pixels.
    """
    picture = Picture(pixels=pixels, metadata=Metadata(format=format, mode="RGB"))
    _check_format(picture, format)
    options = {"quality": 90, "subsampling": 0} if format == "jpeg" else {"optimize": True}
    return _save(_channels_last(pixels), format.upper(), picture.metadata, options)


def recompress(
    pixels: NDArray[np.uint8], *, format: Literal["jpeg", "webp"], quality: int
) -> NDArray[np.uint8]:
    """Return grey or RGB ``(c, y, x)`` of uint8 as a lossy file of it would be read back.

    JPEG is baseline with colours at half resolution (4:2:0), as cameras and the web write it;
    WebP is lossy. `quality` is 1 to 100.

    Raises:
        PictureError: If the format cannot hold the pixels, or the quality is none.
    """
    picture = Picture(pixels=pixels, metadata=Metadata(format=format, mode="RGB"))
    _check_format(picture, format)
    if len(pixels) not in (1, 3) or not 1 <= quality <= 100:
        raise PictureError(
            f"pixels have {len(pixels)} channels at quality {quality}, "
            f"wanted 1 or 3 at quality 1 to 100; drop alpha first"
        )
    if format == "jpeg":
        data = imagecodecs.jpeg8_encode(_channels_last(pixels), level=quality, subsampling="420")
        return _channels_first(imagecodecs.jpeg8_decode(data))
    # WebP has no grey: equal channels stay equal, and one of them is the answer.
    colours = np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels
    data = imagecodecs.webp_encode(_channels_last(colours), level=quality, lossless=False)
    return _channels_first(imagecodecs.webp_decode(data))[: len(pixels)]


def _check_format(picture: Picture, format: str) -> None:
    if format not in _LIMITS:
        raise PictureError(f"format is {format!r}, wanted one of {', '.join(_LIMITS)}")
    if not _fits(picture, format):
        channels, height, width = picture.pixels.shape
        fitting = [name.upper() for name in _LIMITS if _fits(picture, name)]
        raise PictureError(
            f"{format.upper()} cannot hold {width} x {height} pixels of {channels} channels "
            f"{picture.pixels.dtype}; write {' or '.join(fitting) or 'smaller pictures'} instead"
        )


def _fits(picture: Picture, format: str) -> bool:
    limits = _LIMITS[format]
    channels, *sides = picture.pixels.shape
    dtype = picture.pixels.dtype.name
    return channels in limits.channels and dtype in limits.dtypes and max(sides) <= limits.side_px


def _channels_last(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (c, y, x) as (y, x), or (y, x, c) with more than one channel."""
    # A copy: of a one-pixel picture, ascontiguousarray keeps strides that encoders refuse.
    return np.array(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2), order="C")


def _write_jpeg(picture: Picture, quality: int) -> bytes:
    options: dict[str, Any] = {"quality": quality, "subsampling": 0}
    if dpi := picture.metadata.dpi:
        options["dpi"] = tuple(min(65535, max(1, round(value))) for value in dpi)
    metadata = picture.metadata
    segments = [
        *jpeg_segments.extended_segments(metadata.xmp_extended or b""),
        *jpeg_segments.photoshop_segments(metadata.iptc, metadata.photoshop),
        *jpeg_segments.comment_segments(metadata.comments),
    ]
    data = _save(_channels_last(picture.pixels), "JPEG", metadata, options)
    return jpeg_segments.with_segments(data, segments) if segments else data


def _write_webp(picture: Picture, quality: int) -> bytes:
    pixels, metadata = picture.pixels, picture.metadata
    if len(pixels) <= 2:
        pixels = np.concatenate([pixels[:1], pixels[:1], pixels])
        if metadata.icc and metadata.icc[16:20] == b"GRAY":
            metadata = replace(metadata, icc=None)  # It cannot describe RGB.
    # "exact" keeps the colours below full transparency.
    options = {"lossless": True, "exact": True}
    return _save(_channels_last(pixels), "WEBP", metadata, options)


def _save(pixels: NDArray[Any], format: str, metadata: Metadata, options: dict[str, Any]) -> bytes:
    kept = {"icc_profile": metadata.icc, "xmp": metadata.xmp}
    kept["exif"] = EXIF_PREFIX + metadata.exif if metadata.exif else None
    file = io.BytesIO()
    present = {key: value for key, value in kept.items() if value}
    Image.fromarray(pixels).save(file, format, **options, **present)
    return file.getvalue()


def _write_png(picture: Picture, quality: int) -> bytes:
    """Write by libpng, which knows 16 bits, with the metadata put in behind the header."""
    # Run lengths only: on enlarged photographs and drawings the files are within 4 % of zlib's
    # default, and are written five times as fast.
    data = imagecodecs.png_encode(
        _channels_last(picture.pixels), level=3, strategy=imagecodecs.PNG.STRATEGY.RLE
    )
    metadata, chunks = picture.metadata, []
    if metadata.icc:
        chunks.append(_png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        x, y = (min(2**31 - 1, max(1, round(value / 0.0254))) for value in metadata.dpi)
        chunks.append(_png_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    if metadata.exif:
        chunks.append(_png_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append(_png_chunk(b"iTXt", _PNG_XMP + b"\0\0\0\0" + metadata.xmp))
    chunks += [png_chunks.packed(chunk) for chunk in metadata.chunks]
    header = len(_PNG_SIGNATURE) + 25
    return b"".join([data[:header], *chunks, data[header:]])


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def _write_tiff(picture: Picture, quality: int) -> bytes:
    """Write Deflate strips, then a second directory that adds EXIF and XMP to tifffile's."""
    metadata = picture.metadata
    pixels, alpha = _tiff_alpha(picture)
    pixels, range_tags = _tiff_range(pixels, metadata)
    added = additions(metadata.exif, metadata.xmp, iptc=metadata.iptc, photoshop=metadata.photoshop)
    order = byte_order(metadata.exif)
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        _channels_last(pixels),
        byteorder=order,
        photometric="rgb" if len(pixels) >= 3 else "minisblack",
        planarconfig="contig" if len(pixels) > 1 else None,
        extrasamples=alpha,
        compression="zlib",
        predictor=True,
        iccprofile=metadata.icc,
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        metadata=None,
        software=False,
        extratags=range_tags,
    )
    return graft(file.getvalue(), added) if added else file.getvalue()


def _tiff_alpha(picture: Picture) -> tuple[NDArray[Any], list[str] | None]:
    """Return the pixels and the kind of their alpha: premultiplied where the origin's was."""
    pixels = picture.pixels
    if len(pixels) not in (2, 4):
        return pixels, None
    if "a" not in picture.metadata.mode:
        return pixels, ["unassalpha"]
    top = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    colours = pixels[:-1] * (pixels[-1:].astype(np.float64) / top)
    if pixels.dtype != np.float32:
        colours = np.rint(colours)
    return np.concatenate([colours.astype(pixels.dtype), pixels[-1:]]), ["assocalpha"]


def _tiff_range(
    pixels: NDArray[Any], metadata: Metadata
) -> tuple[NDArray[Any], list[tuple[int, str, int, Any, bool]]]:
    """Return the pixels in the value range of their origin, and the tags that declare it."""
    if metadata.value_range is None or pixels.dtype != np.float32:
        return pixels, []
    count = len(pixels)
    tags = zip((340, 341), metadata.value_range, strict=True)
    return from_unit(pixels, metadata.value_range), [
        (code, "f", count, (value,) * count if count > 1 else value, True) for code, value in tags
    ]


_WRITERS: dict[str, Callable[[Picture, int], bytes]] = {
    "jpeg": _write_jpeg,
    "png": _write_png,
    "tiff": _write_tiff,
    "webp": _write_webp,
}


# Colours


_SRGB_LEVELS = 3
"""A profile by which no colour is further off is sRGB, whoever wrote it: nothing is converted."""


def to_srgb(pixels: NDArray[np.uint8], icc: bytes) -> tuple[NDArray[np.uint8], str]:
    """Return grey or RGB ``(c, h, w)`` of a profile's colours as sRGB, and what was done.

    That is "" where the profile is sRGB. Out of gamut colours are clipped (relative colorimetric
    with black point compensation, as littleCMS does it). A profile that is damaged, or of other
    channels than the pixels, changes nothing, and that is what was done.
    """
    image = Image.fromarray(np.moveaxis(pixels, 0, 2) if len(pixels) == 3 else pixels[0])
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = " ".join(ImageCms.getProfileDescription(profile).split())[:80] or "unnamed"
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            image.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = _probe(image.mode)
        apart = np.asarray(ImageCms.applyTransform(probe, transform)).astype(np.int16)
        if np.abs(apart - np.asarray(probe.convert("RGB"))).max() <= _SRGB_LEVELS:
            return pixels, ""
        found = np.moveaxis(np.asarray(ImageCms.applyTransform(image, transform)), 2, 0)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return pixels, "profile cannot be used, taken as sRGB"
    return np.ascontiguousarray(found[: len(pixels)]), f"{name} converted to sRGB"


def _probe(mode: str) -> Image.Image:
    """Return a picture of colours that lie all over a cube, or of all greys."""
    steps = np.linspace(0, 255, 16 if mode == "L" else 9).round().astype(np.uint8)
    if mode == "L":
        return Image.fromarray(steps[np.newaxis])
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    return Image.fromarray(cube.reshape(len(steps), -1, 3))
