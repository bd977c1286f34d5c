"""XMP: single statements changed or cut out, every other byte of the packet as it was.

Sources: Adobe XMP Specification parts 1 to 3; Android Ultra HDR and Motion Photo formats; Google's
GDepth, GImage, GAudio, GPano and Dynamic Depth; MWG Guidelines 2.0; Camera Raw settings of XMP.
What outlines parts of the picture is in `xmp_regions`, and a packet in two parts
in `xmp_extension`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.pictures.metadata.xmp_packet import (
    RDF,
    edited,
    parsed,
    statements,
)
from pipeline.pictures.metadata.xmp_regions import ACDSEE, MWG, OF_OTHERS, regions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipeline.pictures.metadata.xmp_packet import Attribute, Edit, Element, Name

_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_CAMERA = "http://ns.google.com/photos/1.0/camera/"
_PANO = "http://ns.google.com/photos/1.0/panorama/"
_DIMENSIONS = (
    "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "http://ns.acdsee.com/sType/Dimensions#",
)
_APPLIED = ((MWG, "AppliedToDimensions"), (ACDSEE, "AppliedToDimensions"))
_MICROSOFT = "http://ns.microsoft.com/photo/1.2/"
_RAW = "http://ns.adobe.com/camera-raw-settings/1.0/"
_DRONE = "http://www.dji.com/drone-dji/1.0/"
_LENS = "http://pix4d.com/camera/1.0"

_OF_LOST_PARTS = (
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/depthmap/",
    "http://ns.google.com/photos/1.0/image/",
    "http://ns.google.com/photos/1.0/audio/",
    "http://ns.google.com/photos/dd/1.0/",
    "http://ns.apple.com/HDRGainMap/1.0/",
    "http://ns.oplus.com/photos/1.0/camera/",
)
"""Beginnings of the namespaces that only describe further pictures, films or sounds in a file."""

_MOTION = re.compile("MotionPhoto|MicroVideo")
_SIZES = {
    (_TIFF, "ImageWidth"): 0,
    (_TIFF, "ImageLength"): 1,
    (_EXIF, "PixelXDimension"): 0,
    (_EXIF, "PixelYDimension"): 1,
}
"""Statements of width (0) and height (1)."""


_SCALED = {
    (_DRONE, "CalibratedFocalLength"),
    (_DRONE, "CalibratedOpticalCenterX"),
    (_DRONE, "CalibratedOpticalCenterY"),
}
"""Other lengths in pixels."""
_UNSCALABLE = {(_DRONE, "DewarpData"), (_LENS, "VignettingCenter"), (_LENS, "VignettingPolynomial")}
"""Models of a lens in pixels, of which no rule here says which number is a length."""
_UNTURNABLE = {
    (_EXIF, "SubjectArea"),
    (_EXIF, "SubjectLocation"),
    (_MICROSOFT, "RegionInfo"),
    (_DRONE, "CalibratedOpticalCenterX"),
    (_DRONE, "CalibratedOpticalCenterY"),
    (_DRONE, "DewarpData"),
    (_LENS, "PrincipalPoint"),
    (_LENS, "PerspectiveDistortion"),
    (_LENS, "VignettingCenter"),
    (_LENS, "VignettingPolynomial2D"),
}
_PLACED_EDIT = re.compile(
    "(Has)?Crop|Retouch|RedEye|Upright|Perspective|[A-Za-z]+BasedCorrections$"
)
"""Camera Raw settings at a place of the picture."""
_ACROSS_AND_DOWN = (
    ((_EXIF, "FocalPlaneXResolution"), (_EXIF, "FocalPlaneYResolution")),
    ((_TIFF, "XResolution"), (_TIFF, "YResolution")),
)


@dataclass(frozen=True, slots=True)
class Cut:
    """A packet after statements were cut out of it, and their names."""

    xmp: bytes
    removed: tuple[str, ...]


def without_lost_parts(xmp: bytes) -> Cut:
    """Return the packet without statements about parts of a file that upres does not write.

    These are gain maps, films, sounds, depth maps and thumbnails.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    return cut(xmp, _is_of_lost_part)


def without_regions(xmp: bytes) -> Cut:
    """Return the packet without what a turn makes false and no rule here mends.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    data, elements = parsed(xmp)
    is_history = _raw_settings(data, elements).get("AlreadyApplied", "").lower() == "true"

    def is_gone(name: Name) -> bool:
        if name[0] == _RAW:
            return not is_history and _PLACED_EDIT.match(name[1]) is not None
        return name in _UNTURNABLE or name[0] == _PANO

    unread = [r.element for r in regions(data, elements) if r.unit is None or r.points is None]
    return cut(xmp, is_gone, places=[(element.start, element.stop) for element in unread])


def without_unscalable(xmp: bytes) -> Cut:
    """Return the packet without what is in pixels of the smaller picture and cannot be enlarged.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    data, elements = parsed(xmp)
    unread = [r.element for r in regions(data, elements) if r.enlarged(1) is None]
    places = [(element.start, element.stop) for element in unread]
    return cut(xmp, lambda name: name in _UNSCALABLE, places=places)


