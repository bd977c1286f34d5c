"""Picture files: bytes to a `Picture` and back, with the metadata that travels along.

Reading never guesses and never repairs: a file that is damaged, of another kind, or larger than the
bound is a `PictureError`. JPEG and lossy WebP hold no checksum, so damage inside their compressed
data is noticed only where it breaks the stream, or the structure of a JPEG (`jpeg.stream`).

What belongs here: what all formats have in common. Not: one format (`codecs`), where the bytes come
from (`sources`), nor archives.
"""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pipeline.errors import DiskError, PictureError, UpresError, in_one_line
from pipeline.pictures.codecs.previews import thumbnail
from pipeline.pictures.formats import READ, holding, recognised
from pipeline.pictures.kinds import called
from pipeline.pictures.metadata import travel
from pipeline.pictures.metadata.metadata import plain
from pipeline.pictures.metadata.orientation import upright
from pipeline.pictures.metadata.target import Target
from pipeline.pictures.picture import Picture
from pipeline.pictures.raws import raw_magic, raw_tiff
from pipeline.pictures.signatures import HEAD_BYTES, described
from pipeline.pictures.strips import OneStrip
from pipeline.storage.access import EVERYONE
from pipeline.storage.atomic import replace_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.pictures.formats import Format
    from pipeline.pictures.metadata.metadata import Metadata
    from pipeline.pictures.strips import Strips

MAX_PIXELS = 1_000_000_000
"""Rows times columns that a file may declare; above it is taken for a decompression bomb."""


def read_picture(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Return the one picture in a file's bytes, as `decode_picture`, C-contiguous and writable."""
    picture = decode_picture(data, name=name, max_pixels=max_pixels)
    return replace(picture, pixels=np.require(picture.pixels, requirements=["C", "W"]))


def decode_picture(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Return the one picture in a file's bytes, upright, at the file's own depth.

    The pixels may be a view in any order of memory, which spares a large picture its second copy,
    and read-only. Within `spooling_in` large ones are on the disk.
    `name` is the file's name, which stands in every error; the bytes decide the format. Size is
    checked before anything is decoded. CMYK, several frames and every other kind that is not
    listed at `Picture` are refused.

    Raises:
        PictureError: In one line, whatever the bytes are.
    """
    name = in_one_line(name)
    format = _sniff(data, name=name)
    if format.name == "tiff" and (kind := raw_tiff(data, name=name)):
        raise PictureError(
            f"{name}: is a camera raw ({kind}), of which only a small preview could be read, "
            f"expected {READ}; develop it first, for instance to 16-bit TIFF"
        )
    try:
        pixels, metadata = format.read(data, max_pixels)
        metadata = replace(metadata, notes=plain(metadata.notes))
        return upright(Picture(pixels=pixels, metadata=metadata))
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except DiskError:
        raise  # Not of the file, but of where large pictures are decoded.
    except Exception as error:  # Decoders raise anything on damaged bytes, MemoryError included.
        words = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, UnicodeDecodeError):  # Of a decoder that fails to say what is wrong.
            words = "its decoder refuses it"
        raise PictureError(
            f"{name}: damaged or truncated {format.name.upper()} of {len(data)} bytes ({words}), "
            f"expected a whole file; restore it from its origin"
        ) from error


def _sniff(data: bytes, *, name: str) -> Format:
    """Return the format that the bytes declare, whatever the name promises."""
    format = recognised(data)
    if format is None:
        words = described(data[:HEAD_BYTES], called=called(name))
        step = "develop it first, for instance to 16-bit TIFF" if raw_magic(data) else "convert it"
        raise PictureError(f"{name}: {words}, expected {READ}; {step}")
    return format


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
    file, pixels = io.BytesIO(), OneStrip(picture.pixels)
    notes = encode_strips(pixels, picture.metadata, file, name=name, format=format, quality=quality)
    return file.getvalue(), notes


def encode_strips(
    pixels: Strips,
    metadata: Metadata,
    file: BinaryIO,
    *,
    name: str,
    format: str,
    quality: int = 95,
) -> tuple[str, ...]:
    """Write a picture as `encode_picture` into a new file, and return notes.

    Memory does not grow with the picture, except for WebP, whose encoder takes all of it at once.
    The file is one that can be read and sought, and is not whole where this raises.

    Raises:
        PictureError: As `encode_picture`.
        UpresError: What reading the pixels raises.
        OSError: The file system refuses.
    """
    channels, height, width = pixels.shape
    target = Target(
        format=holding(format, pixels.shape, pixels.dtype.name),
        width=width,
        height=height,
        channels=channels,
        dtype=pixels.dtype.name,
        thumbnail=partial(thumbnail, pixels),
    )
    if not 1 <= quality <= 100:
        raise PictureError(f"quality is {quality}, expected 1 to 100")
    try:
        fitted, notes = travel.fitted(metadata, target)
        target.format.write(file, pixels, fitted, quality)
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except UpresError:
        raise
    except Exception as error:  # Encoders raise anything, such as on metadata above a limit.
        if isinstance(error, OSError) and error.errno:
            raise  # Of the file system: encoders do not number theirs.
        raise PictureError(
            f"{name}: cannot be written as {format.upper()} ({error}); write TIFF instead"
        ) from error
    return notes
