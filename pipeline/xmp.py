"""XMP packets: single statements changed or cut out, every other byte as it was.

The packet is read by expat, which tells where each element is; what is changed is changed in the
bytes. A document type, with which entities could grow without end, is refused. Sources: Adobe XMP
Specification parts 1 to 3; Android Ultra HDR and Motion Photo formats; Google's GDepth, GImage,
GAudio, GPano and Dynamic Depth; MWG Guidelines 2.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_NOTE = "http://ns.adobe.com/xmp/note/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_CAMERA = "http://ns.google.com/photos/1.0/camera/"
_PANO = "http://ns.google.com/photos/1.0/panorama/"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
_AREA = "http://ns.adobe.com/xmp/sType/Area#"
_DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
_MICROSOFT = "http://ns.microsoft.com/photo/1.2/"

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

Name = tuple[str, str]
Edit = tuple[int, int, bytes]

_MOST_DEPTH = 100

_TAG = re.compile(rb"<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>")
_ATTRIBUTE = re.compile(rb"\s+([^\s=]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")


@dataclass(frozen=True, slots=True)
class _Attribute:
    name: Name
    span: tuple[int, int]
    value: tuple[int, int]


@dataclass(slots=True)
class _Element:
    name: Name
    label: str
    start: int
    inner: int
    """Where the start tag ends."""
    outer: _Element | None
    scope: dict[str, str]
    attributes: list[_Attribute] = field(default_factory=list)
    declarations: dict[str, tuple[int, int]] = field(default_factory=dict)
    inner_end: int = 0
    stop: int = 0

    def within(self, *names: Name) -> bool:
        """Return whether it is in an element of one of these names."""
        outer = self.outer
        while outer is not None and outer.name not in names:
            outer = outer.outer
        return outer is not None


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
    return _cut(xmp, _is_of_lost_part)


def without_regions(xmp: bytes) -> Cut:
    """Return the packet without what a turn makes false and no rule here mends.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    places = {(_EXIF, "SubjectArea"), (_EXIF, "SubjectLocation"), (_MICROSOFT, "RegionInfo")}
    return _cut(xmp, lambda name: name in places or name[0] == _PANO)


def turned(xmp: bytes, turn: int) -> bytes:
    """Return the packet with its regions (MWG) in a picture turned upright from orientation `turn`.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    data, elements = _parsed(xmp)
    edits: list[Edit] = []
    for area in elements:
        if area.name != (_REGIONS, "Area"):
            continue
        spans = {name[1]: span for name, span in _values(elements, area) if name[0] == _AREA}
        numbers = {n: _number(data[slice(*span)]) for n, span in spans.items() if n in "xywh"}
        x, y = numbers.get("x"), numbers.get("y")
        if x is not None and y is not None:
            numbers["x"], numbers["y"] = _turned_point(x, y, turn)
        if turn >= 5:
            numbers["w"], numbers["h"] = numbers.get("h"), numbers.get("w")
        edits += [
            (*spans[n], f"{value:.6g}".encode())
            for n, value in numbers.items()
            if value is not None and n in spans
        ]
    return _edited(xmp, data, edits if turn > 1 else [])


def enlarged(xmp: bytes, scale: int) -> bytes:
    """Return the packet with what counts pixels for a picture `scale` times as large.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    data, elements = _parsed(xmp)
    edits: list[Edit] = []
    for name, span, element in _statements(elements):
        inside = {(_EXIF, "SubjectArea"), (_EXIF, "SubjectLocation")}
        focal = name[0] == _EXIF and name[1].startswith("FocalPlane") and "Resolution" in name[1]
        pixels = name[0] == _PANO and (
            name[1].endswith("Pixels") or name[1].startswith("LargestValidInteriorRect")
        )
        listed = name == (_RDF, "li") and element.within(*inside)
        if pixels or listed or (focal and not name[1].endswith("Unit")):
            edits += _scaled(data, span, scale)
    return _edited(xmp, data, edits)


