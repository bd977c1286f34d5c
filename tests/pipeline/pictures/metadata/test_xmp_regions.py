"""Regions in XMP: they outline the same part of the picture after it is turned and enlarged."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.pictures.files import read_picture, write_picture
from pipeline.pictures.metadata import xmp
from pipeline.pictures.metadata.travel import enlarged
from pipeline.pictures.metadata.xmp_packet import parsed
from pipeline.pictures.metadata.xmp_regions import Region, regions
from pipeline.pictures.picture import Picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command

WIDTH, HEIGHT = 40, 24
X, Y, W, H = 6, 4, 10, 5
SCALE = 2
TURNS = range(1, 9)
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
HEAD = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    f'rdf:about="" xmlns:Iptc4xmpExt="{IPTC}">'
)
TAIL = "</rdf:Description></rdf:RDF></x:xmpmeta>"


def field(name: str, value: object) -> str:
    return f"<Iptc4xmpExt:rb{name}>{value}</Iptc4xmpExt:rb{name}>"


def boundary(shape: str, unit: str, inner: str = "", **fields: object) -> bytes:
    """Return a packet of one region with a name."""
    said = field("Shape", shape) + field("Unit", unit)
    said += "".join(field(name, value) for name, value in fields.items()) + inner
    return (
        f'{HEAD}<Iptc4xmpExt:ImageRegion><rdf:Bag><rdf:li rdf:parseType="Resource">'
        f"<Iptc4xmpExt:rId>ann</Iptc4xmpExt:rId>"
        f'<Iptc4xmpExt:RegionBoundary rdf:parseType="Resource">{said}</Iptc4xmpExt:RegionBoundary>'
        f"</rdf:li></rdf:Bag></Iptc4xmpExt:ImageRegion>{TAIL}"
    ).encode()


def area(unit: str, **fields: object) -> bytes:
    """Return a packet of one region of MWG."""
    said = "".join(f' stArea:{name}="{value}"' for name, value in fields.items())
    unit = f' stArea:unit="{unit}"' if unit else ""
    return (
        f'{HEAD}<mwg-rs:Regions xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"'
        f' xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"><mwg-rs:Area{said}{unit}/>'
        f"</mwg-rs:Regions>{TAIL}"
    ).encode()


def vertices(*points: tuple[object, object]) -> str:
    listed = "".join(
        f'<rdf:li Iptc4xmpExt:rbX="{x}"><Iptc4xmpExt:rbY>{y}</Iptc4xmpExt:rbY></rdf:li>'
        for x, y in points
    )
    return f"<Iptc4xmpExt:rbVertices><rdf:Seq>{listed}</rdf:Seq></Iptc4xmpExt:rbVertices>"


def only(packet: bytes) -> tuple[Region, list[dict[str, float]]]:
    """Return the region of a packet, and its numbers."""
    (region,) = regions(*parsed(packet))
    return region, [{n: f.value for n, f in p.items()} for p in region.points or ()]


def marked(turn: int, packet: bytes) -> bytes:
    """Return a PNG, black but for the part (X, Y, W, H) of its stored pixels."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[Y : Y + H, X : X + W] = 255
    exif = Image.Exif()
    exif[274] = turn
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet.decode())
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif, pnginfo=info)
    return file.getvalue()


def travelled(turn: int, packet: bytes, folder: Path) -> tuple[Picture, tuple[str, ...]]:
    """Return a picture after it was turned, enlarged, written and read again, and all notes."""
    picture = read_picture(marked(turn, packet), name="a.png")
    larger = picture.pixels.repeat(SCALE, 1).repeat(SCALE, 2)
    made = Picture(pixels=larger, metadata=enlarged(picture.metadata, SCALE))
    notes = write_picture(folder / "b.png", made, format="png")
    again = read_picture((folder / "b.png").read_bytes(), name="b.png")
    return again, (*picture.metadata.notes, *notes)


