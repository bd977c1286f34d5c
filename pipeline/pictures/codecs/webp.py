"""WebP files: read by libwebp, written by Pillow."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

import imagecodecs
import numpy as np

from pipeline.errors import PictureError
from pipeline.pictures.codecs.declared import check_decoded, check_size, filled
from pipeline.pictures.codecs.pillow import save
from pipeline.pictures.metadata.exif import PREFIX as EXIF_PREFIX
from pipeline.pictures.metadata.metadata import Metadata, in_words
from pipeline.pictures.picture import channels_first, mode_of
from pipeline.pictures.strips import Changed
from pipeline.storage.large_arrays import is_large, large_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.pictures.strips import Strips


def read_webp(data: bytes, max_pixels: int) -> tuple[NDArray[Any], Metadata]:
    """Read the one frame, lossy or not, at the size of its own bitstream."""
    chunks = _webp_chunks(data)
    if b"ANMF" in chunks or b"ANIM" in chunks:
        raise PictureError("is an animation, expected one frame; export the frames as files")
    width, height = _webp_size(chunks)
    check_size(width, height, max_pixels)
    pixels = channels_first(imagecodecs.webp_decode(data, out=_large(chunks, height, width)))
    check_decoded(pixels, height, width)
    exif = filled(chunks.get(b"EXIF"))
    metadata = Metadata(
        format="webp",
        mode=mode_of(pixels.shape[0], pixels.dtype),
        icc=filled(chunks.get(b"ICCP")),
        exif=filled(exif.removeprefix(EXIF_PREFIX)) if exif else None,
        xmp=filled(chunks.get(b"XMP ")),
        notes=tuple(_webp_notes(data, chunks)),
    )
    return pixels, metadata


def _large(chunks: dict[bytes, bytes], height: int, width: int) -> NDArray[Any] | None:
    """Return where the pixels of a large picture are put, None of others."""
    alpha = b"ALPH" in chunks or bool(chunks.get(b"VP8X", b"\0")[0] & _ALPHA_FLAG)
    if b"VP8L" in chunks:
        alpha = bool(struct.unpack_from("<I", chunks[b"VP8L"], 1)[0] >> 28 & 1) or alpha
    shape = (height, width, 4 if alpha else 3)
    return large_array(shape, np.uint8) if is_large(shape, np.uint8) else None


def _webp_notes(data: bytes, chunks: dict[bytes, bytes]) -> Iterator[str]:
    """Yield a note for each part of the file that is not kept."""
    for kind, body in chunks.items():
        if kind not in _WEBP_CHUNKS:
            yield f"WebP chunk {kind.decode('latin-1')} ({in_words(len(body))}) was not kept"
    behind = data[8 + int(struct.unpack_from("<I", data, 4)[0]) :]
    if behind.strip(b"\0"):
        yield f"data after the picture: {in_words(len(behind))}, not kept"


_ALPHA_FLAG = 0x10
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
            raise PictureError(
                f"chunk {kind!r} at byte {at} reaches beyond the end of the file; it is damaged"
            )
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
    raise PictureError("holds no VP8 or VP8L chunk, expected one; the file is damaged")


def write_webp(file: BinaryIO, pixels: Strips, metadata: Metadata, quality: int) -> None:
    """Write without loss; grey as equal RGB. The encoder takes the whole picture at once."""
    if pixels.shape[0] <= 2:
        pixels = _as_rgb(pixels)
        if metadata.icc and metadata.icc[16:20] == b"GRAY":
            metadata = replace(metadata, icc=None)  # It cannot describe RGB.
    # "exact" keeps the colours below full transparency.
    options = {"lossless": True, "exact": True}
    file.write(save(pixels, "WEBP", metadata, options))


def _as_rgb(grey: Strips) -> Strips:
    return Changed(grey, lambda strip: np.concatenate([strip[:1], strip[:1], strip]), more=2)
