"""Large files: written strip by strip and read onto the disk, they are those of small ones."""

from __future__ import annotations

import io
import itertools
import mmap
import struct
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from pipeline.errors import ArchiveError, PictureError
from pipeline.pictures import traces
from pipeline.pictures.files import decode_picture, encode_strips, read_picture
from pipeline.pictures.formats import BY_NAME, WRITTEN
from pipeline.pictures.jpeg.joining import interval_rows
from pipeline.pictures.metadata.exif import find_orientation
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.strips import OneStrip
from pipeline.storage.spool import large_bytes, spooling_in
from tests.pipeline.pictures.test_strips import Cut

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.pictures.strips import Strips
    from tests.conftest import TakePhoto

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'


def exif_with_thumbnail() -> bytes:
    """Return EXIF with a copyright, and a thumbnail in its second directory."""
    small = io.BytesIO()
    Image.new("RGB", (160, 120), (9, 99, 199)).save(small, "JPEG")
    jpeg = small.getvalue()
    first = struct.pack("<HHHI4s", 1, 33432, 2, 4, b"Ann\0") + struct.pack("<I", 26)
    place = 26 + 2 + 3 * 12 + 4
    second = struct.pack(
        "<HHHIIHHIIHHII",
        3, 259, 3, 1, 6, 513, 4, 1, place, 514, 4, 1, len(jpeg),
    ) + struct.pack("<I", 0)  # fmt: skip
    return b"II*\0" + struct.pack("<I", 8) + first + second + jpeg


