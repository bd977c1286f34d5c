"""Picture files: what is read keeps every value, what cannot be read is refused in one line."""

from __future__ import annotations

import errno
import io
import os
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import PictureError
from pipeline.pictures.files import decode_picture, read_picture, write_picture
from pipeline.pictures.formats import SUFFIXES
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import Picture
from pipeline.storage.atomic import replace_atomically
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CHANNELS = (1, 2, 3, 4)
ICC = b"profile " * 40
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def noise(channels: int, dtype: str = "uint8", height: int = 13, width: int = 9) -> NDArray[Any]:
    rng = np.random.default_rng(channels)
    if dtype == "float32":
        return rng.random((channels, height, width), dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max, (channels, height, width), dtype, endpoint=True)


def picture(pixels: NDArray[Any], **facts: Any) -> Picture:
    return Picture(pixels=pixels, metadata=Metadata(format="png", mode="RGB", **facts))


def exif_with_orientation(value: int, order: str = "<") -> bytes:
    """IFD0 with Make, orientation and an Exif directory that holds an exposure time."""

    def pack(codes: str, *values: int) -> bytes:
        return struct.pack(order + codes, *values)

    head = (b"II*\0" if order == "<" else b"MM\0*") + pack("I", 8)
    entries = pack("HHI", 271, 2, 4) + b"Ann\0"
    entries += pack("HHIHH", 274, 3, 1, value, 0)
    entries += pack("HHII", 34665, 4, 1, 8 + 2 + 36 + 4)
    exposure = pack("H", 1) + pack("HHII", 33434, 5, 1, 68) + pack("I", 0) + pack("II", 1, 250)
    return head + pack("H", 3) + entries + pack("I", 0) + exposure


def pillow(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    )


def samples() -> dict[str, bytes]:
    rgb = np.ascontiguousarray(noise(3).transpose(1, 2, 0))
    image = Image.fromarray(rgb)
    exif = b"Exif\0\0" + exif_with_orientation(6)
    known: dict[str, Any] = {"exif": exif, "icc_profile": ICC, "xmp": XMP}
    return {
        "a.jpg": pillow(image, "JPEG", dpi=(300, 300), **known),
        "progressive.jpg": pillow(image, "JPEG", progressive=True),
        "a.png": pillow(image, "PNG", exif=exif, icc_profile=ICC),
        "16.png": bytes(imagecodecs.png_encode(rgb.astype(np.uint16) * 200)),
        "palette.png": pillow(image.quantize(7), "PNG"),
        "lossless.webp": pillow(image, "WEBP", lossless=True, **known),
        "lossy.webp": pillow(image.convert("RGBA"), "WEBP"),
        "plain.tif": tiff(rgb),
        "tiles.tif": tiff(rgb, tile=(16, 16), compression="zlib"),
        "lzw.tif": tiff(rgb, compression="lzw", predictor=True, bigtiff=True),
        "jpeg.tif": tiff(rgb, compression="jpeg", photometric="ycbcr"),
        "float.tif": tiff(noise(1, "float32")[0], compression="zstd"),
        "bit.tif": pillow(image.convert("1"), "TIFF", compression="group4"),
    }


SAMPLES = samples()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("format", ["png", "tiff", "webp"])
def test_lossless_formats_give_back_every_value(
    tmp_path: Path, format: str, channels: int, dtype: str
) -> None:
    holds = {"png": ("uint8", "uint16"), "tiff": ("uint8", "uint16", "float32"), "webp": ("uint8",)}
    path = tmp_path / f"a{SUFFIXES[format]}"
    pixels = noise(channels, dtype)
    if dtype not in holds[format]:
        with pytest.raises(PictureError, match="TIFF"):
            write_picture(path, picture(pixels), format=format)
        assert list(tmp_path.iterdir()) == []
        return
    write_picture(path, picture(pixels), format=format)
    back = read_picture(path.read_bytes(), name=path.name)
    if format == "webp" and channels <= 2:
        pixels = np.concatenate([pixels[:1], pixels[:1], pixels])
    assert back.pixels.dtype == dtype
    assert back.pixels.flags.c_contiguous
    assert back.pixels.flags.writeable
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.metadata.format == format


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_written_tiffs_read_the_same_in_another_library(
    tmp_path: Path, channels: int, dtype: str
) -> None:
    path = tmp_path / "a.tif"
    pixels = noise(channels, dtype)
    exif = exif_with_orientation(1, ">")
    write_picture(path, picture(pixels, exif=exif, xmp=XMP, icc=ICC), format="tiff")
    np.testing.assert_array_equal(tifffile.imread(path), np.moveaxis(pixels, 0, 2).squeeze())
    if dtype == "uint8" or channels == 1:
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), np.moveaxis(pixels, 0, 2).squeeze())
            assert image.getexif()[271] == "Ann"
            assert image.getexif().get_ifd(34665)[33434] == 1 / 250


