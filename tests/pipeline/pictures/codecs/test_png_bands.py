"""The rows of a PNG: filtered as libpng does it, and compressed as suits what is in them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.pictures.codecs import png
from pipeline.pictures.codecs.png_bands import filtered_bands, packed
from pipeline.pictures.files import encode_strips
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import channels_last
from pipeline.pictures.strips import OneStrip
from tests.pipeline.pictures.test_strips import Cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.pictures.strips import Strips
    from tests.conftest import TakePhoto


def encoded(pixels: Strips) -> bytes:
    file = io.BytesIO()
    encode_strips(pixels, Metadata(format="none", mode="RGB"), file, name="a", format="png")
    return file.getvalue()


def by_libpng(pixels: NDArray[Any]) -> bytes:
    data: bytes = imagecodecs.png_encode(
        channels_last(pixels),
        level=3,
        strategy=imagecodecs.PNG.STRATEGY.RLE,
        filter=imagecodecs.PNG.FILTER.PAETH,
        out=2 * pixels.nbytes + 8 * pixels.shape[1] + 4096,
    )
    return data


def rows_of(data: bytes) -> bytes:
    """Return the filtered rows in a PNG file, whose checksums are right."""
    bodies, at = [], 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        assert int.from_bytes(data[at + 8 + size : at + 12 + size], "big") == zlib.crc32(
            kind + body
        )
        assert size <= 8192
        if kind == b"IDAT":
            bodies.append(body)
        at += 12 + size
    return zlib.decompress(b"".join(bodies))


@given(
    pixels=arrays.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        # Of a single row or column, libpng filters nothing.
        st.tuples(st.integers(1, 4), st.integers(2, 9), st.integers(2, 9)),
    ),
    rows=st.integers(1, 9),
)
def test_they_are_those_of_libpng_wherever_the_picture_is_cut(
    pixels: NDArray[Any], rows: int
) -> None:
    bands = list(filtered_bands(Cut(pixels, rows)))
    assert b"".join(band.tobytes() for band in bands) == rows_of(by_libpng(pixels))
    assert zlib.decompress(b"".join(packed(bands))) == rows_of(by_libpng(pixels))


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("band_bytes", [1, 3000, 1 << 20])
def test_a_file_in_bands_has_the_rows_of_libpng(
    band_bytes: int, threads: bool, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "_BAND_BYTES", band_bytes)
    monkeypatch.setattr(png, "_WHOLE_BYTES", 0 if threads else 1 << 25)
    pixels = photo(400, 150)
    assert rows_of(encoded(Cut(pixels, 41))) == rows_of(by_libpng(pixels))


def test_values_that_are_far_apart_are_predicted_as_by_libpng() -> None:
    pixels = np.random.default_rng(3).choice(
        np.array([0, 1, 2, 127, 128, 254, 255], np.uint8), (3, 300, 200)
    )
    assert rows_of(encoded(OneStrip(pixels))) == rows_of(by_libpng(pixels))


def test_a_photograph_is_within_a_percent_of_run_lengths_and_every_row_is_filtered(
    photo: TakePhoto,
) -> None:
    pixels = photo(200, 150)
    data, whole = encoded(Cut(pixels, 41)), by_libpng(pixels)
    assert abs(len(data) - len(whole)) < 0.01 * len(whole)
    assert {rows_of(data)[start] for start in range(0, 200 * 451, 451)} == {4}


def test_a_drawing_and_a_picture_of_both_are_as_small_as_with_run_lengths(
    photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "_BAND_BYTES", 90_000)
    drawing = np.full((3, 400, 300), 250, np.uint8)
    drawing[:, 50:350:7, 20:280] = 17
    assert len(encoded(OneStrip(drawing))) < len(by_libpng(drawing)) + 200  # Heads of bands.
    both = np.concatenate([drawing, photo(400, 300), drawing], axis=1)
    assert len(encoded(OneStrip(both))) < 1.02 * len(by_libpng(both))