FULL = {
    "icc": ICC,
    "exif": exif_with_thumbnail(),
    "xmp": XMP,
    "dpi": (300.0, 200.0),
    "iptc": b"\x1c\x02\x05\0\x07Harbour",
    "comments": (b"in the evening",),
    "chunks": (("tEXt", b"Title\0Harbour"),),
}


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every picture be a large one, and be written in many parts."""
    monkeypatch.setattr("pipeline.pictures.codecs.png._WHOLE_BYTES", 0)
    for codec in ("png", "tiff"):
        monkeypatch.setattr(f"pipeline.pictures.codecs.{codec}._BAND_BYTES", 3000)
    monkeypatch.setattr("pipeline.pictures.codecs.tiff._STRIP_BYTES", 2000)
    monkeypatch.setattr("pipeline.pictures.codecs.jpeg._WHOLE_PIXELS", 0)
    monkeypatch.setattr("pipeline.pictures.codecs.jpeg.interval_rows", lambda _width: 16)


def encoded(pixels: Strips, format: str, **metadata: Any) -> tuple[bytes, tuple[str, ...]]:
    file = io.BytesIO()
    known = Metadata(**{"format": "none", "mode": "RGB", **metadata})
    notes = encode_strips(pixels, known, file, name="a", format=format)
    return file.getvalue(), notes


def noisy(channels: int, height: int, width: int, dtype: str) -> NDArray[Any]:
    """Return a ramp with noise: every filter of a PNG is the best of some row."""
    random = np.random.default_rng(channels)
    ramp = np.linspace(0, 0.8, height * width).reshape(height, width)
    values = (
        ramp + random.random((channels, height, width)) * 0.2 * (np.arange(height) % 3)[:, None] / 2
    )
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    return (values * top).astype(dtype)


KINDS = [
    (format, channels, dtype)
    for format, channels, dtype in itertools.product(
        WRITTEN, (1, 2, 3, 4), ("uint8", "uint16", "float32")
    )
    if BY_NAME[format].holds((channels, 1, 1), dtype)
]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(("format", "channels", "dtype"), KINDS)
@pytest.mark.parametrize(("height", "width"), [(201, 133), (64, 300), (1, 77), (77, 1)])
def test_a_file_of_strips_holds_what_the_file_of_the_whole_picture_holds(
    format: str, channels: int, dtype: str, height: int, width: int
) -> None:
    pixels = noisy(channels, height, width, dtype)
    data, notes = encoded(Cut(pixels, 37), format, **FULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.pictures.codecs.png._WHOLE_BYTES", 1 << 25)
        patch.setattr("pipeline.pictures.codecs.jpeg._WHOLE_PIXELS", 1 << 25)
        expected, expected_notes = encoded(OneStrip(pixels), format, **FULL)
    picture, whole = read_picture(data, name="a"), read_picture(expected, name="a")
    assert np.array_equal(picture.pixels, whole.pixels)
    if not BY_NAME[format].loses and BY_NAME[format].has_grey:
        assert np.array_equal(picture.pixels, pixels)
    assert picture.metadata == whole.metadata
    assert picture.metadata.icc == ICC
    assert notes == expected_notes


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_the_thumbnail_in_a_file_of_strips_is_of_the_new_pixels(
    format: str, photo: TakePhoto
) -> None:
    pixels = photo(300, 400)
    exif = read_picture(encoded(Cut(pixels, 64), format, **FULL)[0], name="a").metadata.exif
    assert exif is not None
    small = np.asarray(Image.open(io.BytesIO(exif[exif.index(b"\xff\xd8\xff") :])))
    expected = np.asarray(Image.fromarray(np.moveaxis(pixels, 0, 2)).resize((160, 120)))
    assert small.shape == expected.shape
    assert np.abs(small.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_tiff_of_strips_is_the_one_that_tifffile_writes_of_all_pixels(
    order: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.pictures.codecs.tiff._BAND_BYTES", 300_000)
    pixels = noisy(3, 700, 501, dtype)
    expected = io.BytesIO()
    tifffile.imwrite(
        expected,
        np.moveaxis(pixels, 0, 2),
        byteorder=order,  # type: ignore[arg-type]
        photometric="rgb",
        planarconfig="contig",
        compression="zlib",
        predictor=True,
        metadata=None,
        software=False,
    )
    exif = None if order == "<" else b"MM\0*\0\0\0\x08\0\0\0\0\0\0"
    assert encoded(Cut(pixels, 256), "tiff", exif=exif)[0] == expected.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_of_strips_is_the_one_that_pillow_writes_with_restart_markers(
    channels: int, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.pictures.codecs.jpeg._WHOLE_PIXELS", 0)
    monkeypatch.setattr("pipeline.pictures.codecs.jpeg.interval_rows", lambda _width: 24)
    pixels = photo(333, 211, channels)
    expected = io.BytesIO()
    shown = pixels[0] if channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
    Image.fromarray(shown).save(expected, "JPEG", quality=95, subsampling=0, restart_marker_rows=3)
    assert encoded(Cut(pixels, 50), "jpeg")[0] == expected.getvalue()


@pytest.mark.parametrize("width", [1, 8, 9, 1000, 65_500])
def test_a_restart_interval_holds_no_more_blocks_than_its_field_can_say(width: int) -> None:
    rows = interval_rows(width)
    assert rows % 8 == 0
    assert rows >= 8
    assert rows // 8 * -(-width // 8) <= 65_535


def test_a_picture_of_ordinary_size_is_compressed_without_restart_markers(
    photo: TakePhoto,
) -> None:
    data, _ = encoded(Cut(photo(300, 200), 64), "jpeg")
    assert b"\xff\xdd\0\x04" not in data
    assert data == encoded(OneStrip(photo(300, 200)), "jpeg")[0]


def test_a_tiff_of_more_than_four_gigabytes_gets_offsets_of_64_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = noisy(3, 60, 50, "uint8")
    assert encoded(Cut(pixels, 20), "tiff", **FULL)[0][:4] == b"II*\0"
    monkeypatch.setattr("pipeline.pictures.codecs.tiff._CLASSIC_BYTES", 5000)
    data, _ = encoded(Cut(pixels, 20), "tiff", **FULL)
    assert data[:4] == b"II+\0"
    back = read_picture(data, name="a")
    assert np.array_equal(back.pixels, pixels)
    assert (back.metadata.icc, back.metadata.xmp) == (ICC, XMP)


@pytest.mark.usefixtures("small_steps")
def test_premultiplied_alpha_and_a_value_range_are_written_strip_by_strip() -> None:
    alpha = noisy(4, 90, 40, "uint8")
    assert (
        encoded(Cut(alpha, 13), "tiff", mode="RGBa")[0]
        == encoded(OneStrip(alpha), "tiff", mode="RGBa")[0]
    )
    ranged = noisy(1, 90, 40, "float32")
    data, _ = encoded(Cut(ranged, 13), "tiff", mode="F", value_range=(-5.0, 20.0))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        np.testing.assert_allclose(file.asarray(), ranged[0] * 25 - 5, atol=1e-5)


class Broken(Cut):
    """A picture whose second strip cannot be read."""

    error: Exception = ArchiveError("shard 1 is missing")

    def __iter__(self) -> Iterator[NDArray[Any]]:
        yield self.pixels[:, : self.rows]
        raise self.error


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("format", WRITTEN)
def test_what_cannot_be_read_is_not_blamed_on_the_encoder(format: str, photo: TakePhoto) -> None:
    broken = Broken(photo(90, 80), 40)
    with pytest.raises(ArchiveError, match=r"^shard 1 is missing$"):
        encoded(broken, format, **FULL)


class Full(io.BytesIO):
    """A file on a disk that is full."""

    def write(self, data: Any) -> int:
        if self.tell() > 100:
            raise OSError(28, "No space left on device")
        return super().write(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("format", WRITTEN)
def test_a_full_disk_is_not_blamed_on_the_encoder(format: str, photo: TakePhoto) -> None:
    known = Metadata(format="none", mode="RGB", icc=ICC)
    file = Full(bytes(101))
    file.seek(101)
    with pytest.raises(OSError, match="No space left") as caught:
        encode_strips(Cut(photo(90, 80), 30), known, file, name="a", format=format)
    assert not isinstance(caught.value, PictureError)


# Reading


def jpeg(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def files(photo: TakePhoto) -> dict[str, bytes]:
    """Return files of all formats and of many kinds, by a name for each."""
    colours = np.ascontiguousarray(np.moveaxis(photo(123, 95), 0, 2))
    deep = np.ascontiguousarray(np.moveaxis(photo(123, 95, 4, "uint16"), 0, 2))
    ranged = photo(123, 95, 1, "float32")[0] * 30 - 10
    range_tags = [(340, "f", 1, -10.0, True), (341, "f", 1, 20.0, True)]
    alpha = deep[..., 3:] // 2
    premultiplied = np.concatenate([np.minimum(deep[..., :3], alpha), alpha], axis=2)
    made = {
        f"jpeg {sampling} {kind}": jpeg(colours, subsampling=sampling, progressive=kind == "scans")
        for sampling in ("4:4:4", "4:2:2", "4:2:0")
        for kind in ("baseline", "scans")
    }
    made["jpeg grey"] = jpeg(colours[..., 0], quality=40)
    made["jpeg RGB"] = jpeg(colours, keep_rgb=True)
    made["jpeg restarts"] = jpeg(colours, restart_marker_blocks=7)
    for channels, dtype in itertools.product((1, 2, 3, 4), ("uint8", "uint16")):
        made[f"png {channels} {dtype}"] = encoded(OneStrip(photo(123, 95, channels, dtype)), "png")[
            0
        ]
    palette = io.BytesIO()
    Image.fromarray(colours).quantize(17).save(palette, "PNG")
    made["png palette"] = palette.getvalue()
    made["tiff plain"] = tiff(colours, photometric="rgb")
    made["tiff big-endian"] = tiff(deep[..., 0], byteorder=">")
    made["tiff tiles"] = tiff(colours, photometric="rgb", tile=(32, 48), compression="lzw")
    made["tiff planes"] = tiff(
        np.moveaxis(colours, 2, 0), photometric="rgb", planarconfig="separate", rowsperstrip=9
    )
    made["tiff inverted"] = tiff(colours[..., 1], photometric="miniswhite", compression="zlib")
    made["tiff bits"] = tiff(colours[..., 1] > 99, compression="packbits")
    made["tiff premultiplied"] = tiff(
        premultiplied, photometric="rgb", extrasamples=["assocalpha"], compression="zlib"
    )
    made["tiff range"] = tiff(ranged, extratags=range_tags, compression="zlib", rowsperstrip=10)
    ramp = np.arange(256, dtype=np.uint16) * 257
    made["tiff palette"] = tiff(
        colours[..., 0], photometric="palette", colormap=np.stack([ramp, ramp[::-1], ramp])
    )
    for lossless, layers in itertools.product((True, False), (3, 4)):
        picture = (deep[..., :layers] // 257).astype(np.uint8)
        made[f"webp {lossless} {layers}"] = imagecodecs.webp_encode(picture, lossless=lossless)
    made["webp grey"] = encoded(OneStrip(photo(123, 95, 2)), "webp")[0]
    return made


def test_every_kind_of_file_is_the_same_picture_when_it_is_decoded_on_the_disk(
    tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = files(photo)
    expected = {name: decode_picture(data, name=name) for name, data in kinds.items()}
    monkeypatch.setattr("pipeline.storage.spool.LARGE_BYTES", 0)
    monkeypatch.setattr("pipeline.storage.large_arrays._BAND_BYTES", 5000)
    for name, data in kinds.items():
        with spooling_in(tmp_path):
            if name.startswith(("jpeg", "png", "tiff")):
                data = large_bytes([data[:9], memoryview(data)[9:]], len(data))
                assert isinstance(data, mmap.mmap)
            picture = decode_picture(data, name=name)
            assert picture.pixels.dtype == expected[name].pixels.dtype, name
            assert np.array_equal(picture.pixels, expected[name].pixels), name
        assert picture.metadata == expected[name].metadata, name
    assert list(tmp_path.iterdir()) == []


def test_large_pictures_are_turned_upright_too(
    tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.spool.LARGE_BYTES", 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    colours = np.ascontiguousarray(np.moveaxis(photo(123, 95), 0, 2))
    data = jpeg(colours, exif=exif.tobytes(), quality=100, subsampling=0)
    with spooling_in(tmp_path):
        picture = decode_picture(data, name="a.jpg")
        stored = np.asarray(Image.open(io.BytesIO(data)))
        assert np.array_equal(picture.pixels, np.moveaxis(np.rot90(stored, -1), 2, 0))
    assert find_orientation(picture.metadata.exif or b"") is not None


BROKEN = [
    "jpeg 4:2:0 baseline", "jpeg 4:2:0 scans", "png 3 uint8", "tiff tiles", "tiff plain",
    "webp True 3", "webp False 3",
]  # fmt: skip


@pytest.mark.parametrize("cut", [0.5, 0.98])
@pytest.mark.parametrize("kind", BROKEN)
def test_damage_is_found_in_large_files_as_in_small_ones(
    kind: str, cut: float, tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = files(photo)[kind]
    broken = data[: int(len(data) * cut)]
    with pytest.raises(PictureError):
        decode_picture(broken, name="a")
    monkeypatch.setattr("pipeline.storage.spool.LARGE_BYTES", 0)
    with spooling_in(tmp_path):
        if kind.startswith(("jpeg", "png", "tiff")):
            broken = large_bytes([broken], len(broken))
        with pytest.raises(PictureError):
            decode_picture(broken, name="a")


def test_a_picture_that_is_not_of_a_format_leaves_its_file_empty(photo: TakePhoto) -> None:
    file = io.BytesIO()
    known = Metadata(format="none", mode="RGBA")
    with pytest.raises(PictureError, match="JPEG cannot hold 40 x 30 pixels of 4 channels uint8"):
        encode_strips(Cut(photo(30, 40, 4), 8), known, file, name="a", format="jpeg")
    assert file.getvalue() == b""


def test_the_compression_of_a_jpeg_is_known_whatever_its_size(photo: TakePhoto) -> None:
    data = jpeg(np.ascontiguousarray(np.moveaxis(photo(64, 48), 0, 2)), quality=83)
    at = data.index(b"\xff\xc0") + 5
    assert struct.unpack_from(">HH", data, at) == (64, 48)
    large = data[:at] + struct.pack(">HH", 20_000, 20_000) + data[at + 4 :]
    found = traces.of_file(large, "jpeg")
    assert found == traces.of_file(data, "jpeg")
    assert found is not None
    assert (found.quality, found.subsampling) == (83, "4:2:0")
