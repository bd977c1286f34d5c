"""An XMP packet as elements with their places in its bytes, and edits of those bytes.

Read by expat, which says where each element is. A document type, with which entities could grow
without end, is refused, and so is deep nesting. What the statements mean is in
`pipeline.pictures.metadata.xmp`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_MOST_DEPTH = 100
_TAG = re.compile(rb"<[^\s/>]+(?:\s+[^\s=<>\"']+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>")
_ATTRIBUTE = re.compile(rb"\s+([^\s=]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")

Name = tuple[str, str]
"""Namespace, and name in it."""
Edit = tuple[int, int, bytes]
"""From where to where of the bytes what stands instead."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: where it is, with the space before it, and where its value is."""

    name: Name
    span: tuple[int, int]
    value: tuple[int, int]


@dataclass(slots=True)
class Element:
    """One element: its tag begins at `start`; what it holds ends at `inner_end`, it at `stop`."""

    name: Name
    label: str
    start: int
    inner: int
    """Where the start tag ends."""
    outer: Element | None
    scope: dict[str, str]
    attributes: list[Attribute] = field(default_factory=list)
    declarations: dict[str, tuple[int, int]] = field(default_factory=dict)
    inner_end: int = 0
    stop: int = 0

    def within(self, *names: Name) -> bool:
        """Return whether it is in an element of one of these names."""
        outer = self.outer
        while outer is not None and outer.name not in names:
            outer = outer.outer
        return outer is not None


def parsed(xmp: bytes) -> tuple[bytes, list[Element]]:
    """Return (the packet in UTF-8, its elements in document order).

    Raises:
        ValueError: if it is not well-formed, or has a document type.
    """
    data = _utf8(xmp)
    elements: list[Element] = []
    open_ones: list[Element] = []
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


def _element(data: bytes, at: int, name: str, outer: Element | None) -> Element:
    tag = _TAG.match(data, at)
    if tag is None:
        raise ValueError(f"a tag at byte {at} cannot be read")
    scope = dict(outer.scope) if outer else {"xml": "http://www.w3.org/XML/1998/namespace"}
    raw = []
    declarations = {}
    place = at + 1 + len(name.encode())
    # Not `finditer`: of a long space without attributes it would try every place.
    while match := _ATTRIBUTE.match(data, place, tag.end()):
        place = match.end()
        label = match[1].decode("utf-8")
        group = 2 if match[2] is not None else 3
        if label == "xmlns" or label.startswith("xmlns:"):
            prefix = label.partition(":")[2]
            scope[prefix] = match[group].decode("utf-8")
            declarations[prefix] = match.span()
        else:
            raw.append((label, match.span(), match.span(group)))
    element = Element(_resolved(name, scope, ""), name, at, tag.end(), outer, scope)
    element.declarations = declarations
    element.attributes = [
        Attribute(_resolved(label, scope, None), span, value) for label, span, value in raw
    ]
    return element


def _resolved(label: str, scope: dict[str, str], default: str | None) -> Name:
    """Return (namespace, local name); names without a prefix have the default namespace, if any."""
    prefix, separator, local = label.rpartition(":")
    if not separator:
        return (scope.get("", "") if default is not None else ""), local
    return scope.get(prefix, prefix), local


def root_of(elements: Iterable[Element]) -> Element:
    """Return the element that holds all statements; ValueError if there is not one."""
    found = [element for element in elements if element.name == (RDF, "RDF")]
    if len(found) != 1:
        raise ValueError(f"the XMP has {len(found)} elements rdf:RDF, expected one")
    return found[0]


def statements(
    elements: list[Element],
) -> Iterator[tuple[Name, tuple[int, int], Element]]:
    """Yield (name, where its text is, element) of each attribute and each innermost element."""
    outers = {id(element.outer) for element in elements}
    for element in elements:
        for attribute in element.attributes:
            yield attribute.name, attribute.value, element
        if id(element) not in outers and element.inner_end > element.inner:
            yield element.name, (element.inner, element.inner_end), element


def self_contained(data: bytes, element: Element, outer: dict[str, str]) -> bytes:
    """Return an element with the namespaces declared in it that it takes from around it."""
    missing = [p for p in outer if p not in element.declarations and p != "xml"]
    added = "".join(f' xmlns{":" + p if p else ""}="{outer[p]}"' for p in missing).encode()
    end = element.start + 1 + len(element.label.encode())
    return data[element.start : end] + added + data[end : element.stop]


def edited(xmp: bytes, data: bytes, edits: Iterable[Edit]) -> bytes:
    """Return the packet with parts replaced; the very bytes where nothing changes."""
    changes = sorted(e for e in edits if data[e[0] : e[1]] != e[2])
    if not changes:
        return xmp
    parts, at = [], 0
    for start, stop, text in changes:
        parts += [data[at:start], text]
        at = stop
    return b"".join([*parts, data[at:]])
