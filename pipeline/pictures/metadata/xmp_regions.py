"""Regions in XMP: outlines of parts of a picture, in pixels or in parts of its sides.

What belongs here: finding them in a packet, and the edits that turn or enlarge them. Sources: IPTC
Photo Metadata Standard 2019.1 (image regions); MWG Guidelines 2.0 and ACDSee's like structure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from pipeline.pictures.metadata.xmp_packet import RDF, statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.pictures.metadata.xmp_packet import Edit, Element, Name

IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
MWG = "http://www.metadataworkinggroup.com/schemas/regions/"
ACDSEE = "http://ns.acdsee.com/regions/"
_XMP_MM = "http://ns.adobe.com/xap/1.0/mm/"
_AREAS = ("http://ns.adobe.com/xmp/sType/Area#", "http://ns.acdsee.com/sType/Area#")
OF_OTHERS = tuple(
    (_XMP_MM, name)
    for name in ("Pantry", "Ingredients", "History", "Versions", "DerivedFrom", "ManagedFrom")
)
"""What these hold is about other pictures, and stays as it is."""

PIXELS, PARTS = "pixel", "relative"
_UNITS = {"pixel": PIXELS, "pixels": PIXELS, "relative": PARTS, "normalized": PARTS}
_NUMBER = re.compile(rb"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?\s*")
_KEYS = {"rbX": "x", "rbY": "y", "rbW": "w", "rbH": "h", "rbRx": "r"}
_FIELDS = {
    "rectangle": {"rbX", "rbY", "rbW", "rbH"},
    "circle": {"rbX", "rbY", "rbRx"},
    "polygon": {"rbX", "rbY"},
}

_Place = tuple[int, int]
_Statement = tuple["Name", _Place, "Element"]


@dataclass(frozen=True, slots=True)
class _Field:
    value: float
    place: _Place


@dataclass(frozen=True, slots=True)
class Region:
    """One outline in a packet; `points` is None where it cannot be read, `unit` where unknown.

    Each point has x and y. A single one may have sides w and h, and is then their centre or, with
    `is_corner`, their upper left; or a radius r, in parts of the width; or a diameter d, in parts
    of the shorter side.
    """

    element: Element
    unit: str | None
    points: tuple[dict[str, _Field], ...] | None
    is_corner: bool = False

    def turned(self, turn: int, *, width: int, height: int) -> list[Edit] | None:
        """Return what makes it true of a picture of this stored size turned upright.

        None where that is not known.
        """
        if self.points is None or self.unit is None:
            return None
        sides = (width, height) if self.unit == PIXELS else (1, 1)
        edits: list[Edit] = []
        for point in self.points:
            x, y, w, h = (point[n].value if n in point else 0.0 for n in "xywh")
            far = turned_point(x + w, y + h, turn, *sides) if self.is_corner else (x, y)
            near = turned_point(x, y, turn, *sides)
            new = dict(zip("xy", map(min, near, far) if self.is_corner else near, strict=True))
            new |= {"w": h, "h": w} if turn >= 5 else {}
            if "r" in point and turn >= 5 and self.unit == PARTS:
                new["r"] = point["r"].value * width / height
            edits += [(*point[n].place, _text(new[n])) for n in new if n in point]
        return edits

    def enlarged(self, scale: int) -> list[Edit] | None:
        """Return what makes it true of a picture `scale` times as large; None if not known."""
        if self.unit == PARTS:
            return []
        if self.points is None or self.unit is None:
            return None
        fields = [field for point in self.points for field in point.values()]
        return [(*field.place, _text(field.value * scale)) for field in fields]


def regions(data: bytes, elements: list[Element]) -> Iterator[Region]:
    """Yield the regions of a packet, those of other pictures that it mentions left out."""
    for n, element in enumerate(elements):
        read = _READERS.get(element.name)
        if read is None or element.within(*OF_OTHERS):
            continue
        yield read(data, element, list(statements(_with_inner(elements, n))))


def _with_inner(elements: list[Element], n: int) -> list[Element]:
    """Return the n-th element and those in it, which follow it at once in document order."""
    stop = elements[n].stop
    return list(takewhile(lambda e: e.start < stop, islice(elements, n, None)))


def turned_point(x: float, y: float, turn: int, width: float, height: float) -> tuple[float, float]:
    """Return where a point of the stored picture is in the one turned from orientation `turn`."""
    return {
        1: (x, y), 2: (width - x, y), 3: (width - x, height - y), 4: (x, height - y),
        5: (y, x), 6: (height - y, x), 7: (height - y, width - x), 8: (y, width - x),
    }.get(turn, (x, y))  # fmt: skip


def _boundary(data: bytes, region: Element, said: list[_Statement]) -> Region:
    """Return an IPTC region."""
    own: dict[str, _Place] = {}
    vertices: dict[int, dict[str, _Place]] = {}
    is_plain = True
    for (space, name), place, element in said:
        if space != IPTC:
            continue
        vertex = _vertex_of(element, region)
        fields = own if vertex is None else vertices.setdefault(vertex.start, {})
        is_plain = is_plain and name not in fields
        fields[name] = place
    unit = _UNITS.get(_word(data, own.pop("rbUnit", None)))
    shape = _word(data, own.pop("rbShape", None))
    points = [*([own] if own else []), *vertices.values()]
    is_plain = is_plain and bool(points) and (shape == "polygon" or len(points) == 1)
    if not is_plain or any(set(point) != _FIELDS.get(shape) for point in points):
        return Region(region, unit, None)
    return Region(region, unit, _numbers(data, points), is_corner=shape == "rectangle")


def _vertex_of(element: Element, region: Element) -> Element | None:
    """Return the item of the list of vertices that holds an element, None where none does."""
    outer: Element | None = element
    item = None
    while outer is not None and outer is not region:
        if outer.name == (RDF, "li") and item is None:
            item = outer
        if outer.name == (IPTC, "rbVertices"):
            return item or outer
        outer = outer.outer
    return None


def _area(data: bytes, region: Element, said: list[_Statement]) -> Region:
    """Return a region of MWG or ACDSee, whose unit is parts of the sides where it is not said."""
    own = {name: at for (space, name), at, _ in said if space in _AREAS}
    place = own.pop("unit", None)
    unit = PARTS if place is None else _UNITS.get(_word(data, place))
    own = {name: at for name, at in own.items() if name in "xywhd"}
    is_whole = {"x", "y"} <= set(own) and ("w" in own) == ("h" in own)
    return Region(region, unit, _numbers(data, [own]) if is_whole else None)


def _numbers(data: bytes, points: list[dict[str, _Place]]) -> tuple[dict[str, _Field], ...] | None:
    """Return the numbers at places; None if one of them is not a number."""
    places = [at for point in points for at in point.values()]
    if not all(_NUMBER.fullmatch(data[slice(*at)]) for at in places):
        return None
    return tuple(
        {_KEYS.get(name, name): _Field(float(data[slice(*at)]), at) for name, at in point.items()}
        for point in points
    )


def _word(data: bytes, place: _Place | None) -> str:
    return data[slice(*place)].decode("utf-8", "replace").strip().lower() if place else ""


def _text(value: float) -> bytes:
    """Return a number as XMP writes it, which knows no exponents."""
    text = f"{value:.9f}".rstrip("0").rstrip(".")
    return b"0" if text == "-0" else text.encode()


_READERS = {
    (IPTC, "RegionBoundary"): _boundary,
    (MWG, "Area"): _area,
    (ACDSEE, "DLYArea"): _area,
    (ACDSEE, "ALGArea"): _area,
}
