"""TIFF files of one picture, by tifffile."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import imagecodecs
import numpy as np
import tifffile

from pipeline.errors import PictureError
from pipeline.pictures.codecs.declared import check_size, filled, usable_dpi
from pipeline.pictures.codecs.tiff_segments import decode_segments
from pipeline.pictures.float_range import declared_range, from_unit, to_unit
from pipeline.pictures.metadata import photoshop
from pipeline.pictures.metadata.exif import SAMPLE_RANGE, additions, byte_order, grafted
from pipeline.pictures.metadata.exif import of_tiff as exif_of_tiff
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.metadata.tiff_tree import Layout
from pipeline.pictures.picture import WHITE, channels_first, mode_of
from pipeline.pictures.strips import ahead, in_order, recut
from pipeline.storage.large_arrays import changed
from pipeline.storage.spool import as_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.pictures.metadata.tiff_tree import Tag
    from pipeline.pictures.strips import Strips

# tifffile logs what it tolerates; what upres does not tolerate is raised here instead.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
_GREY_INVERTED, _GREY, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_COLOURS = {4: "a mask", 5: "CMYK", 8: "CIE Lab", 9: "ICC Lab", 32803: "raw sensor data"}
_JPEG_IN_TIFF = 7
# None, CCITT 2-4, LZW, JPEG, Deflate, PackBits, old Deflate, LZMA, Zstandard.
_TIFF_COMPRESSIONS = (1, 2, 3, 4, 5, _JPEG_IN_TIFF, 8, 32773, 32946, 34925, 50000)
_PREMULTIPLIED, _STRAIGHT = 1, 2
_STRIP_BYTES, _BAND_BYTES = 1 << 18, 1 << 22
"""Samples in a strip of a file that is written, and those that are in memory at once."""
_CLASSIC_BYTES = 2**32 - 2**25
"""Of samples and metadata; more need a BigTIFF, whose offsets have 64 bits."""


def read_tiff(data: bytes, max_pixels: int) -> tuple[NDArray[Any], Metadata]:
    """Read the one page at its own depth; what tifffile would tolerate or fill in is refused."""
    with tifffile.TiffFile(as_file(data)) as file:
        page = _only_page(file)
        check_size(page.imagewidth, page.imagelength, max_pixels)
        _check_kind(page)
        samples = decode_segments(page, data, max_pixels)
        pixels = samples if page.axes == "SYX" else channels_first(samples)
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
            icc=filled(page.tags.valueof(34675)),
            exif=exif,
            xmp=filled(page.tags.valueof(700)),
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
        raise PictureError(f"holds {count} pages, expected one; save the pages as files")
    return full[0]


def _check_kind(page: tifffile.TiffPage) -> None:
    """Refuse what `_tiff_pixels` could only guess at."""
    colour, bits = int(page.photometric), page.bitspersample
    if colour not in (_GREY_INVERTED, _GREY, _RGB, _PALETTE, _YCBCR):
        met = _COLOURS.get(colour, f"photometric {colour}")
        raise PictureError(f"colours are {met}, expected grey, RGB or palette; convert to RGB")
    if page.compression not in _TIFF_COMPRESSIONS:
        compression = getattr(page.compression, "name", page.compression)
        raise PictureError(
            f"compression is {compression}, expected LZW, Deflate or the like; save it with one"
        )
    if colour == _YCBCR and page.compression != _JPEG_IN_TIFF:
        raise PictureError("colours are YCbCr without JPEG compression; convert to RGB")
    if page.imagedepth != 1:
        raise PictureError(f"is a volume of {page.imagedepth} slices, expected one picture")
    kind = (bits, int(page.sampleformat))
    small = bits == 1 or (bits in (2, 4) and colour == _PALETTE)
    if not (kind in ((8, 1), (16, 1), (32, 3)) or (small and kind[1] == 1)):
        names = {1: "unsigned", 2: "signed", 3: "floating point"}
        raise PictureError(
            f"samples are {bits}-bit {names.get(kind[1], 'of an unknown kind')}, expected 1, 8 or "
            f"16-bit unsigned or 32-bit floating point"
        )


def _tiff_pixels(page: tifffile.TiffPage, pixels: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Return (mode as in the file, pixels (c, y, x)) of samples (c, y, x)."""
    colour = int(page.photometric)
    if colour == _PALETTE:
        return _resolve(pixels, page)
    if page.bitspersample == 1:
        pixels = changed(pixels, lambda band: band.astype(np.uint8) * np.uint8(255))
    native = pixels.dtype.newbyteorder("=")
    if pixels.dtype != native:
        pixels = changed(pixels, lambda band: band.astype(native))
    if colour == _GREY_INVERTED:
        if pixels.dtype == np.float32:
            raise PictureError("floating point grey counts from white, expected from black")
        white = WHITE[pixels.dtype.name]
        pixels = changed(pixels, lambda band: white - band)
    base = 1 if colour in (_GREY_INVERTED, _GREY) else 3
    alpha = [int(kind) for kind in page.extrasamples]
    if len(pixels) - base != len(alpha) or alpha not in ([], [_PREMULTIPLIED], [_STRAIGHT]):
        raise PictureError(
            f"has {len(pixels)} channels whose meaning is not stated (extra samples {alpha}), "
            f"expected {base}, or {base + 1} with alpha; drop the others"
        )
    if alpha == [_PREMULTIPLIED]:
        pixels = changed(pixels, _straighten)
    mode = "1" if page.bitspersample == 1 else mode_of(len(pixels), pixels.dtype)
    # As Pillow names it; the pixels are straight, and are premultiplied again in a TIFF.
    return mode.replace("A", "a") if alpha == [_PREMULTIPLIED] else mode, pixels


