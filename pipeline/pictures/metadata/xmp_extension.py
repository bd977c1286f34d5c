"""XMP in two parts: a standard packet, and an extension that it refers to by name.

JPEG has room for a small packet only, and so for an extension beside it; other formats take one
packet of both. Source: Adobe XMP Specification part 3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.pictures.metadata.xmp import cut
from pipeline.pictures.metadata.xmp_packet import (
    RDF,
    edited,
    parsed,
    root_of,
    self_contained,
    statements,
)

if TYPE_CHECKING:
    from pipeline.pictures.metadata.xmp_packet import Name

_NOTE = "http://ns.adobe.com/xmp/note/"


def with_extension(xmp: bytes, extended: bytes) -> bytes:
    """Return one packet of a standard and an extended one.

    Raises:
        ValueError: if one of them cannot be parsed.
    """
    data, elements = parsed(cut(xmp, _is_reference).xmp)
    more, others = parsed(extended)
    root, other_root = root_of(elements), root_of(others)
    children = [e for e in others if e.outer is other_root]
    added = b"\n".join(self_contained(more, child, other_root.scope) for child in children)
    if data[root.inner - 2 : root.inner] == b"/>":
        raise ValueError("the packet says nothing that could be extended")
    return data[: root.inner_end] + added + b"\n" + data[root.inner_end :]


def referring(xmp: bytes, guid: bytes) -> bytes:
    """Return the packet with its reference to an extension renamed.

    Raises:
        ValueError: if the packet cannot be parsed, or has no reference.
    """
    data, elements = parsed(xmp)
    edits = [(*span, guid) for name, span, _ in statements(elements) if _is_reference(name)]
    if not edits:
        raise ValueError("the packet refers to no extension")
    return edited(xmp, data, edits)


def without_reference(xmp: bytes) -> bytes:
    """Return the packet without its reference to an extension.

    Raises:
        ValueError: if the packet cannot be parsed.
    """
    return cut(xmp, _is_reference).xmp


def reference(guid: bytes) -> bytes:
    """Return a packet that says nothing but the name of its extension."""
    return (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="' + RDF.encode() + b'">'
        b'<rdf:Description rdf:about="" xmlns:xmpNote="' + _NOTE.encode() + b'" '
        b'xmpNote:HasExtendedXMP="' + guid + b'"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def is_empty(xmp: bytes) -> bool:
    """Return whether a packet states nothing.

    Raises:
        ValueError: if it cannot be parsed.
    """
    _, elements = parsed(xmp)
    about = (RDF, "about")
    frame = {(RDF, "RDF"), (RDF, "Description"), ("adobe:ns:meta/", "xmpmeta")}
    return all(
        e.name in frame
        and (e.name != (RDF, "Description") or all(a.name == about for a in e.attributes))
        for e in elements
    )


def unwrapped(xmp: bytes) -> bytes:
    """Return the packet without the padding at its end, which only serves editing in place."""
    xmp = xmp.rstrip(b"\0 \r\n\t")
    end = xmp.rfind(b"<?xpacket end=")
    return xmp if end < 0 else xmp[:end].rstrip(b" \r\n\t") + b"\n" + xmp[end:]


def extension_of(xmp: bytes) -> bytes:
    """Return what an extension holds of a whole packet: the same without its wrapper."""
    return re.sub(rb"<\?xpacket[^>]*\?>", b"", xmp).strip(b"\0 \r\n\t")


def _is_reference(name: Name) -> bool:
    return name == (_NOTE, "HasExtendedXMP")
