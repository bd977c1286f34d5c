"""Camera raws are refused by name; ordinary TIFFs, whatever stands beside the picture, are not."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from pipeline.errors import PictureError
from pipeline.pictures.files import decode_picture, read_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREVIEW = np.arange(30 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(30, 40, 3)
SENSOR = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80)
CFA = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]
DNG = [(50706, "B", 4, b"\1\4\0\0", True)]


def maker(name: str) -> list[Any]:
    return [(271, "s", 0, name, True)]


def raw(tags: list[Any], *, order: str = "<", colours: int = 32803, bigtiff: bool = False) -> bytes:
    """Return a preview with sensor data below it, as most cameras write it."""
    file = io.BytesIO()
    sensor = np.stack([SENSOR] * 3, axis=-1) if colours == 34892 else SENSOR
    with tifffile.TiffWriter(file, byteorder=order, bigtiff=bigtiff) as writer:
        writer.write(
            PREVIEW, photometric="rgb", subfiletype=1, subifds=1, metadata=None, extratags=tags
        )
        writer.write(sensor, photometric=colours, subfiletype=0, metadata=None, extratags=CFA)
    return file.getvalue()


def plain(pixels: NDArray[Any] = PREVIEW, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", metadata=None, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("a.dng", raw(DNG), "DNG"),
        ("a.tif", raw(DNG), "DNG"),
        ("a.dng", raw(DNG, colours=34892), "DNG"),
        ("a.tif", plain(extratags=DNG), "DNG"),
        ("a.NEF", raw(maker("NIKON CORPORATION"), order=">"), "Nikon NEF"),
        ("a.NEF", raw(maker("NIKON CORPORATION") + DNG), "Nikon NEF"),
        ("a.gpr", raw(DNG), "GoPro GPR"),
        ("a.tif", raw(maker("NIKON CORPORATION")), "Nikon NEF"),
        ("a.arw", raw(maker("SONY")), "Sony ARW"),
        ("a.pef", raw(maker("PENTAX"), bigtiff=True), "Pentax PEF"),
        ("a.3fr", plain(extratags=maker("Hasselblad")), "Hasselblad 3FR"),
        ("a.tif", raw([]), "sensor data"),
        ("a.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "Canon CR2"),
        ("a.iiq", b"II*\0\x08\0\0\0IIII\4waR" + bytes(40), "Phase One IIQ"),
        ("a.orf", b"IIRO\x08\0\0\0" + bytes(40), "Olympus ORF"),
        ("a.orf", b"MMOR\0\0\0\x08" + bytes(40), "Olympus ORF"),
        ("a.rw2", b"IIU\0\x18\0\0\0" + bytes(40), "Panasonic RW2"),
        ("a.raf", b"FUJIFILMCCD-RAW 0201" + bytes(40), "Fujifilm RAF"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1" + bytes(40), "Canon CR3"),
        ("a.x3f", b"FOVb\0\0\2\0" + bytes(40), "Sigma X3F"),
        ("a.mrw", b"\0MRM\0\0\0\0" + bytes(40), "Minolta MRW"),
        ("a.crw", b"II\x1a\0\0\0HEAPCCDR" + bytes(40), "Canon CRW"),
    ],
)
def test_a_raw_is_refused_by_the_name_of_its_kind(name: str, file: bytes, kind: str) -> None:
    with pytest.raises(PictureError, match=rf"camera raw \({kind}\).*develop it first"):
        decode_picture(file, name=name)


def test_a_preview_of_something_below_it_is_no_picture() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PREVIEW, photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        writer.write(np.tile(PREVIEW, (2, 2, 1)), photometric="rgb", metadata=None)
    with pytest.raises(PictureError, match="camera raw"):
        decode_picture(file.getvalue(), name="a.tif")


def pyramid() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PREVIEW, photometric="rgb", subifds=2, tile=(16, 16), metadata=None)
        for step in (2, 4):
            small = PREVIEW[::step, ::step]
            writer.write(small, photometric="rgb", subfiletype=1, tile=(16, 16), metadata=None)
    return file.getvalue()


def preview_behind() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PREVIEW, photometric="rgb", metadata=None)
        writer.write(PREVIEW[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
    return file.getvalue()


def preview_before() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PREVIEW[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
        writer.write(PREVIEW, photometric="rgb", metadata=None)
    return file.getvalue()


GEO = [(33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0,) * 6, True)]


@pytest.mark.parametrize(
    "file",
    [
        plain(),
        plain(extratags=maker("EPSON")),
        plain(extratags=maker("NIKON CORPORATION")),
        plain(subfiletype=1),
        plain(extratags=GEO),
        plain(bigtiff=True, byteorder=">"),
        pyramid(),
        preview_behind(),
        preview_before(),
        # libtiff puts pixels at byte 8, where raws have their marks.
        plain(np.full((9, 9, 3), 0x49, np.uint8)),
    ],
)
@pytest.mark.parametrize("name", ["a.tif", "scan.TIFF"])
def test_an_ordinary_tiff_is_read(file: bytes, name: str) -> None:
    got = read_picture(file, name=name).pixels
    assert got.shape[0] == 3
    if got.shape[1:] == PREVIEW.shape[:2]:
        np.testing.assert_array_equal(got, np.moveaxis(PREVIEW, 2, 0))


def test_a_raw_by_its_name_alone_is_judged_by_its_content() -> None:
    got = read_picture(plain(), name="holiday.nef").pixels
    np.testing.assert_array_equal(got, np.moveaxis(PREVIEW, 2, 0))
