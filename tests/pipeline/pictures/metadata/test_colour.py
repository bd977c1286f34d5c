"""Colours of a PNG keep their look in every format, as littleCMS and the formulas agree."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.errors import PictureError
from pipeline.pictures.files import read_picture, write_picture
from tests.pipeline.pictures.test_files import chunk

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
D65 = (0.3127, 0.3290)
BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))


def png(pixels: NDArray[Any], *chunks: tuple[bytes, bytes]) -> bytes:
    data = bytes(imagecodecs.png_encode(pixels))
    return data[:33] + b"".join(chunk(*c) for c in chunks) + data[33:]


def gama(decoding: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100_000 / decoding))


def chrm(primaries: tuple[tuple[float, float], ...]) -> tuple[bytes, bytes]:
    values = [round(100_000 * v) for pair in (D65, *primaries) for v in pair]
    return b"cHRM", struct.pack(">8I", *values)


def cicp(*numbers: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes(numbers)


def linear_srgb(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    white = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    return columns * np.linalg.solve(columns, white)


def as_srgb(
    pixels: NDArray[np.uint8], curve: Any, primaries: tuple[tuple[float, float], ...]
) -> NDArray[np.float64]:
    """Return 0..255 sRGB of pixels (y, x, 3) of these colours, by the formulas."""
    linear = curve(pixels / 255)
    if linear.ndim == 3:
        linear = linear @ (np.linalg.inv(to_xyz(BT709)) @ to_xyz(primaries)).T
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def shown(image: Image.Image) -> NDArray[np.int64]:
    """Return what a viewer shows of a file with a profile, in sRGB."""
    icc = image.info.get("icc_profile")
    assert icc, "has a profile"
    turned = ImageCms.profileToProfile(
        image, ImageCms.ImageCmsProfile(io.BytesIO(icc)), SRGB, outputMode="RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=ImageCms.Flags.NOOPTIMIZE,
    )  # fmt: skip
    return np.asarray(turned).astype(int)


SAID = {
    "linear": ((gama(1.0),), lambda x: x, BT709),
    "mac": ((gama(1.8), chrm(BT709)), lambda x: x**1.8, BT709),
    "adobe": ((gama(2.2), chrm(ADOBE)), lambda x: x**2.2, ADOBE),
    "primaries alone": ((chrm(ADOBE),), linear_srgb, ADOBE),
    "srgb": (((b"sRGB", b"\0"),), linear_srgb, BT709),
    "display p3": ((cicp(12, 13, 0, 1),), linear_srgb, P3),
    "gamma 2.2": ((cicp(1, 4, 0, 1),), lambda x: x**2.2, BT709),
    "linear light": ((cicp(1, 8, 0, 1),), lambda x: x, BT709),
    "cicp first": ((cicp(12, 13, 0, 1), gama(1.0), (b"sRGB", b"\0")), linear_srgb, P3),
    "srgb before gamma": (((b"sRGB", b"\0"), gama(1.0), chrm(P3)), linear_srgb, BT709),
}


@pytest.mark.parametrize("format", ["tiff", "webp", "png"])
@pytest.mark.parametrize("name", SAID)
def test_colours_look_the_same_in_every_format(tmp_path: Path, name: str, format: str) -> None:
    chunks, curve, primaries = SAID[name]
    rng = np.random.default_rng(3)
    grey = rng.integers(60, 190, (16, 16, 1))
    pixels = np.clip(grey + rng.integers(-25, 26, (16, 16, 3)), 0, 255).astype(np.uint8)
    picture = read_picture(png(pixels, *chunks), name="a.png")
    path = tmp_path / "a"
    assert write_picture(path, picture, format=format) == ()
    if format == "png":
        data = path.read_bytes()
        assert all(chunk(*c) in data[: data.index(b"IDAT")] for c in chunks)
        assert b"iCCP" not in data
        return
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
        wanted = as_srgb(pixels, curve, primaries)
        assert abs(shown(image) - wanted).max() <= 1.01


@pytest.mark.parametrize("format", ["tiff", "jpeg", "webp"])
@pytest.mark.parametrize("decoding", [1.0, 1.8])
def test_greys_keep_their_look(tmp_path: Path, decoding: float, format: str) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = read_picture(png(pixels, gama(decoding)), name="a.png")
    path = tmp_path / "a"
    assert write_picture(path, picture, format=format) == ()
    with Image.open(path) as image:
        assert image.mode == ("RGB" if format == "webp" else "L")
        stored = np.asarray(image if image.mode == "L" else image.getchannel(0))
        wanted = as_srgb(stored, lambda x: x**decoding, BT709)
        assert abs(shown(image) - wanted[..., np.newaxis]).max() <= 1.01


def test_a_grey_profile_becomes_one_of_rgb_where_there_is_no_grey(tmp_path: Path) -> None:
    made = read_picture(png(np.zeros((2, 2), np.uint8), gama(1.8)), name="a.png")
    write_picture(tmp_path / "a.tif", made, format="tiff")
    grey = read_picture((tmp_path / "a.tif").read_bytes(), name="a.tif")
    assert grey.metadata.icc is not None
    assert grey.metadata.icc[16:20] == b"GRAY"
    assert write_picture(tmp_path / "a.webp", grey, format="webp") == ()
    with Image.open(tmp_path / "a.webp") as image:
        assert image.info["icc_profile"][16:20] == b"RGB "


def test_sixteen_bits_get_the_same_profile_as_eight(tmp_path: Path) -> None:
    profiles = []
    for dtype in (np.uint8, np.uint16):
        pixels = np.full((4, 4, 3), 90, dtype)
        picture = read_picture(png(pixels, gama(1.0), chrm(ADOBE)), name="a.png")
        write_picture(tmp_path / "a.tif", picture, format="tiff")
        written = read_picture((tmp_path / "a.tif").read_bytes(), name="a.tif")
        np.testing.assert_array_equal(written.pixels, picture.pixels)
        profiles.append(written.metadata.icc)
    assert profiles[0] == profiles[1] is not None


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((9, 16, 0, 1), "HDR colours .cICP PQ"), ((9, 18, 0, 1), "HDR colours .cICP HLG"),
        ((1, 13, 0, 0), "cICP 1, 13, 0, 0"), ((10, 17, 0, 1), "cICP 10, 17"),
        ((1, 13, 1, 1), "not RGB"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("format", ["tiff", "jpeg", "webp"])
def test_colours_that_no_profile_says_are_refused_and_fit_a_png(
    tmp_path: Path, format: str, numbers: tuple[int, ...], words: str
) -> None:
    picture = read_picture(png(np.zeros((4, 4, 3), np.uint8), cicp(*numbers)), name="a.png")
    with pytest.raises(PictureError, match=f"a: .*{words}.*write PNG instead"):
        write_picture(tmp_path / "a", picture, format=format)
    assert list(tmp_path.iterdir()) == []
    assert write_picture(tmp_path / "a", picture, format="png") == ()
    assert chunk(*cicp(*numbers)) in (tmp_path / "a").read_bytes()


def test_hdr_with_a_profile_of_its_own_is_said_by_that_and_noted(tmp_path: Path) -> None:
    icc = SRGB.tobytes()
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG", icc_profile=icc)
    data = file.getvalue()
    data = data[:33] + chunk(*cicp(9, 16, 0, 1)) + data[33:]
    notes = write_picture(tmp_path / "a", read_picture(data, name="a.png"), format="tiff")
    assert len(notes) == 1
    assert "HDR" in notes[0]
    assert read_picture((tmp_path / "a").read_bytes(), name="a").metadata.icc == icc


@pytest.mark.parametrize(
    "bad",
    [
        (b"gAMA", b"\0\0\0\0"), (b"gAMA", b"\0\0\0\1"), (b"cHRM", bytes(32)), (b"gAMA", b""),
        (b"cHRM", struct.pack(">8I", *[30000] * 8)), (b"cICP", b"\1"), (b"sRGB", b""),
    ],
)  # fmt: skip
def test_impossible_colours_cost_no_picture_and_are_noted(
    tmp_path: Path, bad: tuple[bytes, bytes]
) -> None:
    picture = read_picture(png(np.zeros((4, 4, 3), np.uint8), bad), name="a.png")
    notes = write_picture(tmp_path / "a", picture, format="tiff")
    assert any(bad[0].decode() in note for note in (*picture.metadata.notes, *notes))
    assert read_picture((tmp_path / "a").read_bytes(), name="a").metadata.icc is None
