"""Strips and tiles of TIFFs that are not whole are refused; no pixel comes from anywhere else."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage import data as images

from pipeline.errors import PictureError
from pipeline.pictures.files import read_picture

COLOURS = np.ascontiguousarray(images.astronaut()[:100, :120])
PLANES = np.ascontiguousarray(np.moveaxis(COLOURS, 2, 0))
BLACK = COLOURS[..., 0] < 128
TILES = {"tile": (32, 48)}
STRIPS = {"rowsperstrip": 32}


def tiff(pixels: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


FILES = {
    **{
        f"{way} {place}": tiff(COLOURS, compression=way, photometric="rgb", **options)
        for way in ("zlib", "lzw", "packbits", "zstd", "lzma")
        for place, options in (("strips", STRIPS), ("tiles", TILES))
    },
    "lzw, differences": tiff(
        COLOURS, compression="lzw", predictor=True, photometric="rgb", **STRIPS
    ),
    "lzw, one bit": tiff(BLACK, compression="lzw", photometric="minisblack", **STRIPS),
    "jpeg strips": tiff(COLOURS, compression="jpeg", photometric="ycbcr", **STRIPS),
    "jpeg tiles": tiff(COLOURS, compression="jpeg", photometric="ycbcr", **TILES),
    "jpeg rgb": tiff(COLOURS, compression="jpeg", photometric="rgb", **TILES),
    "jpeg grey": tiff(COLOURS[..., 0], compression="jpeg", **TILES),
    "jpeg planes": tiff(
        PLANES, compression="jpeg", photometric="rgb", planarconfig="separate", **TILES
    ),
}


def patched(
    data: bytes, segment: int, *, size: int | None = None, offset: int | None = None
) -> bytes:
    """Return the file with the byte count or the offset of a strip or tile changed."""
    changed = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        codes = (325, 324) if page.is_tiled else (279, 273)
        for code, value in zip(codes, (size, offset), strict=True):
            if value is not None:
                tag = page.tags[code]
                width = tag.valuebytecount // tag.count
                at = tag.valueoffset + segment * width
                struct.pack_into("<H" if width == 2 else "<I", changed, at, value)
    return bytes(changed)


def places(data: bytes) -> list[tuple[int, int]]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


def replaced(data: bytes, segment: int, other: bytes) -> bytes:
    """Return the file with the data of a strip or tile put at its end."""
    data += b"\0" * (len(data) % 2)
    return patched(data + other, segment, size=len(other), offset=len(data))


def refusal(data: bytes) -> str:
    with pytest.raises(PictureError) as caught:
        read_picture(data, name="a.tif")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read_to_the_pixel(name: str) -> None:
    data = FILES[name]
    want = tifffile.imread(io.BytesIO(data))
    want = want * np.uint8(255) if want.dtype == np.bool_ else want
    want = want if "planes" in name else np.moveaxis(np.atleast_3d(want), 2, 0)
    np.testing.assert_array_equal(read_picture(data, name="a.tif").pixels, want)


@pytest.mark.parametrize("name", FILES)
def test_a_strip_or_tile_that_ends_early_is_refused_or_changes_nothing(name: str) -> None:
    data = FILES[name]
    whole = read_picture(data, name="a.tif").pixels
    last = len(places(data)) - 1
    for segment in (0, last):
        size = places(data)[segment][1]
        for less in (1, 2, 3, 4, 6, size // 10, size // 2, size - 1):
            cut = patched(data, segment, size=size - less)
            try:
                pixels = read_picture(cut, name="a.tif").pixels
            except PictureError:
                continue
            assert less <= 40, "more than an end code, an index and checksums"
            np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize("name", ["lzw strips", "lzw, differences", "lzw, one bit"])
def test_lzw_without_its_end_code_is_read_to_the_pixel(name: str) -> None:
    data = FILES[name]
    whole = read_picture(data, name="a.tif").pixels
    for segment, (_, size) in enumerate(places(data)):
        got = read_picture(patched(data, segment, size=size - 1), name="a.tif").pixels
        np.testing.assert_array_equal(got, whole)


@pytest.mark.parametrize("name", FILES)
def test_sparse_files_are_refused_as_the_missing_pixels_have_no_value(name: str) -> None:
    words = refusal(patched(FILES[name], 1, size=0, offset=0))
    assert f"holds no data for 1 of its {len(places(FILES[name]))} strips or tiles" in words


def test_a_jpeg_that_ends_early_is_named_by_its_place() -> None:
    for name, kind in (("jpeg strips", "strip 2 of 4"), ("jpeg planes", "tile 2 of 36")):
        size = places(FILES[name])[1][1]
        words = refusal(patched(FILES[name], 1, size=size - 20))
        assert words.startswith(f"a.tif: {kind}: ends after "), words
        assert "without its end marker" in words


def one_jpeg(pixels: Any, **options: Any) -> bytes:
    """Return a picture as the one JPEG stream of a TIFF."""
    data = tiff(pixels, compression="jpeg", rowsperstrip=len(pixels), **options)
    ((offset, size),) = places(data)
    return data[offset : offset + size]


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("jpeg tiles", (16, 96), "its JPEG is 96 x 16 pixels, expected 48 x 32"),
        ("jpeg tiles", (48, 32), "its JPEG is 32 x 48 pixels, expected 48 x 32"),
        ("jpeg strips", (64, 60), "its JPEG is 60 x 64 pixels, expected 120 x 32"),
        ("jpeg strips", (31, 120), "its JPEG is 120 x 31 pixels, expected 120 x 32"),
    ],
)
def test_a_jpeg_of_another_size_than_its_place_is_refused(
    name: str, shape: tuple[int, int], wanted: str
) -> None:
    other = one_jpeg(COLOURS[: shape[0], : shape[1]], photometric="ycbcr")
    assert wanted in refusal(replaced(FILES[name], 0, other))


def test_a_jpeg_far_higher_than_the_picture_is_refused_before_decoding() -> None:
    data = tiff(COLOURS, compression="jpeg", photometric="ycbcr", rowsperstrip=100)
    high = bytearray(one_jpeg(COLOURS, photometric="ycbcr"))
    struct.pack_into(">H", high, high.index(b"\xff\xc0") + 5, 65500)
    many_rows = bytearray(replaced(data, 0, bytes(high)))
    tag = many_rows.index(struct.pack("<H", 278), 8)
    struct.pack_into("<HII", many_rows, tag + 2, 4, 1, 2**32 - 1)
    assert "its JPEG is 120 x 65500 pixels, expected 120 x 100" in refusal(bytes(many_rows))


def test_a_jpeg_of_another_number_of_components_is_refused() -> None:
    grey = one_jpeg(COLOURS[:32, :48, 0])
    assert "its JPEG has 1 components, expected 3" in refusal(
        replaced(FILES["jpeg tiles"], 0, grey)
    )
    colour = one_jpeg(COLOURS[:32, :48], photometric="ycbcr")
    assert "its JPEG has 3 components, expected 1" in refusal(
        replaced(FILES["jpeg grey"], 0, colour)
    )


def test_a_tile_at_the_edge_is_not_stretched_over_a_place_of_another_shape() -> None:
    data = tiff(COLOURS, compression="packbits", photometric="rgb", **TILES)
    # The rest of the picture there is 24 x 4 pixels, and so many bytes, but of another width.
    short = bytes([257 - 96, 9]) * 3
    assert "tile 12 of 12: holds 24 x 4 pixels" in refusal(replaced(data, 11, short))


def test_tags_whose_values_are_bytes_leave_no_pixels_undefined() -> None:
    data = bytearray(tiff(COLOURS, compression="jpeg", photometric="ycbcr", **TILES))
    at = data.index(struct.pack("<HHI", 284, 3, 1))
    struct.pack_into("<H", data, at + 2, 1)  # PlanarConfiguration of type BYTE.
    assert "its planar configuration is b'\\x01', expected 1 or 2" in refusal(bytes(data))


def test_fewer_bytes_than_pixels_are_not_filled_up_from_the_rest_of_the_file() -> None:
    data = tiff(COLOURS, photometric="rgb")
    cut = patched(data, 0, size=1000) + bytes(COLOURS.nbytes)
    assert "holds 1000 bytes of pixels, expected 36000" in refusal(cut)
