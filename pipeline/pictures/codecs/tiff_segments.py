"""The strips and tiles of a TIFF, decoded one by one: each is whole, every pixel comes from one.

Decoders fill up what is missing, or leave memory as it was, and do not say so; tifffile stretches
some parts over a place of another shape. Here every part has to be of the size that is declared.
Source: TIFF 6.0, sections 9 to 11, 13 to 15 and 22.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import imagecodecs
import numpy as np

from pipeline.errors import PictureError
from pipeline.pictures.codecs.declared import check_size
from pipeline.pictures.fax import GROUP_3, GROUP_4, HUFFMAN, decode_fax
from pipeline.pictures.jpeg.scans import read_frame
from pipeline.pictures.jpeg.stream import check_whole
from pipeline.storage.large_arrays import is_large, large_array

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tifffile import TiffPage

    _Decoded = tuple[NDArray[Any], tuple[int, ...], tuple[int, ...]]
    """Pixels ``(1, y, x, samples)``, where they begin in the page's, and the declared shape."""

_LZW, _JPEG = 5, 7
_FAX = (HUFFMAN, GROUP_3, GROUP_4)
_T4_OPTIONS = 292
_MIRRORED = 2
"""Value of the tag FillOrder: bits come from the lowest of a byte."""
_END_OF_LZW, _LEAST_CODE = 257, 9
# Longer than a code.
_PADS = (b"\0\0\0", b"\xff\xff\xff")


def decode_segments(page: TiffPage, data: bytes, max_pixels: int) -> NDArray[Any]:
    """Return the samples of a page in the shape of its axes, all of them from the file.

    Raises:
        PictureError: A strip or tile is missing, ends early, or is of another size than declared.
    """
    for name, value, known in (
        ("planar configuration", page.planarconfig, (1, 2)),
        ("fill order", page.fillorder, (1, 2)),
    ):
        if value not in known:
            raise PictureError(f"its {name} is {value!r}, expected 1 or 2; the file is damaged")
    _check_places(page, data, max_pixels)
    if page.is_contiguous:
        return _contiguous(page, data)
    samples = large_array(page.shaped, cast("np.dtype[Any]", page.dtype))
    filled = 0
    for index, (offset, size) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        part = _Segment(page, data[offset : offset + size], index)
        try:
            filled += part.fill(samples)
        except PictureError as error:
            raise PictureError(f"{part.name}: {error}") from None
    if filled != samples.size:
        raise PictureError(f"holds {filled} of {samples.size} samples; the file is damaged")
    return samples.reshape(page.shape)


def _contiguous(page: TiffPage, data: bytes) -> NDArray[Any]:
    dtype = cast("np.dtype[Any]", page.dtype)
    if not is_large(page.shape, dtype) or page.fillorder == _MIRRORED:
        return page.asarray(maxworkers=1)
    dtype = dtype.newbyteorder(page.parent.byteorder)
    count = math.prod(page.shape)
    # The samples are part of the file's bytes, which nobody changes.
    return np.frombuffer(data, dtype, count, page.dataoffsets[0]).reshape(page.shape)


def _check_places(page: TiffPage, data: bytes, max_pixels: int) -> None:
    """Require every strip or tile to stand in the file."""
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
        check_size(width, height, max_pixels)
        wanted = math.ceil(page.imagelength / height) * math.ceil(page.imagewidth / width) * planes
    else:
        height = min(page.rowsperstrip, page.imagelength)
        wanted = math.ceil(page.imagelength / max(1, height)) * planes
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if not len(page.dataoffsets) == len(page.databytecounts) == wanted and not page.is_contiguous:
        raise PictureError(f"lists {len(places)} strips or tiles, wanted {wanted}; it is damaged")
    if empty := sum(1 for offset, size in places if offset == 0 or size == 0):
        raise PictureError(
            f"holds no data for {empty} of its {len(places)} strips or tiles (a sparse file, such "
            f"as GDAL writes), expected all of them; write it again in full, with SPARSE_OK=FALSE"
        )
    for offset, size in places:
        if offset < 8 or size < 1 or offset + size > len(data):
            raise PictureError(
                f"a strip or tile is at bytes {offset} to {offset + size}, "
                f"the file has {len(data)}; it is truncated or damaged"
            )
    if page.is_contiguous and (declared := sum(page.databytecounts)) < page.nbytes:
        raise PictureError(
            f"holds {declared} bytes of pixels, expected {page.nbytes}; it is truncated or damaged"
        )