def resized(xmp: bytes, *, width: int, height: int) -> bytes:
    """Return the packet with every statement of the picture's own size made true.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    data, elements = _parsed(xmp)
    sides = (str(width).encode(), str(height).encode())
    edits: list[Edit] = []
    for name, span, element in _statements(elements):
        applied = (_REGIONS, "AppliedToDimensions")
        if name in _SIZES:
            edits.append((*span, sides[_SIZES[name]]))
        elif (
            name[0] == _DIMENSIONS
            and name[1] in ("w", "h")
            and (element.name == applied or element.within(applied))
        ):
            edits.append((*span, sides["wh".index(name[1])]))
    return _edited(xmp, data, edits)


def with_extension(xmp: bytes, extended: bytes) -> bytes:
    """Return one packet of a standard and an extended one.

    Raises:
        ValueError: if one of them cannot be parsed.
    """
    data, elements = _parsed(_cut(xmp, _is_reference).xmp)
    more, others = _parsed(extended)
    (root,) = _roots(elements)
    (other_root,) = _roots(others)
    children = [e for e in others if e.outer is other_root]
    added = b"\n".join(_self_contained(more, child, other_root.scope) for child in children)
    if data[root.inner - 2 : root.inner] == b"/>":
        raise ValueError("the packet says nothing that could be extended")
    return data[: root.inner_end] + added + b"\n" + data[root.inner_end :]


def referring(xmp: bytes, guid: bytes) -> bytes:
    """Return the packet with its reference to an extension renamed.

    Raises:
        ValueError: if the packet cannot be parsed, or has no reference.
    """
    data, elements = _parsed(xmp)
    edits = [(*span, guid) for name, span, _ in _statements(elements) if _is_reference(name)]
    if not edits:
        raise ValueError("the packet refers to no extension")
    return _edited(xmp, data, edits)


def without_reference(xmp: bytes) -> bytes:
    """Return the packet without its reference to an extension.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    return _cut(xmp, _is_reference).xmp


def reference(guid: bytes) -> bytes:
    """Return a packet that says nothing but the name of its extension."""
    return (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="' + _RDF.encode() + b'">'
        b'<rdf:Description rdf:about="" xmlns:xmpNote="' + _NOTE.encode() + b'" '
        b'xmpNote:HasExtendedXMP="' + guid + b'"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def is_empty(xmp: bytes) -> bool:
    """Return whether a packet states nothing.

    Raises:
        ValueError: if it cannot be parsed.
    """
    _, elements = _parsed(xmp)
    about = (_RDF, "about")
    frame = {(_RDF, "RDF"), (_RDF, "Description"), ("adobe:ns:meta/", "xmpmeta")}
    return all(
        e.name in frame
        and (e.name != (_RDF, "Description") or all(a.name == about for a in e.attributes))
        for e in elements
    )


def unwrapped(xmp: bytes) -> bytes:
    """Return the packet without the padding at its end, which only serves editing in place."""
    return re.sub(rb"\s+(<\?xpacket end=)", rb"\n\1", xmp.rstrip(b"\0 \r\n\t"))


def extension_of(xmp: bytes) -> bytes:
    """Return what an extension holds of a whole packet: the same without its wrapper."""
    return re.sub(rb"<\?xpacket[^>]*\?>", b"", xmp).strip(b"\0 \r\n\t")


def _is_of_lost_part(name: Name) -> bool:
    return (
        name[0].startswith(_OF_LOST_PARTS)
        or (name[0] == _CAMERA and _MOTION.match(name[1]) is not None)
        or name == (_XMP, "Thumbnails")
    )


def _is_reference(name: Name) -> bool:
    return name == (_NOTE, "HasExtendedXMP")


def _cut(xmp: bytes, is_gone: Callable[[Name], bool]) -> Cut:
    """Return the packet without the elements and attributes whose names are gone.

    A namespace is no longer declared where all that was said in it is gone.
    """
    data, elements = _parsed(xmp)
    edits: list[Edit] = []
    removed: dict[str, None] = {}
    gone = {id(e) for e in elements if is_gone(e.name)}
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
    return Cut(_edited(xmp, data, edits), tuple(removed))


def _has_outer(element: _Element, gone: set[int]) -> bool:
    outer = element.outer
    while outer is not None:
        if id(outer) in gone:
            return True
        outer = outer.outer
    return False


def _label(data: bytes, attribute: _Attribute) -> str:
    return data[slice(*attribute.span)].split(b"=")[0].strip().decode("utf-8", "replace")


def _parsed(xmp: bytes) -> tuple[bytes, list[_Element]]:
    """Return (the packet in UTF-8, its elements in document order).

    Raises:
        ValueError: if it is not well-formed, or has a document type.
    """
    data = _utf8(xmp)
    elements: list[_Element] = []
    open_ones: list[_Element] = []
    parser = expat.ParserCreate("utf-8")

    def start(name: str, _attributes: Any) -> None:
        if len(open_ones) == _MOST_DEPTH:
            raise ValueError(f"the XMP is nested deeper than {_MOST_DEPTH} elements")
        outer = open_ones[-1] if open_ones else None
        element = _element(data, parser.CurrentByteIndex, name, outer)
        elements.append(element)
        open_ones.append(element)

    def end(_name: str) -> None:
        element = open_ones.pop()
        element.inner_end = element.stop = element.inner
        if data[element.inner - 2 : element.inner] != b"/>":
            element.inner_end = parser.CurrentByteIndex
            element.stop = data.index(b">", element.inner_end) + 1

    def refuse(*_: Any) -> None:
        raise ValueError("the XMP has a document type")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data.rstrip(b"\0 \r\n\t"), True)
    except expat.ExpatError as error:
        raise ValueError(f"the XMP is not well-formed ({error})") from error
    return data, elements