def _resolve(pixels: NDArray[Any], page: tifffile.TiffPage) -> tuple[str, NDArray[Any]]:
    """Return (mode, RGB or RGBA (c, y, x) uint8) of palette indices and alpha (1 or 2, y, x)."""
    alpha = [int(kind) for kind in page.extrasamples]
    if len(pixels) != 1 + len(alpha) or alpha not in ([], [_STRAIGHT]):
        raise PictureError(
            f"has a palette and {len(pixels) - 1} other channels (extra samples {alpha}), expected "
            f"at most one of straight alpha; drop the others"
        )
    colormap = page.colormap
    if colormap is None or pixels[0].max() >= colormap.shape[1]:
        raise PictureError("pixels point outside the palette; the file is damaged")
    # Entries are 16 bits wide; where none of them is above 255, their writer meant 8 bits, as
    # libtiff takes it too.
    colours = (colormap >> 8 if colormap.max() > 255 else colormap).astype(np.uint8)

    def resolved(band: NDArray[Any]) -> NDArray[Any]:
        # Indices of one bit come as truth values, which would select instead.
        indices = band[0].astype(np.uint8) if band.dtype == np.bool_ else band[0]
        return np.concatenate([colours[:, indices], band[1:]]) if alpha else colours[:, indices]

    return "PA" if alpha else "P", changed(pixels, resolved, channels=3 + len(alpha))