def box_of(packet: bytes, picture: Picture) -> tuple[float, ...]:
    """Return (left, top, right, bottom), in pixels, of all points of the region of a packet."""
    region, points = only(packet)
    height, width = picture.pixels.shape[1:]
    across, down = (1, 1) if region.unit == "pixel" else (width, height)
    boxes = []
    for point in points:
        x, y = point["x"] * across, point["y"] * down
        w, h = point.get("w", 0) * across, point.get("h", 0) * down
        left, top = (x, y) if region.is_corner else (x - w / 2, y - h / 2)
        boxes.append((left, top, left + w, top + h))
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return (min(lefts), min(tops), max(rights), max(bottoms))


SAME_PART = {
    "IPTC, pixels": boundary("rectangle", "pixel", X=X, Y=Y, W=W, H=H),
    "IPTC, parts": boundary(
        "rectangle", "relative", X=X / WIDTH, Y=Y / HEIGHT, W=W / WIDTH, H=H / HEIGHT
    ),
    "IPTC, polygon": boundary(
        "polygon", "pixel", vertices((X, Y), (X + W, Y), (X + W, Y + H), (X, Y + H))
    ),
    "IPTC, polygon in parts": boundary(
        "polygon",
        "relative",
        vertices((X / WIDTH, Y / HEIGHT), ((X + W) / WIDTH, (Y + H) / HEIGHT)),
    ),
    "MWG, parts": area(
        "normalized", x=(X + W / 2) / WIDTH, y=(Y + H / 2) / HEIGHT, w=W / WIDTH, h=H / HEIGHT
    ),
    "MWG, pixels": area("pixel", x=X + W / 2, y=Y + H / 2, w=W, h=H),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", SAME_PART)
def test_a_region_outlines_the_same_pixels_after_turning_and_enlarging(
    kind: str, turn: int, tmp_path: Path
) -> None:
    picture, notes = travelled(turn, SAME_PART[kind], tmp_path)
    assert notes == ()
    rows, columns = np.nonzero(picture.pixels[0])
    there = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert box_of(picture.metadata.xmp or b"", picture) == pytest.approx(there, abs=1e-6)


CENTRES = [(20, 16), (60, 16), (60, 32), (20, 32), (16, 20), (32, 20), (32, 60), (16, 60)]
"""Where (10, 8) is, in the picture turned and twice as large."""


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    ("packet", "radius_px"),
    [
        (boundary("circle", "pixel", X=10, Y=8, Rx="4.5"), 4.5 * SCALE),
        (boundary("Circle", "relative", X=0.25, Y=1 / 3, Rx=0.125), 0.125 * WIDTH * SCALE),
    ],
)
def test_a_circle_keeps_its_radius_which_is_in_parts_of_the_width(
    packet: bytes, radius_px: float, turn: int, tmp_path: Path
) -> None:
    picture, _ = travelled(turn, packet, tmp_path)
    region, (point,) = only(picture.metadata.xmp or b"")
    height, width = picture.pixels.shape[1:]
    across, down = (1, 1) if region.unit == "pixel" else (width, height)
    assert point["r"] * across == pytest.approx(radius_px, abs=1e-6)
    x, y = [(20, 16), (60, 16), (60, 32), (20, 32), (16, 20), (32, 20), (32, 60), (16, 60)][
        turn - 1
    ]
    assert (point["x"] * across, point["y"] * down) == pytest.approx((x, y), abs=1e-6)


def test_numbers_in_pixels_are_multiplied_and_no_other_byte_changes() -> None:
    before = boundary("rectangle", "pixel", X=10, Y=" 2.25 ", W="8.", H="1e1")
    after = boundary("rectangle", "pixel", X=30, Y="6.75", W="24", H="30")
    assert xmp.enlarged(before, 3) == after