def test_jpegs_stay_close_and_keep_colour_at_full_resolution(tmp_path: Path) -> None:
    pixels = np.zeros((3, 32, 32), np.uint8)
    pixels[0, :, ::2] = pixels[2, :, 1::2] = 255
    path = tmp_path / "a.jpg"
    write_picture(path, picture(pixels), format="jpeg", quality=100)
    back = read_picture(path.read_bytes(), name="a.jpg").pixels
    assert np.abs(back.astype(int) - pixels).max() < 12


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format", ["jpeg", "png", "tiff", "webp"])
def test_metadata_survives_writing_and_reading(tmp_path: Path, format: str, order: str) -> None:
    exif = exif_with_orientation(1, order)
    xmp = XMP.replace(b'"6"', b'"1"')
    path = tmp_path / "a"
    source = picture(noise(3), icc=ICC, exif=exif, xmp=xmp, dpi=(300.0, 150.0))
    write_picture(path, source, format=format)
    back = read_picture(path.read_bytes(), name="a").metadata
    assert (back.icc, back.xmp) == (ICC, xmp)
    assert back.exif is not None
    parsed = Image.Exif()
    parsed.load(back.exif)
    assert (parsed[271], parsed[274]) == ("Ann", 1)
    assert parsed.get_ifd(34665)[33434] == 1 / 250
    if format != "tiff":
        assert back.exif == exif
    assert back.dpi == (None if format == "webp" else pytest.approx((300, 150), rel=1e-3))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_turns_the_pixels_and_is_reset(format: str, orientation: int) -> None:
    image = Image.fromarray(np.arange(64 * 48, dtype=np.uint8).reshape(64, 48).repeat(1, 0))
    exif = Image.Exif()
    exif[274] = orientation
    data = pillow(
        image.convert("RGB"), format, exif=exif, **({"lossless": True} if format == "WEBP" else {})
    )
    with Image.open(io.BytesIO(data)) as stored:
        expected = {
            1: lambda a: a,
            2: np.fliplr,
            3: lambda a: np.rot90(a, 2),
            4: np.flipud,
            5: lambda a: np.swapaxes(a, 0, 1),
            6: lambda a: np.rot90(a, -1),
            7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
            8: lambda a: np.rot90(a, 1),
        }[orientation](np.asarray(stored))
        from_pillow = np.asarray(stored).shape
    back = read_picture(data, name="a")
    if format != "TIFF":  # Pillow turns TIFF on its own.
        np.testing.assert_array_equal(back.pixels, np.moveaxis(expected, 2, 0))
    else:
        assert back.pixels.shape[1:] == from_pillow[:2]
    assert back.metadata.exif is not None
    parsed = Image.Exif()
    parsed.load(back.metadata.exif)
    assert parsed[274] == 1


def test_a_grey_profile_does_not_go_into_a_webp_that_is_rgb(tmp_path: Path) -> None:
    grey = b"\0" * 16 + b"GRAY" + b"\0" * 108
    for pixels, kept in ((noise(1), None), (noise(3), grey)):
        write_picture(tmp_path / "a.webp", picture(pixels, icc=grey), format="webp")
        assert read_picture((tmp_path / "a.webp").read_bytes(), name="a").metadata.icc == kept


