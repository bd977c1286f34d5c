"""PNG files at their full depth: read by libpng, with every checksum verified."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import imagecodecs
import numpy as np

from pipeline.errors import PictureError
from pipeline.pictures.codecs.declared import check_decoded, check_size, filled, usable_dpi
from pipeline.pictures.codecs.png_bands import filtered_bands, packed
from pipeline.pictures.interlace import decode_interlaced
from pipeline.pictures.metadata import png_chunks
from pipeline.pictures.metadata.exif import PREFIX as EXIF_PREFIX
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import channels_first
from pipeline.pictures.strips import ahead, recut
from pipeline.storage.large_arrays import is_large, large_array
from pipeline.storage.spool import large_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.pictures.strips import Strips

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_PALETTE = 3
_PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_XMP = b"XML:com.adobe.xmp\0"
_MAX_METADATA_BYTES = 64 << 20
_WHOLE_BYTES, _BAND_BYTES = 1 << 25, 1 << 20
"""The largest picture that is written without threads, and the size of the bands of any."""


def read_png(data: bytes, max_pixels: int) -> tuple[NDArray[Any], Metadata]:
    """Read by libpng at full depth: Pillow cuts 16-bit RGB to 8 bits, and fills missing rows."""
    chunks, bare = _png_chunks(data)
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    check_size(width, height, max_pixels)
    if b"IDAT" not in chunks:
        raise PictureError("holds no pixels (no IDAT chunk), expected some; the file is damaged")
    if b"acTL" in chunks and (frames := int.from_bytes(chunks[b"acTL"][:4], "big")) > 1:
        raise PictureError(f"holds {frames} frames, expected one; export the frames as files")
    pixels = channels_first(_png_samples(chunks, bare))
    check_decoded(pixels, height, width)
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
        exif=filled(chunks.get(b"eXIf", b"").removeprefix(EXIF_PREFIX)) or extras.exif,
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
        return imagecodecs.png_decode(bare, out=_large(header, palette))
    return decode_interlaced(
        header, _png_data(bare), palette=palette, decode=imagecodecs.png_decode
    )


def _large(header: bytes, palette: Mapping[bytes, bytes]) -> NDArray[Any] | None:
    """Return where the samples of a large picture are put, None of others.

    Of palettes and transparent colours only libpng knows what they come to.
    """
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    if palette or depth < 8 or colour not in _PNG_COLOURS.values():
        return None
    channels = {kind: count for count, kind in _PNG_COLOURS.items()}[colour]
    shape = (height, width, channels)[: 3 if channels > 1 else 2]
    dtype = np.dtype(f"u{depth // 8}")
    return large_array(shape, dtype) if is_large(shape, dtype) else None


def _check_indices(header: bytes, bare: bytes, *, entries: int) -> None:
    """Refuse pixels that point outside the palette, for which libpng makes up a black."""
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
    bare: list[bytes | memoryview] = [_PNG_SIGNATURE]
    at = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise PictureError(f"ends at byte {len(data)} without IEND; the file is truncated")
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            raise PictureError(
                f"chunk {kind!r} at byte {at} reaches beyond the {len(data)} bytes of the file; it "
                "is truncated"
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
            raise PictureError(f"the first chunk is {kind!r}, expected IHDR; the file is damaged")
        body = data[at + 8 : end] if kind != b"IDAT" else b""
        chunks.setdefault(kind, body)
        if kind == b"tRNS" and chunks[b"IHDR"][9] in (0, 2):
            bare.append(_png_chunk(kind, _png_key(body, chunks[b"IHDR"][8])))
        elif kind[:1].isupper() or kind == b"tRNS":
            bare.append(memoryview(data)[at : end + 4])
        at = end + 4
    return chunks, large_bytes(bare, sum(map(len, bare)))


def _png_icc(chunk: bytes | None) -> bytes | None:
    return _inflate(chunk[chunk.index(b"\0") + 2 :]) if chunk and b"\0" in chunk else None


def _inflate(packed: bytes) -> bytes | None:
    """Return what zlib data holds; None where it is broken, as metadata never costs a picture."""
    try:
        return filled(zlib.decompressobj().decompress(packed, _MAX_METADATA_BYTES))
    except zlib.error:
        return None


def _png_dpi(chunk: bytes | None) -> tuple[float, float] | None:
    if chunk is None or len(chunk) != 9:
        return None
    x, y, unit = struct.unpack(">IIB", chunk)
    return usable_dpi((x * 0.0254, y * 0.0254)) if unit == 1 else None


def write_png(file: BinaryIO, pixels: Strips, metadata: Metadata, quality: int) -> None:
    """Write band by band, with the metadata behind the header; `quality` is not used."""
    channels, height, width = pixels.shape
    row_bytes = channels * width * pixels.dtype.itemsize
    depth, colour = 8 * pixels.dtype.itemsize, _PNG_COLOURS[channels]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    file.writelines([_PNG_SIGNATURE, _png_chunk(b"IHDR", header), *_extra_chunks(metadata)])
    # For a smaller picture, threads would cost more than they save.
    made_ahead = ahead if height * row_bytes > _WHOLE_BYTES else iter
    bands = recut(made_ahead(pixels), max(1, _BAND_BYTES // row_bytes))
    for body in packed(made_ahead(filtered_bands(bands))):
        file.write(_png_chunk(b"IDAT", body))
    file.write(_png_chunk(b"IEND", b""))


def _extra_chunks(metadata: Metadata) -> list[bytes]:
    chunks = []
    if metadata.icc:
        chunks.append(_png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        x, y = (min(2**31 - 1, max(1, round(value / 0.0254))) for value in metadata.dpi)
        chunks.append(_png_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    if metadata.exif:
        chunks.append(_png_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append(_png_chunk(b"iTXt", _PNG_XMP + b"\0\0\0\0" + metadata.xmp))
    return chunks + [png_chunks.packed(chunk) for chunk in metadata.chunks]


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
