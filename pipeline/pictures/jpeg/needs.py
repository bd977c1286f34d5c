"""What decoding a JPEG needs, by its headers: nothing is decoded.

What belongs here: sizes. Not: whether the data is all there (`stream`).
"""

from __future__ import annotations

from pipeline.pictures.jpeg.scans import PROGRESSIVE, Tables, scans_of

_BLOCK_BYTES = 8 * 8 * 2


def decoding_needs(data: bytes) -> tuple[tuple[int, int], int] | None:
    """Return (rows, columns) of the picture, and the bytes that its decoder holds beside pixels.

    libjpeg keeps all coefficients of a picture that comes in several scans, and a few rows of
    others. None where there are no scans.
    """
    tables = Tables()
    first = next(scans_of(data, tables), None)
    frame = tables.frame
    if first is None or frame is None:
        return None
    kept = frame.kind in PROGRESSIVE or len(first.components) < len(frame.sampling)
    blocks = sum(frame.units((component,)) for component in frame.sampling)
    return (frame.height, frame.width), blocks * _BLOCK_BYTES if kept else 0
