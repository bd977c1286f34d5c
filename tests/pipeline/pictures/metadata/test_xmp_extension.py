"""XMP in two parts becomes one packet, whose names mean what they meant."""

from __future__ import annotations

from pipeline.pictures.metadata import xmp, xmp_extension
from tests.pipeline.pictures.metadata.test_xmp import DC, packet


def test_an_extension_becomes_part_of_the_packet_with_its_namespaces() -> None:
    note = ' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="AB"'
    other = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:p="urn:p" '
        'xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<r:Description r:about=""><p:a>1</p:a></r:Description></r:RDF></x:xmpmeta>'
    )
    whole = xmp_extension.with_extension(packet(DC + note), other.encode())
    assert b"HasExtendedXMP" not in whole
    assert xmp.resized(whole, width=1, height=1) == whole, "still well-formed"
    assert b'<r:Description xmlns:x="adobe:ns:meta/" xmlns:p="urn:p"' in whole
    assert b"<p:a>1</p:a>" in whole