def turned(xmp: bytes, turn: int, *, width: int, height: int) -> bytes:
    """Return the packet with its regions in a picture turned upright from orientation `turn`.

    `width` and `height` are those of the stored picture. Regions that cannot be read stay.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    if not 2 <= turn <= 8:
        return xmp
    data, elements = parsed(xmp)
    edits: list[Edit] = []
    for region in regions(data, elements):
        edits += region.turned(turn, width=width, height=height) or []
    if turn >= 5:
        places = {name: at for name, at, e in statements(elements) if not e.within(*OF_OTHERS)}
        for across, down in _ACROSS_AND_DOWN:
            if across in places and down in places:
                a, b = places[across], places[down]
                edits += [(*a, data[slice(*b)]), (*b, data[slice(*a)])]
    return edited(xmp, data, edits)


def enlarged(xmp: bytes, scale: int) -> bytes:
    """Return the packet with what counts pixels for a picture `scale` times as large.

    What `without_unscalable` removes stays.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    data, elements = parsed(xmp)
    raw = _raw_settings(data, elements)
    crops = raw.get("CropUnits") == "0" and raw.get("AlreadyApplied", "").lower() != "true"
    edits = [edit for region in regions(data, elements) for edit in region.enlarged(scale) or ()]
    for name, span, element in statements(elements):
        inside = {(_EXIF, "SubjectArea"), (_EXIF, "SubjectLocation")}
        focal = name[0] == _EXIF and name[1].startswith("FocalPlane") and "Resolution" in name[1]
        pixels = name[0] == _PANO and (
            name[1].endswith("Pixels") or name[1].startswith("LargestValidInteriorRect")
        )
        listed = name == (RDF, "li") and element.within(*inside)
        crop = crops and name in {(_RAW, "CropWidth"), (_RAW, "CropHeight")}
        counts = pixels or listed or crop or (focal and not name[1].endswith("Unit"))
        if (counts or name in _SCALED) and not element.within(*OF_OTHERS):
            edits += _scaled(data, span, scale)
    return edited(xmp, data, edits)


def resized(xmp: bytes, *, width: int, height: int) -> bytes:
    """Return the packet with every statement of the picture's own size made true.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    data, elements = parsed(xmp)
    sides = (str(width).encode(), str(height).encode())
    edits: list[Edit] = []
    for name, span, element in statements(elements):
        if element.within(*OF_OTHERS):
            continue
        if name in _SIZES:
            edits.append((*span, sides[_SIZES[name]]))
        elif (
            name[0] in _DIMENSIONS
            and name[1] in ("w", "h")
            and (element.name in _APPLIED or element.within(*_APPLIED))
        ):
            edits.append((*span, sides["wh".index(name[1])]))
    return edited(xmp, data, edits)


def _is_of_lost_part(name: Name) -> bool:
    return (
        name[0].startswith(_OF_LOST_PARTS)
        or (name[0] == _CAMERA and _MOTION.match(name[1]) is not None)
        or name == (_XMP, "Thumbnails")
    )


def cut(
    xmp: bytes, is_gone: Callable[[Name], bool], *, places: Iterable[tuple[int, int]] = ()
) -> Cut:
    """Return the packet without the elements and attributes whose names are gone.

    Nor those elements that are at `places` (from, to). A namespace is no longer declared where all
    that was said in it is gone.
    """
    data, elements = parsed(xmp)
    edits: list[Edit] = []
    removed: dict[str, None] = {}
    places = set(places)
    gone = {id(e) for e in elements if is_gone(e.name) or (e.start, e.stop) in places}
    hidden = {id(e) for e in elements if _has_outer(e, gone)}
    for element in elements:
        if id(element) in hidden:
            continue
        if id(element) in gone:
            edits.append((element.start, element.stop, b""))
            removed.setdefault(element.label)
            continue
        for attribute in element.attributes:
            if is_gone(attribute.name):
                edits.append((*attribute.span, b""))
                removed.setdefault(_label(data, attribute))
    if not edits:
        return Cut(xmp, ())
    for element in elements:
        if id(element) not in gone | hidden:
            edits += [
                (*span, b"")
                for prefix, span in element.declarations.items()
                if element.scope[prefix].startswith(_OF_LOST_PARTS)
            ]
    return Cut(edited(xmp, data, edits), tuple(removed))


def _has_outer(element: Element, gone: set[int]) -> bool:
    outer = element.outer
    while outer is not None:
        if id(outer) in gone:
            return True
        outer = outer.outer
    return False


def _label(data: bytes, attribute: Attribute) -> str:
    return data[slice(*attribute.span)].split(b"=")[0].strip().decode("utf-8", "replace")


def _raw_settings(data: bytes, elements: list[Element]) -> dict[str, str]:
    """Return the Camera Raw settings that are single values."""
    return {
        name[1]: data[slice(*span)].decode("utf-8", "replace").strip()
        for name, span, element in statements(elements)
        if name[0] == _RAW and not element.within(*OF_OTHERS)
    }


def _scaled(data: bytes, span: tuple[int, int], scale: int) -> list[Edit]:
    """Return the edit that multiplies a number or a fraction, none for anything else."""
    match = re.fullmatch(rb"\s*(-?\d+)(\.\d+)?(/\d+)?\s*", data[slice(*span)])
    if match is None:
        return []
    if match[2]:
        return [(*span, f"{float(match[1] + match[2]) * scale:.9g}".encode() + (match[3] or b""))]
    return [(*span, str(int(match[1]) * scale).encode() + (match[3] or b""))]
