"""CCITT compression: every whole row is read as libtiff writes it, no damaged one is made white."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from pipeline.errors import PictureError
from pipeline.pictures.fax import GROUP_3, GROUP_4, HUFFMAN, decode_fax
from tests.examples import examples

if TYPE_CHECKING:
    from numpy.typing import NDArray

WAYS = [
    ("tiff_ccitt", 0),
    ("group3", 0),
    ("group3", 1),
    ("group3", 4),
    ("group3", 5),
    ("group4", 0),
]
NUMBERS = {"tiff_ccitt": HUFFMAN, "group3": GROUP_3, "group4": GROUP_4}


def compressed(black: NDArray[np.bool_], way: str, options: int) -> bytes:
    """Return one strip as libtiff writes it."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[278] = len(black)
    if options:
        tags[292] = options
    file = io.BytesIO()
    Image.fromarray(black).save(file, "TIFF", compression=way, tiffinfo=tags)
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as whole:
        page: Any = whole.pages[0]
        assert len(page.dataoffsets) == 1
        assert page.photometric == 1
        return file.getvalue()[page.dataoffsets[0] :][: page.databytecounts[0]]


def blots(seed: int, rows: int, width: int) -> NDArray[np.bool_]:
    """Return runs of all lengths, and rows that look like the one above."""
    generator = np.random.default_rng(seed)
    run, share = int(generator.integers(1, 200)), generator.random()
    few = generator.random((-(-rows // 3), -(-width // run))) < share
    return np.kron(few, np.ones((3, run), bool))[:rows, :width] ^ (
        generator.random((rows, width)) < 0.02
    )


@examples(40)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 12),
    width=st.integers(1, 3000),
    way=st.sampled_from(WAYS),
)
def test_what_libtiff_writes_is_read_to_the_pixel(
    seed: int, rows: int, width: int, way: tuple[str, int]
) -> None:
    black = blots(seed, rows, width)
    got = decode_fax(
        compressed(black, *way),
        rows=rows,
        width=width,
        compression=NUMBERS[way[0]],
        options=way[1],
    )
    np.testing.assert_array_equal(got, black)


@pytest.mark.parametrize("way", WAYS)
def test_data_that_ends_before_the_rows_do_is_refused(way: tuple[str, int]) -> None:
    black = blots(1, 20, 500)
    black[15:] = False  # White below is what others make up.
    black[-1, -1] = True
    data = compressed(black, *way)
    for size in range(1, len(data) - 12, 3):
        with pytest.raises(PictureError, match=r"row \d+ of 20 is damaged or missing; restore"):
            decode_fax(data[:size], rows=20, width=500, compression=NUMBERS[way[0]], options=way[1])


@pytest.mark.parametrize("way", WAYS)
def test_bits_that_are_no_code_are_refused(way: tuple[str, int]) -> None:
    data = bytearray(compressed(blots(2, 20, 500), *way))
    data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
    with pytest.raises(PictureError, match="is damaged or missing"):
        decode_fax(bytes(data), rows=20, width=500, compression=NUMBERS[way[0]], options=way[1])


def test_a_row_wider_than_the_picture_is_refused() -> None:
    data = compressed(blots(3, 4, 64), "tiff_ccitt", 0)
    with pytest.raises(PictureError, match="row 1 of 4 is damaged"):
        decode_fax(data, rows=4, width=63, compression=HUFFMAN)