@dataclass(frozen=True, slots=True)
class _Segment:
    """One strip or tile."""

    page: TiffPage
    data: bytes
    index: int

    @property
    def name(self) -> str:
        kind = "tile" if self.page.is_tiled else "strip"
        return f"{kind} {self.index + 1} of {len(self.page.dataoffsets)}"

    def fill(self, samples: NDArray[Any]) -> int:
        """Write the decoded part to its place, and return how many samples that were."""
        pixels, (plane, _, top, left, _), shape = self._decoded()
        rows = min(shape[1], samples.shape[2] - top)
        columns = min(shape[2], samples.shape[3] - left)
        # Only a JPEG says itself how wide it is; others must be as wide as declared.
        least = columns if self.page.compression == _JPEG else shape[2]
        depth, height, width, count = pixels.shape
        if depth != 1 or height < rows or width < least or count != samples.shape[4]:
            raise PictureError(
                f"holds {width} x {height} pixels of {count} samples, expected {shape[2]} x {rows} "
                f"of {samples.shape[4]}; the file is damaged"
            )
        place = samples[plane, 0, top : top + rows, left : left + columns]
        place[...] = pixels[0, :rows, :columns]
        return int(place.size)

    def _decoded(self) -> _Decoded:
        if self.page.compression == _JPEG:
            return self._jpeg()
        if self.page.compression == _LZW:
            return self._lzw()
        if self.page.compression in _FAX:
            return self._fax()
        return self._decode(self.data)

    def _decode(self, data: bytes | None) -> _Decoded:
        return cast("_Decoded", self.page.decode(data, self.index))

    def _jpeg(self) -> _Decoded:
        _, start, shape = self._decode(None)
        # The tables in front, as in a file of its own.
        tables = self.page.jpegtables or b""
        whole = tables.removesuffix(b"\xff\xd9") + self.data[2:] if tables else self.data
        self._check_frame(whole, start, shape)

        def decode(data: bytes) -> NDArray[Any]:
            return cast("NDArray[Any]", self._decode(data)[0][0])

        try:
            pixels = decode(whole)
        except Exception:
            check_whole(whole, None, decode=decode)  # Says what is missing, if it sees it.
            raise
        check_whole(whole, pixels, decode=decode)
        return pixels[np.newaxis], start, shape

    def _check_frame(self, data: bytes, start: tuple[int, ...], shape: tuple[int, ...]) -> None:
        """Refuse a JPEG of another size, or another number of components, than the tags say."""
        frame = read_frame(data)
        rows = min(shape[1], self.page.imagelength - start[2])
        columns = min(shape[2], self.page.imagewidth - start[3])
        size = (frame.width, frame.height)
        if self.page.is_tiled:  # At the edges some writers leave out what is not shown.
            fits = size in ((shape[2], shape[1]), (shape[2], rows), (columns, rows))
        else:  # The last one may be as high as the others.
            most = min(self.page.rowsperstrip, self.page.imagelength)
            fits = frame.width == columns and rows <= frame.height <= most
        if not fits:
            raise PictureError(
                f"its JPEG is {frame.width} x {frame.height} pixels, expected {shape[2]} x "
                f"{shape[1]}; the file is damaged"
            )
        if len(frame.sampling) != shape[3]:
            raise PictureError(
                f"its JPEG has {len(frame.sampling)} components, expected {shape[3]}; the file is "
                f"damaged"
            )

    def _lzw(self) -> _Decoded:
        """Decode with zeros after the data where it lacks its end code.

        Without one, imagecodecs 2026.3 misreads the last bits; with them it may read too many.
        """
        if self._ends_in_lzw():
            return self._decode(self.data)
        _, _, shape = self._decode(None)
        wanted = shape[1] * -(-shape[2] * shape[3] * self.page.bitspersample // 8)
        try:
            first, second = (
                imagecodecs.lzw_decode(self._ordered(self.data) + pad, out=wanted) for pad in _PADS
            )
        except imagecodecs.LzwError:
            first, second = b"", b""
        # What stands behind whole data does not matter.
        if len(first) < wanted or first != second:
            raise PictureError(
                "its LZW data ends before the pixels do; restore the file from its origin"
            )
        return self._decode(self.data + _PADS[0])

    def _ordered(self, data: bytes) -> bytes:
        """Return data whose bits come from the highest of a byte."""
        mirrored = self.page.fillorder == _MIRRORED
        return bytes(imagecodecs.bitorder_decode(data)) if mirrored else data

    def _ends_in_lzw(self) -> bool:
        bits = int.from_bytes(self._ordered(self.data[-3:]), "big")
        unused = (bits & -bits).bit_length() - 1
        return 0 <= unused < 8 and (bits >> unused) & ((1 << _LEAST_CODE) - 1) == _END_OF_LZW

    def _fax(self) -> _Decoded:
        _, start, shape = self._decode(None)
        pixels = decode_fax(
            self._ordered(self.data),
            rows=shape[1],
            width=shape[2],
            compression=int(self.page.compression),
            options=int(self.page.tags.valueof(_T4_OPTIONS) or 0),
        )
        return pixels[np.newaxis, ..., np.newaxis], start, shape