UNREAD = {
    "no unit": boundary("rectangle", "", X=1, Y=2, W=3, H=4),
    "another unit": boundary("rectangle", "percent", X=1, Y=2, W=3, H=4),
    "another shape": boundary("ellipse", "pixel", X=1, Y=2, Rx=3),
    "a side missing": boundary("rectangle", "pixel", X=1, Y=2, W=3),
    "a side too many": boundary("rectangle", "pixel", X=1, Y=2, W=3, H=4, Rx=5),
    "twice": boundary("rectangle", "pixel", field("X", 5), X=1, Y=2, W=3, H=4),
    "no number": boundary("rectangle", "pixel", X="left", Y=2, W=3, H=4),
    "a comma": boundary("rectangle", "pixel", X="1,5", Y=2, W=3, H=4),
    "not a number": boundary("circle", "pixel", X="nan", Y=2, Rx=1),
    "no vertices": boundary("polygon", "pixel"),
    "half a vertex": boundary("polygon", "pixel", vertices((1, 2), ("", 4))),
    "empty": f"{HEAD}<Iptc4xmpExt:RegionBoundary/>{TAIL}".encode(),
}
NOTE = "XMP Iptc4xmpExt:RegionBoundary: removed, as "


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("case", UNREAD)
def test_an_outline_that_cannot_be_read_is_removed_and_noted_and_its_name_stays(
    case: str, turn: int, tmp_path: Path
) -> None:
    picture, notes = travelled(turn, UNREAD[case], tmp_path)
    why = "upres cannot enlarge it with the picture" if turn == 1 else "the picture was turned"
    assert notes == (NOTE + why,)
    assert b"RegionBoundary" not in (picture.metadata.xmp or b"")
    assert case == "empty" or b"<Iptc4xmpExt:rId>ann</Iptc4xmpExt:rId>" in (
        picture.metadata.xmp or b""
    )


def test_an_outline_in_parts_needs_no_numbers_to_stay_true_of_a_larger_picture(
    tmp_path: Path,
) -> None:
    packet = boundary("rectangle", "relative", X="left", Y=2, W=3, H=4)
    picture, notes = travelled(1, packet, tmp_path)
    assert (picture.metadata.xmp, notes) == (packet, ())


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed (libimage-exiftool-perl)"
)
def test_regions_that_exiftool_writes_are_true_in_the_exported_file(
    tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    path = tmp_path / "in" / "a.jpg"
    path.parent.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), (9, 99, 9)).save(path)
    told = (
        "-ImageRegion=[{RegionBoundary={RbShape=rectangle,RbUnit=pixel,RbX=6,RbY=4,RbW=10,RbH=5},"
        "Name=Ann},{RegionBoundary={RbShape=circle,RbUnit=pixel,RbX=10,RbY=8,RbRx=4.5}},"
        "{RegionBoundary={RbShape=polygon,RbUnit=pixel,RbVertices=[{RbX=1,RbY=2},{RbX=9,RbY=2}]}},"
        "{RegionBoundary={RbShape=rectangle,RbUnit=relative,RbX=0.25,RbY=0.5,RbW=0.1,RbH=0.2}}]"
    )
    words = ["exiftool", "-q", "-overwrite_original", "-n", "-Orientation=6", told, path]
    subprocess.run([str(word) for word in words], check=True, timeout=600)
    out = tmp_path / "out"
    job = ("upscale", path.parent, tmp_path / "job", "--model", "nearest-x2", "--export", out)
    assert upres(*job, *cluster).code == 0
    assert [outline(region) for region in read_by_exiftool(out / "a.jpg")] == [
        {"shape": "Rectangle", "unit": "Pixel", "X": 30, "Y": 12, "W": 10, "H": 20},
        {"shape": "Circle", "unit": "Pixel", "X": 32, "Y": 20, "Rx": 9},
        {"shape": "Polygon", "unit": "Pixel", "vertices": [(44, 2), (44, 18)]},
        {"shape": "Rectangle", "unit": "Relative", "X": 0.3, "Y": 0.25, "W": 0.2, "H": 0.1},
    ]


def read_by_exiftool(path: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["exiftool", "-json", "-struct", "-ImageRegion", str(path)],
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    listed: list[dict[str, Any]] = json.loads(done.stdout)[0]["ImageRegion"]
    return listed


def outline(region: dict[str, Any]) -> dict[str, Any]:
    said = region["RegionBoundary"]
    made = {name.removeprefix("Rb"): value for name, value in said.items()}
    made["shape"], made["unit"] = made.pop("Shape"), made.pop("Unit")
    if "Vertices" in made:
        made["vertices"] = [(v["RbX"], v["RbY"]) for v in made.pop("Vertices")]
    return made