def _utf8(xmp: bytes) -> bytes:
    """Return a packet in UTF-8, whichever Unicode encoding it is in."""
    for start, encoding in (
        (b"\xff\xfe\0\0", "utf-32-le"), (b"\0\0\xfe\xff", "utf-32-be"),
        (b"<\0\0\0", "utf-32-le"), (b"\0\0\0<", "utf-32-be"),
        (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"),
        (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"),
    ):  # fmt: skip
        if xmp.startswith(start):
            return xmp.decode(encoding).lstrip("\ufeff").encode()
    return xmp


def _element(data: bytes, at: int, name: str, outer: _Element | None) -> _Element:
    tag = _TAG.match(data, at)
    if tag is None:
        raise ValueError(f"a tag at byte {at} cannot be read")
    scope = dict(outer.scope) if outer else {"xml": "http://www.w3.org/XML/1998/namespace"}
    raw = []
    declarations = {}
    for match in _ATTRIBUTE.finditer(data, at, tag.end()):
        label = match[1].decode("utf-8")
        group = 2 if match[2] is not None else 3
        if label == "xmlns" or label.startswith("xmlns:"):
            prefix = label.partition(":")[2]
            scope[prefix] = match[group].decode("utf-8")
            declarations[prefix] = match.span()
        else:
            raw.append((label, match.span(), match.span(group)))
    element = _Element(_resolved(name, scope, ""), name, at, tag.end(), outer, scope)
    element.declarations = declarations
    element.attributes = [
        _Attribute(_resolved(label, scope, None), span, value) for label, span, value in raw
    ]
    return element


def _resolved(label: str, scope: dict[str, str], default: str | None) -> Name:
    """Return (namespace, local name); names without a prefix have the default namespace, if any."""
    prefix, separator, local = label.rpartition(":")
    if not separator:
        return (scope.get("", "") if default is not None else ""), local
    return scope.get(prefix, prefix), local


def _roots(elements: Iterable[_Element]) -> list[_Element]:
    found = [element for element in elements if element.name == (_RDF, "RDF")]
    if len(found) != 1:
        raise ValueError(f"the XMP has {len(found)} elements rdf:RDF, expected one")
    return found


def _statements(
    elements: list[_Element],
) -> Iterator[tuple[Name, tuple[int, int], _Element]]:
    """Yield (name, where its text is, element) of each attribute and each innermost element."""
    outers = {id(element.outer) for element in elements}
    for element in elements:
        for attribute in element.attributes:
            yield attribute.name, attribute.value, element
        if id(element) not in outers and element.inner_end > element.inner:
            yield element.name, (element.inner, element.inner_end), element


def _values(elements: list[_Element], inside: _Element) -> Iterator[tuple[Name, tuple[int, int]]]:
    """Yield (name, where its text is) of the fields of a structure."""
    for name, span, element in _statements(elements):
        if element is inside or (inside.start < element.start and element.stop <= inside.stop):
            yield name, span


def _self_contained(data: bytes, element: _Element, outer: dict[str, str]) -> bytes:
    """Return an element with the namespaces declared in it that it takes from around it."""
    missing = [p for p in outer if p not in element.declarations and p != "xml"]
    added = "".join(f' xmlns{":" + p if p else ""}="{outer[p]}"' for p in missing).encode()
    end = element.start + 1 + len(element.label.encode())
    return data[element.start : end] + added + data[end : element.stop]


def _number(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _scaled(data: bytes, span: tuple[int, int], scale: int) -> list[Edit]:
    """Return the edit that multiplies a number or a fraction, none for anything else."""
    match = re.fullmatch(rb"\s*(-?\d+)(\.\d+)?(/\d+)?\s*", data[slice(*span)])
    if match is None:
        return []
    if match[2]:
        return [(*span, f"{float(match[1] + match[2]) * scale:.9g}".encode() + (match[3] or b""))]
    return [(*span, str(int(match[1]) * scale).encode() + (match[3] or b""))]


def _turned_point(x: float, y: float, turn: int) -> tuple[float, float]:
    """Return where a point, in parts of width and height, is in the upright picture."""
    return {
        1: (x, y), 2: (1 - x, y), 3: (1 - x, 1 - y), 4: (x, 1 - y),
        5: (y, x), 6: (1 - y, x), 7: (1 - y, 1 - x), 8: (y, 1 - x),
    }.get(turn, (x, y))  # fmt: skip


def _edited(xmp: bytes, data: bytes, edits: Iterable[Edit]) -> bytes:
    """Return the packet with parts replaced; the very bytes where nothing changes."""
    changes = sorted(e for e in edits if data[e[0] : e[1]] != e[2])
    if not changes:
        return xmp
    parts, at = [], 0
    for start, stop, text in changes:
        parts += [data[at:start], text]
        at = stop
    return b"".join([*parts, data[at:]])
