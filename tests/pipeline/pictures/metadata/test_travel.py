"""What travels along: every field that exiftool lists is there again, true again, or noted."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import subprocess
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from pipeline.pictures.files import read_picture, write_picture
from pipeline.pictures.formats import SUFFIXES
from pipeline.pictures.metadata.travel import enlarged
from pipeline.pictures.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed (libimage-exiftool-perl)"
)

SCALE = 2
WIDTH, HEIGHT = 64, 48
FORMATS = ("jpeg", "png", "tiff", "webp")
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

IPTC = [
    "-IPTC:ObjectName=Harbour", "-IPTC:Keywords=ship", "-IPTC:Keywords=Bäume",
    "-IPTC:By-line=Ann", "-IPTC:Caption-Abstract=Caption of 1931", "-IPTC:CodedCharacterSet=UTF8",
    "-Photoshop:CopyrightFlag=true", "-Photoshop:URL=https://example.org/",
]  # fmt: skip
EXIF = [
    "-IFD0:Make=Maker", "-IFD0:Model=Model 1", "-IFD0:Artist=Ann", "-IFD0:Copyright=(c) Ann",
    "-IFD0:ImageDescription=A description", "-IFD0:Software=Software 2", "-IFD0:Rating=4",
    "-IFD0:ModifyDate=2020:01:02 03:04:05", "-IFD0:XPTitle=Title", "-IFD0:HostComputer=Host",
    "-IFD0:XResolution=300", "-IFD0:YResolution=300", "-IFD0:ResolutionUnit=inches",
    "-ExifIFD:DateTimeOriginal=2019:01:02 03:04:05", "-ExifIFD:UserComment=Parameters: Steps 40",
    "-ExifIFD:ExposureTime=1/250", "-ExifIFD:LensModel=A lens", "-ExifIFD:SubjectArea=10 20 8 6",
    "-ExifIFD:SubjectLocation=10 20", "-ExifIFD:FocalPlaneXResolution=1000",
    "-ExifIFD:FocalPlaneYResolution=1000", f"-ExifIFD:ExifImageWidth={WIDTH}",
    f"-ExifIFD:ExifImageHeight={HEIGHT}", "-GPS:GPSLatitude=48.1", "-GPS:GPSLatitudeRef=N",
    "-GPS:GPSLongitude=11.5", "-GPS:GPSLongitudeRef=E",
]  # fmt: skip
XMP = [
    "-XMP-dc:Title=Title", "-XMP-dc:Subject=ship", "-XMP-dc:Subject=tree", "-XMP-xmp:Rating=4",
    f"-XMP-tiff:ImageWidth={WIDTH}", f"-XMP-tiff:ImageHeight={HEIGHT}",
    f"-XMP-exif:ExifImageWidth={WIDTH}", f"-XMP-exif:ExifImageHeight={HEIGHT}",
    "-XMP-exif:FocalPlaneXResolution=1000", "-XMP-GPano:FullPanoWidthPixels=128",
    "-XMP-GPano:ProjectionType=equirectangular",
    "-RegionAppliedToDimensionsW=64", "-RegionAppliedToDimensionsH=48",
    "-RegionAppliedToDimensionsUnit=pixel", "-RegionName=Ann", "-RegionType=Face",
    "-RegionAreaX=0.25", "-RegionAreaY=0.5", "-RegionAreaW=0.2", "-RegionAreaH=0.1",
    "-RegionAreaUnit=normalized",
]  # fmt: skip


def pixels() -> NDArray[np.uint8]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 3, y * 4, (x + y) * 2], -1).astype(np.uint8)


def exiftool(*words: object) -> None:
    subprocess.run(
        ["exiftool", "-q", "-overwrite_original", *map(str, words)], check=True, timeout=600
    )


def fields(*paths: Path) -> list[dict[str, list[str]]]:
    """Return what exiftool lists of each file: all values by "GROUP:NAME"."""
    done = subprocess.run(
        ["exiftool", "-json", "-a", "-n", "-G1:4", *map(str, paths)],
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    listed = []
    for document in json.loads(done.stdout):
        values: dict[str, list[str]] = {}
        for name, value in document.items():
            values.setdefault(re.sub(r"Copy\d+:", "", name), []).append(str(value))
        listed.append(values)
    return listed


def thumbnail() -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels()).resize((32, 24)).save(file, "JPEG")
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    return png[:33] + b"".join(chunk(*c) for c in chunks) + png[33:]


GAMMA = struct.pack(">I", 55555)
PRIMARIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)


def make(folder: Path, format: str) -> Path:
    """Write a file with all that its format holds."""
    path = folder / f"source{SUFFIXES[format]}"
    image = Image.fromarray(pixels())
    if format == "png":
        texts = PngInfo()
        texts.add_text("parameters", "a tree\nSteps: 40")
        texts.add_text("workflow", "{}" * 500, zip=True)
        texts.add_itxt("Title", "Bäume", lang="de", tkey="Titel")
        texts.add_text("Comment", "first")
        texts.add_text("Comment", "second")
        file = io.BytesIO()
        image.save(file, "PNG", pnginfo=texts, dpi=(300, 300))
        path.write_bytes(
            with_chunks(
                file.getvalue(), (b"gAMA", GAMMA), (b"cHRM", PRIMARIES),
                (b"tIME", struct.pack(">HBBBBB", 2020, 1, 2, 3, 4, 5)),
                (b"bKGD", struct.pack(">3H", 1, 2, 3)), (b"sBIT", bytes([8, 8, 8])),
                (b"oFFs", struct.pack(">iiB", 1, 2, 0)),
            )
        )  # fmt: skip
        exiftool(*EXIF, *XMP, *IPTC, path)
        return path
    if format == "tiff":
        geo = [
            (33550, "d", 3, (0.5, 0.25, 0.0), True),
            (33922, "d", 6, (10.0, 20.0, 0.0, 440000.0, 5300000.0, 0.0), True),
            (34735, "H", 8, (1, 1, 0, 1, 1025, 0, 1, 1), True),
            (42112, "s", 0, "<GDALMetadata></GDALMetadata>", True),
            (42113, "s", 0, "-9999", True),
            (285, "s", 0, "A page", True),
            (269, "s", 0, "A document", True),
        ]
        tifffile.imwrite(
            path, pixels(), photometric="rgb", metadata=None, extratags=geo, iccprofile=ICC,
            resolution=(300, 300), resolutionunit="inch",
        )  # fmt: skip
        exiftool(*(e for e in EXIF if "Subject" not in e), *XMP, *IPTC, path)
        return path
    options = {"quality": 95, "dpi": (300, 300)} if format == "jpeg" else {"lossless": True}
    image.save(path, format.upper(), icc_profile=ICC, **options)
    if format == "jpeg":
        small = folder / "small.jpg"
        small.write_bytes(thumbnail())
        data = path.read_bytes()
        comments = b"".join(
            b"\xff\xfe" + struct.pack(">H", len(c) + 2) + c for c in (b"scanned 2003", b"again")
        )
        path.write_bytes(data[:20] + comments + data[20:])
        exiftool(*EXIF, *XMP, *IPTC, f"-ThumbnailImage<={small}", "-IFD1:Orientation=6", "-n", path)
    else:
        exiftool(*EXIF, *XMP, path)
    return path


def travelled(path: Path, target: Path, format: str) -> tuple[str, ...]:
    """Enlarge a file as a job does; return all its notes."""
    picture = read_picture(path.read_bytes(), name=path.name)
    larger = picture.pixels.repeat(SCALE, 1).repeat(SCALE, 2)
    metadata = enlarged(picture.metadata, SCALE)
    notes = write_picture(target, Picture(pixels=larger, metadata=metadata), format=format)
    return (*picture.metadata.notes, *notes)


# What tells of the file, not of the picture, or of how its pixels are stored.
LAYOUT = (
    "SourceFile", "ExifTool:", "System:", "Composite:", "JFIF:", "RIFF:", "Adobe:", "VP8",
    "PNG-pHYs:", "File:FileType", "File:MIMEType", "File:ExifByteOrder", "File:ImageWidth",
    "File:ImageHeight", "File:EncodingProcess", "File:BitsPerSample", "File:ColorComponents",
    "File:YCbCrSubSampling", "File:CurrentIPTCDigest", "PNG:BitDepth", "PNG:ColorType",
    "PNG:Compression", "PNG:Filter", "PNG:Interlace", "PNG:ImageWidth", "PNG:ImageHeight",
    "IFD0:BitsPerSample", "IFD0:Compression", "IFD0:PhotometricInterpretation", "IFD0:Strip",
    "IFD0:SamplesPerPixel", "IFD0:RowsPerStrip", "IFD0:PlanarConfiguration", "IFD0:Predictor",
    "IFD0:SubfileType", "IFD0:YCbCrPositioning", "IFD1:ThumbnailOffset", "IFD1:ThumbnailLength",
    "IFD1:ThumbnailImage", "IFD0:ResolutionUnit", "XMP-x:XMPToolkit",
    "IFD0:SampleFormat", "PNG:PixelUnits", "IFD0:ImageWidth", "IFD0:ImageHeight",
    "ICC_Profile", "ICC-header", "ICC-view", "ICC-meas", "PNG:ProfileName", "IFD0:ExtraSamples",
)  # fmt: skip
# What counts pixels, and what it has to be.
CHANGED: Mapping[str, Any] = {
    "ExifIFD:ExifImageWidth": WIDTH * SCALE,
    "ExifIFD:ExifImageHeight": HEIGHT * SCALE,
    "ExifIFD:FocalPlaneXResolution": 1000 * SCALE,
    "ExifIFD:FocalPlaneYResolution": 1000 * SCALE,
    "ExifIFD:SubjectArea": "20 40 16 12",
    "ExifIFD:SubjectLocation": "20 40",
    "IFD1:Orientation": 1,
    "XMP-tiff:ImageWidth": WIDTH * SCALE,
    "XMP-tiff:ImageHeight": HEIGHT * SCALE,
    "XMP-exif:ExifImageWidth": WIDTH * SCALE,
    "XMP-exif:ExifImageHeight": HEIGHT * SCALE,
    "XMP-exif:FocalPlaneXResolution": 1000 * SCALE,
    "XMP-GPano:FullPanoWidthPixels": 128 * SCALE,
    "XMP-mwg-rs:RegionAppliedToDimensionsW": WIDTH * SCALE,
    "XMP-mwg-rs:RegionAppliedToDimensionsH": HEIGHT * SCALE,
    "IFD0:PixelScale": "0.25 0.125 0",
    "IFD0:ModelTiePoint": "20 40 0 440000 5300000 0",
}
# What goes, from any format to these, and the words of the note that says so.
GONE: Mapping[str, tuple[tuple[str, ...], str]] = {
    "IFD1:": (("tiff",), "the EXIF thumbnail was removed"),
    "IPTC:": (("webp",), "IPTC captions"),
    "Photoshop:": (("webp",), "Photoshop's image resources"),
    "File:Comment": (("tiff", "webp"), "JPEG comment 'scanned 2003', 'again'"),
    "PNG:Comment": (("tiff", "webp"), "Comment"),
    "PNG:Parameters": (("jpeg", "tiff", "webp"), "parameters"),
    "PNG:Workflow": (("jpeg", "tiff", "webp"), "workflow"),
    "PNG:Title": (("jpeg", "tiff", "webp"), "Title"),
    "PNG:ModifyDate": (("jpeg", "tiff", "webp"), "tIME"),
    "PNG:BackgroundColor": (("jpeg", "tiff", "webp"), "bKGD"),
    "PNG:SignificantBits": (("jpeg", "tiff", "webp"), "sBIT"),
    "PNG:ImageOffset": (FORMATS, "oFFs"),
    "IFD0:XResolution": (("webp",), "the resolution (300 dpi)"),
    "IFD0:YResolution": (("webp",), "the resolution (300 dpi)"),
}
# What is in another place of another format: the same value is to be found there.
MOVED: Mapping[str, str] = {
    "File:Comment": "PNG:Comment",
    "PNG:Comment": "File:Comment",
    "IFD0:XResolution": "JFIF:XResolution",
    "IFD0:YResolution": "JFIF:YResolution",
}
# What a colour profile says instead.
COLOURS = (
    "PNG:Gamma",
    "PNG:WhitePointX",
    "PNG:WhitePointY",
    "PNG:RedX",
    "PNG:RedY",
    "PNG:GreenX",
    "PNG:GreenY",
    "PNG:BlueX",
    "PNG:BlueY",
)


def close(name: str, old: list[str], new: list[str]) -> bool:
    """Return whether both are the same resolution, which PNG rounds to whole pixels a metre."""
    return "Resolution" in name and float(new[0]) == pytest.approx(float(old[0]), rel=1e-4)


def complaint(
    name: str, values: list[str], after: Mapping[str, list[str]], notes: str, target: str
) -> str | None:
    """Return what is wrong with a field after travelling, None if all is well."""
    if name in CHANGED and name in after:
        values = [str(CHANGED[name])] * len(values)
    if name in after:
        same = after[name] == values or close(name, values, after[name])
        return None if same else f"{name} was {values!r}, is {after[name]!r}"
    if name in MOVED and sorted(after.get(MOVED[name], ())) == sorted(values):
        return None
    if "Resolution" in name and target == "png" and "PNG-pHYs:PixelsPerUnitX" in after:
        return None if after["PNG-pHYs:PixelsPerUnitX"] == ["11811"] else f"{name} is gone"
    if name in COLOURS and "ICC_Profile:RedMatrixColumn" in after:
        return None
    for start, (formats, words) in GONE.items():
        if name.startswith(start) and target in formats and words in notes:
            return None
    return f"{name} = {values!r} is gone without a note"


@needs_exiftool
@pytest.mark.parametrize("source", FORMATS)
def test_every_field_is_there_again_or_true_again_or_noted(tmp_path: Path, source: str) -> None:
    path = make(tmp_path, source)
    targets = {format: tmp_path / f"target{SUFFIXES[format]}" for format in FORMATS}
    notes = {f: " | ".join(travelled(path, target, f)) for f, target in targets.items()}
    before, *every = fields(path, *targets.values())
    assert len(before) > 60, "a rich input"
    complaints = [
        f"{source} -> {format}: {found}"
        for format, after in zip(FORMATS, every, strict=True)
        for name, value in before.items()
        if not name.startswith(LAYOUT)
        and (found := complaint(name, value, after, notes[format], format))
    ]
    assert not complaints, "\n".join(complaints)
