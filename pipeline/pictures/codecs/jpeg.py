"""JPEG files, by Pillow, with their structure checked."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import imagecodecs
import numpy as np
from PIL import JpegImagePlugin

from pipeline.errors import PictureError
from pipeline.pictures.codecs.declared import check_size, filled, usable_dpi
from pipeline.pictures.codecs.pillow import save
from pipeline.pictures.jpeg import segments as jpeg_segments
from pipeline.pictures.jpeg.joining import interval_rows, join
from pipeline.pictures.jpeg.scans import read_frame
from pipeline.pictures.jpeg.stream import check_whole
from pipeline.pictures.metadata.exif import PREFIX as EXIF_PREFIX
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import channels_first
from pipeline.pictures.strips import OneStrip, ahead, recut
from pipeline.storage.large_arrays import is_large, large_array
from pipeline.storage.spool import as_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.pictures.strips import Strips


def read_jpeg(data: bytes, max_pixels: int) -> tuple[NDArray[Any], Metadata]:
    """Read the first picture; a phone's previews and gain maps after it are not frames."""
    read_frame(data)
    with opened_jpeg(data) as image:
        check_size(*image.size, max_pixels)
        if image.mode not in ("L", "RGB"):
            raise PictureError(f"colours are {image.mode}, expected grey or RGB; convert to RGB")
        try:
            samples = _samples(data, image)
        except Exception:  # Of either decoder.
            check_whole(data, None, decode=_jpeg_samples)  # Tells what is missing, if it sees it.
            raise
        check_whole(data, samples, decode=_jpeg_samples)
        pixels = channels_first(samples)
        info = image.info
    exif = filled(info.get("exif"))
    extras = jpeg_segments.extras(data)
    metadata = Metadata(
        format="jpeg",
        mode=image.mode,
        icc=filled(info.get("icc_profile")),
        exif=filled(exif.removeprefix(EXIF_PREFIX)) if exif else None,
        xmp=filled(info.get("xmp")),
        dpi=usable_dpi(info.get("dpi")),
        xmp_extended=extras.xmp_extended,
        iptc=extras.iptc,
        photoshop=extras.photoshop,
        comments=extras.comments,
        notes=extras.notes,
    )
    return pixels, metadata


def opened_jpeg(data: bytes) -> JpegImagePlugin.JpegImageFile:
    """Return a JPEG whose header was read, whatever size it declares."""
    # The class instead of Image.open: that applies Pillow's own, process-wide bomb bound.
    with _silent():
        return JpegImagePlugin.JpegImageFile(as_file(data))


def _jpeg_samples(data: bytes) -> NDArray[Any]:
    with opened_jpeg(data) as image:
        return _samples(data, image)


def _samples(data: bytes, image: JpegImagePlugin.JpegImageFile) -> NDArray[Any]:
    """Return ``(y, x)`` or ``(y, x, c)``; Pillow takes 10 bytes a pixel for that, libjpeg none."""
    channels = len(image.getbands())
    shape = (image.height, image.width, channels)[: 3 if channels > 1 else 2]
    if not is_large(shape, np.uint8):
        return np.asarray(image)
    samples = large_array(shape, np.uint8)
    imagecodecs.jpeg8_decode(data, out=samples)
    return samples


_SILENCE = threading.Lock()
_WHOLE_PIXELS = 3 * 2**24
"""A picture of no more is compressed at once, in 5 bytes a pixel, without restart markers."""


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Pillow's warnings on odd EXIF inside; the lock as warning filters are process-wide."""
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_jpeg(file: BinaryIO, pixels: Strips, metadata: Metadata, quality: int) -> None:
    """Write 4:4:4, a large picture in strips with restart markers between them."""
    _, height, width = pixels.shape
    if height * width <= _WHOLE_PIXELS:
        file.write(_encoded(pixels, metadata, quality))
        return
    rows = interval_rows(width)
    plain = Metadata(format="jpeg", mode=metadata.mode)  # Only the first strip's header is used.
    strips = (
        _encoded(OneStrip(strip), plain if number else metadata, quality)
        for number, strip in enumerate(recut(ahead(pixels), rows))
    )
    join(file, strips, width=width, height=height, rows=rows)


def _encoded(pixels: Strips, metadata: Metadata, quality: int) -> bytes:
    """Return a JPEG, with what Pillow does not write put in as segments after its own."""
    options: dict[str, Any] = {"quality": quality, "subsampling": 0}
    if dpi := metadata.dpi:
        options["dpi"] = tuple(min(65535, max(1, round(value))) for value in dpi)
    segments = [
        *jpeg_segments.extended_segments(metadata.xmp_extended or b""),
        *jpeg_segments.photoshop_segments(metadata.iptc, metadata.photoshop),
        *jpeg_segments.comment_segments(metadata.comments),
    ]
    data = save(pixels, "JPEG", metadata, options)
    return jpeg_segments.with_segments(data, segments) if segments else data
