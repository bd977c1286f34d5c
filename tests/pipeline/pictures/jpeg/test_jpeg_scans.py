"""What a JPEG declares itself to be, and where its scans are."""

from __future__ import annotations

import io
from itertools import pairwise

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from skimage import data

from pipeline.errors import PictureError
from pipeline.pictures.files import decode_picture
from pipeline.pictures.jpeg.scans import EOI, Tables, read_frame, scans_of

COLOURS = data.astronaut()[:75, :101]


def encoded(**how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOURS).save(file, "jpeg", **how)
    return file.getvalue()


def test_the_frame_says_size_and_sampling_and_how_many_units_that_makes() -> None:
    frame = read_frame(encoded(subsampling="4:2:0"))
    assert (frame.kind, frame.bits, frame.height, frame.width) == (0xC0, 8, 75, 101)
    assert frame.sampling == {1: (2, 2), 2: (1, 1), 3: (1, 1)}
    # 7 x 5 units of 16 px; alone, luma has blocks of 8 px, and chroma half as many a side.
    assert frame.units((1, 2, 3)) == 7 * 5
    assert (frame.units((1,)), frame.units((2,))) == (13 * 10, 7 * 5)


def test_one_scan_has_all_the_data_up_to_the_end_marker() -> None:
    file = encoded(restart_marker_rows=1, subsampling="4:4:4")
    (scan,) = scans_of(file, Tables())
    assert (scan.components, scan.first, scan.last) == ((1, 2, 3), 0, 63)
    assert (scan.interval, scan.restarts) == (13, tuple(n % 8 for n in range(9)))
    assert scan.marker == EOI
    assert file[scan.end :] == b"\xff\xd9"
    assert len(scan.ends) == 10


def test_what_is_cut_off_ends_without_a_marker() -> None:
    file = encoded()
    (scan,) = scans_of(file[:-100], Tables())
    assert (scan.marker, scan.end) == (None, len(file) - 100)


def test_a_progressive_picture_has_scans_that_refine_others() -> None:
    file = encoded(progressive=True)
    scans = list(scans_of(file, Tables()))
    assert len(scans) > 2
    assert {scan.low for scan in scans} >= {0, 1}
    assert all(a.end < b.start for a, b in pairwise(scans))


def test_a_file_without_a_frame_is_refused() -> None:
    with pytest.raises(PictureError, match="holds no frame header before its data"):
        read_frame(b"\xff\xd8\xff\xd9")


def test_twelve_bits_are_called_so() -> None:
    file = imagecodecs.jpeg8_encode(COLOURS.astype(np.uint16) * 16, bitspersample=12)
    with pytest.raises(PictureError, match="samples are 12-bit, expected 8"):
        decode_picture(file, name="a.jpg")