def _straighten(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels with the colours divided by alpha, rounded; colour 0 where alpha is 0."""
    alpha = pixels[-1:].astype(np.float64)
    top = float(WHITE[pixels.dtype.name])
    share = np.divide(top, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    excess = float((pixels[:-1].astype(np.float64) - alpha).max())
    if excess > top / 32:
        raise PictureError(
            f"colours exceed their alpha by up to {excess:g}, expected none above it, as the file "
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
    return usable_dpi([per_inch * top / bottom for top, bottom in pair])


def write_tiff(file: BinaryIO, pixels: Strips, metadata: Metadata, quality: int) -> None:
    """Write Deflate strips, then a second directory that adds EXIF and XMP to tifffile's."""
    channels, height, width = pixels.shape
    added = additions(metadata.exif, metadata.xmp, iptc=metadata.iptc, photoshop=metadata.photoshop)
    order = byte_order(metadata.exif)
    row_bytes = channels * width * pixels.dtype.itemsize
    rows = min(height, max(1, _STRIP_BYTES // row_bytes))
    tifffile.imwrite(
        file,
        in_order(_packed, _tiff_strips(pixels, metadata, order=order, rows=rows)),
        shape=(height, width, channels) if channels > 1 else (height, width),
        dtype=pixels.dtype,
        rowsperstrip=rows,
        bigtiff=height * row_bytes + _metadata_bytes(metadata) > _CLASSIC_BYTES,
        byteorder=order,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=_tiff_alpha(channels, metadata),
        compression="zlib",
        predictor=True,
        iccprofile=metadata.icc,
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        metadata=None,
        software=False,
        extratags=_tiff_range(channels, pixels.dtype, metadata),
    )
    if added:
        _graft(file, added)


def _tiff_strips(
    pixels: Strips, metadata: Metadata, *, order: Literal["<", ">"], rows: int
) -> Iterator[NDArray[Any]]:
    """Yield the strips ``(y, x, c)`` of a file, as their samples are stored."""
    channels, _, width = pixels.shape
    premultiplied = _tiff_alpha(channels, metadata) == ["assocalpha"]
    many = rows * max(1, _BAND_BYTES // (rows * channels * width * pixels.dtype.itemsize))
    for band in recut(ahead(pixels), many):
        stored = _premultiplied(band) if premultiplied else band
        if metadata.value_range is not None and stored.dtype == np.float32:
            stored = from_unit(stored, metadata.value_range)
        last = np.moveaxis(stored, 0, 2).astype(stored.dtype.newbyteorder(order), order="C")
        for start in range(0, len(last), rows):
            yield last[start : start + rows]


def _packed(strip: NDArray[Any]) -> bytes:
    """Return a strip ``(y, x, c)`` as it is compressed: differences along its rows, by Deflate."""
    predict = imagecodecs.floatpred_encode if strip.dtype.kind == "f" else imagecodecs.delta_encode
    return bytes(imagecodecs.deflate_encode(predict(strip, axis=-2).tobytes()))


def _metadata_bytes(metadata: Metadata) -> int:
    blocks = (metadata.icc, metadata.exif, metadata.xmp, metadata.iptc, metadata.photoshop)
    return sum(len(block) for block in blocks if block)


def _graft(file: BinaryIO, added: tuple[Tag, ...]) -> None:
    """Add entries to the directory of a file, which moves to the end of the file."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    with tifffile.TiffFile(file) as written:
        start = int(written.pages[0].aspage().dataoffsets[0])
    file.seek(0)
    first, last = grafted(file.read(start), added, size=size)
    file.seek(0)
    file.write(first)
    file.seek(size)
    file.write(last)


def _tiff_alpha(channels: int, metadata: Metadata) -> list[str] | None:
    """Return the kind of the alpha: premultiplied where the origin's was."""
    if channels not in (2, 4):
        return None
    return ["assocalpha"] if "a" in metadata.mode else ["unassalpha"]


def _premultiplied(pixels: NDArray[Any]) -> NDArray[Any]:
    top = float(WHITE[pixels.dtype.name])
    colours = pixels[:-1] * (pixels[-1:].astype(np.float64) / top)
    if pixels.dtype != np.float32:
        colours = np.rint(colours)
    return np.concatenate([colours.astype(pixels.dtype), pixels[-1:]])


def _tiff_range(
    count: int, dtype: np.dtype[Any], metadata: Metadata
) -> list[tuple[int, str, int, Any, bool]]:
    """Return the tags that declare the value range of the origin, in which the samples are."""
    if metadata.value_range is None or dtype != np.float32:
        return []
    tags = zip((340, 341), metadata.value_range, strict=True)
    return [
        (code, "f", count, (value,) * count if count > 1 else value, True) for code, value in tags
    ]