def test_xmp_orientation_is_reset_with_that_of_the_exif() -> None:
    assert b'tiff:Orientation="1"' in (
        read_picture(SAMPLES["a.jpg"], name="a.jpg").metadata.xmp or b""
    )


def test_sixteen_bit_rgb_png_is_not_cut_to_eight() -> None:
    pixels = noise(3, "uint16")
    data = imagecodecs.png_encode(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    back = read_picture(bytes(data), name="a.png")
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.metadata.mode == "RGB;16"


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_palettes_and_single_bits_are_resolved(format: str) -> None:
    image = Image.fromarray(np.ascontiguousarray(noise(3).transpose(1, 2, 0)))
    palette, bits = image.quantize(7), image.convert("1")
    back = read_picture(pillow(palette, format), name="a")
    assert back.metadata.mode == "P"
    np.testing.assert_array_equal(
        back.pixels, np.moveaxis(np.asarray(palette.convert("RGB")), 2, 0)
    )
    packings: list[dict[str, Any]] = [{}]
    if format == "TIFF":
        packings += [{"compression": "group4"}, {"compression": "packbits"}]
    for packing in packings:
        back = read_picture(pillow(bits, format, **packing), name="a")
        assert back.metadata.mode == "1"
        np.testing.assert_array_equal(back.pixels[0], np.asarray(bits) * np.uint8(255))


def test_odd_chunks_of_a_png_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data = SAMPLES["16.png"]
    odd = data[:33] + chunk(b"iCCP", b"x") + chunk(b"gAMA", b"") + data[33:]
    np.testing.assert_array_equal(
        read_picture(odd, name="a.png").pixels, read_picture(data, name="a.png").pixels
    )
    assert capfd.readouterr() == ("", "")


def test_a_transparent_palette_becomes_alpha() -> None:
    image = Image.fromarray(noise(1)[0]).quantize(4)
    data = pillow(image, "PNG", transparency=bytes([0, 9, 200, 255]))
    expected = Image.open(io.BytesIO(data)).convert("RGBA")
    back = read_picture(data, name="a.png")
    np.testing.assert_array_equal(back.pixels, np.moveaxis(np.asarray(expected), 2, 0))


def paletted(indices: NDArray[Any], *, bits: int, entries: int, interlaced: bool) -> bytes:
    """Return a PNG of palette indices (y, x), with a palette of so many greens."""
    height, width = indices.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [
            (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4),
            (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
        ]  # fmt: skip
    rows = b""
    for top, left, down, right in passes:
        for row in indices[top::down, left::right]:
            digits = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1
            rows += (b"\0" + np.packbits(digits.astype(np.uint8)).tobytes()) * bool(row.size)
    header = struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, interlaced)
    palette = b"".join(bytes([0, 40 + 10 * n, 0]) for n in range(entries))
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "entries"), [(1, 1), (2, 3), (4, 5), (8, 7)])
def test_a_pixel_outside_the_palette_of_a_png_is_refused(
    bits: int, entries: int, interlaced: bool
) -> None:
    indices = np.arange(11 * 13).reshape(11, 13) % entries
    data = paletted(indices, bits=bits, entries=entries, interlaced=interlaced)
    back = read_picture(data, name="a.png")
    np.testing.assert_array_equal(back.pixels[1], 40 + 10 * indices)
    indices[10, 12] = entries
    data = paletted(indices, bits=bits, entries=entries, interlaced=interlaced)
    words = f"a.png: pixels name colour {entries} of a palette of {entries}, counted from 0"
    with pytest.raises(PictureError, match=words):
        read_picture(data, name="a.png")


def test_white_is_zero_tiffs_are_inverted() -> None:
    pixels = noise(1, "uint16")
    back = read_picture(tiff(pixels[0], photometric="miniswhite"), name="a.tif")
    np.testing.assert_array_equal(back.pixels, 65535 - pixels)


def test_separate_planes_and_big_endian_tiffs_read_the_same() -> None:
    pixels = noise(3, "uint16")
    data = tiff(
        pixels, photometric="rgb", planarconfig="separate", byteorder=">", compression="lzw"
    )
    back = read_picture(data, name="a.tif")
    assert back.pixels.dtype.isnative
    np.testing.assert_array_equal(back.pixels, pixels)


def test_premultiplied_alpha_is_divided_out() -> None:
    pixels = np.array([[[100, 0, 7]], [[50, 0, 8]], [[0, 0, 9]], [[128, 0, 255]]], np.uint8)
    data = tiff(pixels.transpose(1, 2, 0), photometric="rgb", extrasamples=["assocalpha"])
    back = read_picture(data, name="a.tif").pixels
    assert back[:, 0].T.tolist() == [[199, 100, 0, 128], [0, 0, 0, 0], [7, 8, 9, 255]]


REFUSED = {
    "empty.jpg": (b"", "0 bytes"),
    "notes.png": (b"only words\n", "text"),
    "a.gif": (b"GIF89a" + b"\0" * 20, "GIF"),
    "zip.jpg": (b"PK\3\4" + b"\0" * 20, "zip"),
    "heic.jpg": (b"\0\0\0\x18ftypheic", "HEIF"),
    "cmyk.jpg": (pillow(Image.new("CMYK", (4, 4)), "JPEG"), "CMYK"),
    "cmyk.tif": (pillow(Image.new("CMYK", (4, 4)), "TIFF"), "CMYK"),
    "lab.tif": (pillow(Image.new("LAB", (4, 4)), "TIFF"), "Lab"),
    "signed.tif": (tiff(np.zeros((4, 4), np.int16)), "signed"),
    "double.tif": (tiff(np.zeros((4, 4), np.float64)), "64-bit"),
    "pages.tif": (tiff(np.zeros((3, 4, 4), np.uint8), photometric="minisblack"), "3 pages"),
    "five.tif": (
        tiff(np.zeros((4, 4, 5), np.uint8), photometric="rgb", planarconfig="contig"),
        "5 channels",
    ),
    "unknown-fourth.tif": (
        tiff(np.zeros((4, 4, 4), np.uint8), photometric="rgb", extrasamples=["unspecified"]),
        "not stated",
    ),
    "moving.png": (
        pillow(
            Image.new("L", (4, 4)), "PNG", save_all=True, append_images=[Image.new("L", (4, 4), 9)]
        ),
        "2 frames",
    ),
    "moving.webp": (
        pillow(
            Image.new("L", (4, 4)), "WEBP", save_all=True, append_images=[Image.new("L", (4, 4), 9)]
        ),
        "animation",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_single_rgb_or_grey_picture_is_refused_with_its_reason(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(PictureError, match=reason) as caught:
        read_picture(data, name=name)
    assert str(caught.value).startswith(f"{name}: ")


def test_a_png_called_jpg_is_read_as_the_png_that_it_is() -> None:
    picture = read_picture(SAMPLES["a.png"], name="really-a-png.jpg")
    assert picture.metadata.format == "png"
    assert np.array_equal(picture.pixels, read_picture(SAMPLES["a.png"], name="a.png").pixels)


def test_a_picture_of_one_pixel_is_written_in_every_format(tmp_path: Path) -> None:
    pixels = np.full((3, 1, 1), 200, np.uint8)
    for format in ("png", "tiff", "jpeg", "webp"):
        picture = Picture(pixels=pixels, metadata=Metadata(format=format, mode="RGB"))
        write_picture(tmp_path / f"one.{format}", picture, format=format)
        again = read_picture((tmp_path / f"one.{format}").read_bytes(), name=f"one.{format}")
        assert again.pixels.shape == (3, 1, 1)


def bombs() -> dict[str, bytes]:
    jpeg = bytearray(pillow(Image.new("RGB", (8, 8)), "JPEG"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 60000, 60000)
    webp = bytearray(pillow(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    struct.pack_into("<I", webp, 21, (1 << 28) - 1)
    plain = bytearray(tiff(np.zeros((8, 8), np.uint8), compression="zlib"))
    for code in (256, 257):
        at = plain.index(struct.pack("<H", code), 8)
        struct.pack_into("<HII", plain, at + 2, 4, 1, 60000)
    return {
        "a.jpg": bytes(jpeg),
        "a.png": png_header(60000, 60000) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        "a.webp": bytes(webp),
        "a.tif": bytes(plain),
    }


@pytest.mark.parametrize("name", bombs())
def test_a_declared_size_above_the_bound_is_refused_before_decoding(name: str) -> None:
    with pytest.raises(PictureError, match="expected at most 200000000 in all"):
        read_picture(bombs()[name], name=name, max_pixels=200_000_000)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_lying_header_below_the_bound_is_refused_too(name: str) -> None:
    with pytest.raises(PictureError):
        read_picture(bombs()[name], name=name, max_pixels=10**10)


def test_pillows_own_bound_neither_warns_nor_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, data in SAMPLES.items():
            read_picture(data, name=name)


def outcome(data: bytes, *, name: str) -> Picture | str:
    """Return the picture or the words of its error; any other exception or warning fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return read_picture(data, name=name, max_pixels=10**6)
        except PictureError as error:
            return str(error)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_truncation_is_refused_unless_nothing_is_missing(name: str) -> None:
    data = SAMPLES[name]
    whole = read_picture(data, name=name).pixels
    for size in range(0, len(data), max(1, len(data) // 60)):
        met = outcome(data[:size], name=name)
        if isinstance(met, str):
            assert "\n" not in met
        else:  # What lies behind the pixels of a TIFF may be padding.
            assert name.endswith(".tif")
            np.testing.assert_array_equal(met.pixels, whole)


@examples(250)
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_one_line_of_error(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SAMPLES)))
    damaged = bytearray(SAMPLES[name])
    places = st.integers(0, len(damaged) - 1) | st.integers(0, min(200, len(damaged) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    met = outcome(bytes(damaged), name=name)
    assert isinstance(met, Picture) or "\n" not in met


@given(place=st.integers(8, len(SAMPLES["a.png"]) - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_png_goes_unnoticed(place: int, bit: int) -> None:
    damaged = bytearray(SAMPLES["a.png"])
    damaged[place] ^= 1 << bit
    with pytest.raises(PictureError):
        read_picture(bytes(damaged), name="a.png")


@given(
    exif=st.binary(max_size=120),
    head=st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]),
)
@examples(100)
def test_broken_exif_never_costs_a_picture(
    tmp_path_factory: pytest.TempPathFactory, exif: bytes, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "a"
    for format in ("tiff", "png"):
        write_picture(path, picture(noise(1), exif=head + exif), format=format)
        np.testing.assert_array_equal(read_picture(path.read_bytes(), name="a").pixels, noise(1))


def test_values_that_overlap_in_exif_do_not_grow_in_memory(tmp_path: Path) -> None:
    body = b"x" * 50_000
    entries = [struct.pack("<HHII", code, 1, len(body), 14 + 12 * 3000) for code in range(1, 3001)]
    exif = b"II*\0" + struct.pack("<IH", 8, 3000) + b"".join(entries) + b"\0\0\0\0" + body
    path = tmp_path / "a.tif"
    write_picture(path, picture(noise(1), exif=exif), format="tiff")
    assert path.stat().st_size < 1000


@pytest.mark.parametrize(
    ("pixels", "format", "instead"),
    [
        (noise(4), "jpeg", "PNG or TIFF or WEBP"),
        (noise(3, "uint16"), "jpeg", "PNG or TIFF"),
        (noise(3, "float32"), "png", "TIFF"),
        (np.zeros((1, 1, 65501), np.uint8), "jpeg", "PNG or TIFF"),
        (np.zeros((1, 16384, 1), np.uint8), "webp", "JPEG or PNG or TIFF"),
    ],
)
def test_a_format_that_cannot_hold_the_picture_names_those_that_can(
    tmp_path: Path, pixels: NDArray[Any], format: str, instead: str
) -> None:
    with pytest.raises(PictureError, match=f"write {instead} instead"):
        write_picture(tmp_path / "a", picture(pixels), format=format)


def test_unknown_formats_and_qualities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="'bmp'"):
        write_picture(tmp_path / "a", picture(noise(1)), format="bmp")
    with pytest.raises(PictureError, match="quality is 0"):
        write_picture(tmp_path / "a", picture(noise(1)), format="jpeg", quality=0)


def test_broken_exif_that_is_too_large_for_jpeg_is_noted_and_costs_no_picture(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jpg"
    broken = picture(noise(3), exif=b"II*\0" + b"\0" * 70_000)
    notes = write_picture(path, broken, format="jpeg")
    assert any("EXIF" in note and "not kept" in note for note in notes)
    assert read_picture(path.read_bytes(), name="a.jpg").metadata.exif is None


def test_unknown_parts_of_a_webp_are_noted() -> None:
    data = SAMPLES["lossless.webp"]
    odd = data + b"ABCD" + struct.pack("<I", 6) + b"inside"
    odd = odd[:4] + struct.pack("<I", len(odd) - 8) + odd[8:] + b"behind it"
    assert read_picture(odd, name="a.webp").metadata.notes == (
        "WebP chunk ABCD (6 bytes) was not kept",
        "data after the picture: 9 bytes, not kept",
    )
    assert read_picture(data + bytes(9), name="a.webp").metadata.notes == ()


def test_a_failed_replacement_leaves_the_earlier_file_alone(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".png")
    path.write_bytes(b"earlier")

    def interrupted() -> None:
        with replace_atomically(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"earlier"
    with replace_atomically(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_is_told_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pipeline.storage.atomic.os.fsync", full)
    path = tmp_path / "a.png"
    with pytest.raises(OSError, match="No space left") as met, replace_atomically(path) as file:
        file.write(b"whole")
    assert met.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_pixels_of_another_shape_or_type_cannot_become_a_picture() -> None:
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((5, 4, 4), np.uint8), np.zeros((1, 2, 2))):
        with pytest.raises(PictureError, match="expected"):
            picture(wrong)


# TIFF: colour maps, premultiplied alpha


def colour_mapped(colormap: NDArray[Any], indices: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, indices, photometric="palette", colormap=colormap, metadata=None)
    return file.getvalue()


def test_a_colour_map_of_8_bit_values_is_taken_as_such() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    narrow = read_picture(colour_mapped(colours, indices), name="a.tif").pixels
    wide = read_picture(colour_mapped(colours * 257, indices), name="a.tif").pixels
    np.testing.assert_array_equal(narrow, colours.astype(np.uint8)[:, indices])
    np.testing.assert_array_equal(wide, narrow)


def test_one_value_above_255_makes_a_colour_map_16_bit() -> None:
    colours = np.full((3, 256), 255, dtype=np.uint16)
    colours[2, 255] = 256
    got = read_picture(colour_mapped(colours, np.zeros((4, 4), np.uint8)), name="a.tif").pixels
    assert np.all(got == 0)


def test_a_palette_of_one_bit_is_resolved() -> None:
    file = io.BytesIO()
    image = Image.fromarray((np.indices((9, 11)).sum(0) % 2).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(file, "TIFF", bits=1)
    got = read_picture(file.getvalue(), name="a.tif").pixels
    want = np.moveaxis(np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB")), 2, 0)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [2, 4])
def test_premultiplied_alpha_comes_out_as_it_went_in(
    channels: int, dtype: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    alpha = rng.random((20, 20, 1))
    alpha[:5] = 0
    alpha[5:10] = 1
    shares = np.concatenate([rng.random((20, 20, channels - 1)) * alpha, alpha], axis=2) * top
    samples = (shares if dtype == "float32" else np.rint(shares)).astype(dtype)
    samples[..., :-1] = np.minimum(samples[..., :-1], samples[..., -1:])
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        samples,
        photometric="rgb" if channels == 4 else "minisblack",
        planarconfig="contig",
        extrasamples=["assocalpha"],
        metadata=None,
    )
    picture = read_picture(file.getvalue(), name="a.tif")
    path = tmp_path / "b.tif"
    write_picture(path, picture, format="tiff")
    with tifffile.TiffFile(path) as out:
        assert [int(kind) for kind in out.pages[0].extrasamples] == [1]
        back = out.pages[0].asarray()
    np.testing.assert_allclose(back, samples, rtol=1e-6, atol=1e-6 if dtype == "float32" else 0)
    np.testing.assert_array_equal(
        read_picture(path.read_bytes(), name="b.tif").pixels[-1], picture.pixels[-1]
    )


def test_colours_above_their_alpha_are_not_premultiplied() -> None:
    samples = np.full((4, 4, 4), 200, np.uint8)
    samples[..., 3] = 100
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    with pytest.raises(PictureError, match="colours exceed their alpha by up to 100"):
        decode_picture(file.getvalue(), name="a.tif")


# PNG: odd ones


def png(colour: int, depth: int, rows: bytes, *extra: bytes, interlace: int = 0) -> bytes:
    """Return a PNG of 13 x 11 pixels."""
    header = struct.pack(">IIBBBBB", 13, 11, depth, colour, 0, 0, interlace)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *extra, data, chunk(b"IEND", b"")]
    )


def adam7(samples: NDArray[Any]) -> bytes:
    rows = b""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    for y, x, down, right in (*passes, (1, 0, 2, 1)):
        for row in samples[y::down, x::right]:
            rows += b"\0" + row.tobytes() if row.size else b""
    return rows


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("depth", [8, 16])
def test_an_interlaced_png_is_read_without_a_word_on_stderr(
    depth: int, colour: int, channels: int, capfd: pytest.CaptureFixture[str]
) -> None:
    high = 256 if depth == 8 else 65536
    samples = np.random.default_rng(0).integers(0, high, (11, 13, channels))
    samples = samples.astype(">u2" if depth == 16 else "u1")
    file = png(colour, depth, adam7(samples), interlace=1)
    got = read_picture(file, name="a.png").pixels
    np.testing.assert_array_equal(got, np.moveaxis(samples, 2, 0))
    assert capfd.readouterr().err == ""


def test_an_interlaced_png_that_ends_early_is_refused() -> None:
    file = png(0, 8, adam7(np.zeros((11, 13, 1), np.uint8))[:-20], interlace=1)
    with pytest.raises(PictureError, match="truncated"):
        decode_picture(file, name="a.png")


def test_a_transparent_colour_beyond_the_depth_is_cut_to_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    rows = b"".join(b"\0" + bytes([row] * 13) for row in range(11))
    file = png(0, 8, rows, chunk(b"tRNS", struct.pack(">H", 0x0303)))
    got = read_picture(file, name="a.png").pixels
    assert got[1, :, 0].tolist() == [255, 255, 255, 0, *[255] * 7]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (png(0, 8, b"\0" * 154)[:-12], "without IEND; the file is truncated"),
        (png(0, 8, b"\0" * 154)[:-16], "reaches beyond the .* bytes of the file"),
        (png(0, 8, b"\0" * 154, chunk(b"ABCD", b"x")), "unknown critical chunk b'ABCD'"),
        (
            b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", b"\x50\0\x20\2") + png(0, 8, b"")[8:],
            "Apple's own kind",
        ),
    ],
)
def test_an_odd_png_is_refused_by_its_true_reason(file: bytes, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        decode_picture(file, name="a.png")


def test_an_orientation_that_xmp_alone_declares_is_applied(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3, dtype=np.uint8).reshape(1, 2, 3)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    path = tmp_path / "a.png"
    metadata = Metadata(format="png", mode="L", xmp=xmp)
    write_picture(path, Picture(pixels=pixels, metadata=metadata), format="png")
    picture = read_picture(path.read_bytes(), name="a.png")
    np.testing.assert_array_equal(picture.pixels[0], np.rot90(pixels[0], -1))
    assert picture.metadata.xmp == xmp.replace(b'"6"', b'"1"')
