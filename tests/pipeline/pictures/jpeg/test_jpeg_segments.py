"""JPEG: what stands before and behind the picture is carried, or noted, whatever its size."""

from __future__ import annotations

import hashlib
import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.pictures.files import read_picture, write_picture
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.metadata.photoshop import iptc_of_tiff, joined, parted
from pipeline.pictures.picture import Picture
from tests.pipeline.pictures.metadata.test_xmp import CAMERA, CONTAINER, DC, NAMESPACES, packet

if TYPE_CHECKING:
    from pathlib import Path

XMP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
FILM = b"\0\0\0\x18ftypmp42" + bytes(300) + b"\xff\xd8\xff\xe0 inside the film" + b"x" * 500
PIXELS = np.full((3, 40, 40), 90, np.uint8)


def jpeg(size: int = 24) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (90, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(*segments: bytes, behind: bytes = b"") -> bytes:
    data = jpeg()
    return data[:2] + b"".join(segments) + data[2:] + behind


def metadata_of(data: bytes) -> Metadata:
    return read_picture(data, name="a.jpg").metadata


def written(path: Path, metadata: Metadata, format: str = "jpeg") -> tuple[Metadata, Any]:
    notes = write_picture(path, Picture(pixels=PIXELS, metadata=metadata), format=format)
    return read_picture(path.read_bytes(), name=path.name).metadata, notes


@pytest.mark.parametrize("format", ["jpeg", "png", "tiff", "webp"])
def test_an_hdr_picture_no_longer_declares_its_gain_map(tmp_path: Path, format: str) -> None:
    said = packet(NAMESPACES + DC + ' hdrgm:Version="1.0"', CONTAINER)
    gain_map = jpeg(8)
    data = with_segments(
        segment(0xE1, XMP + said), segment(0xE2, b"MPF\0" + bytes(60)), behind=gain_map
    )
    metadata = metadata_of(data)
    assert f"the gain map of the HDR picture: {len(gain_map)} bytes, not kept" in metadata.notes
    assert any("(MPF): 64 bytes, not kept" in note for note in metadata.notes)
    back, notes = written(tmp_path / "a", metadata, format)
    assert back.xmp == packet(DC)
    assert any("hdrgm:Version, Container:Directory" in note for note in notes)
    assert b"hdrgm" not in (tmp_path / "a").read_bytes()


def test_a_motion_photo_no_longer_declares_its_film(tmp_path: Path) -> None:
    said = packet(CAMERA + ' GCamera:MotionPhoto="1" GCamera:MicroVideoOffset="800"')
    metadata = metadata_of(with_segments(segment(0xE1, XMP + said), behind=FILM))
    assert metadata.notes == (
        f"the embedded film of the motion photo: {len(FILM)} bytes, not kept",
    )
    back, _ = written(tmp_path / "a", metadata)
    assert back.xmp == packet(CAMERA)


def test_data_that_a_maker_put_before_the_film_is_noted_too() -> None:
    notes = metadata_of(with_segments(behind=b"SEFH\1\2" * 10 + FILM)).notes
    assert notes == (
        "data after the picture: 60 bytes, not kept",
        f"the embedded film of the motion photo: {len(FILM)} bytes, not kept",
    )


@pytest.mark.parametrize("padding", [b"", b"\0" * 999, b"\r\n"])
def test_padding_behind_the_picture_is_nothing_to_note(padding: bytes) -> None:
    assert metadata_of(with_segments(behind=padding)).notes == ()


def test_unknown_segments_are_noted_once_a_kind() -> None:
    metadata = metadata_of(
        with_segments(
            segment(0xEC, b"Ducky\0" + bytes(11)),
            segment(0xEB, b"JP\0\1\0\0\0\1" + b"\0\0\0\x1ejumb" + bytes(50)),
            segment(0xE0, b"JFXX\0\x10" + bytes(40)),
            segment(0xE3, b"Meta" + bytes(6)),
            segment(0xE3, b"Meta" + bytes(6)),
        )
    )
    assert metadata.notes == (
        "JPEG segment APP12 (Ducky): 17 bytes, not kept",
        "signed content credentials, which hold for the original's bytes alone: 66 bytes, not kept",
        "the JFIF thumbnail: 46 bytes, not kept",
        "JPEG segment APP3 (Meta): 20 bytes, not kept",
    )


# XMP in two parts

DEPTH = ' xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/"'
REFERENCE = ' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="{}"'


def extension(attributes: str) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about=""{attributes}/></rdf:RDF></x:xmpmeta>'
    ).encode()


def extended(content: bytes, *, parts_bytes: int = 60_000) -> tuple[str, list[bytes]]:
    guid = hashlib.md5(content).hexdigest().upper()
    return guid, [
        segment(
            0xE1,
            EXTENDED + guid.encode() + struct.pack(">II", len(content), at)
            + content[at : at + parts_bytes],
        )
        for at in range(0, len(content), parts_bytes)
    ]  # fmt: skip


def two_parts(attributes: str) -> bytes:
    guid, parts = extended(extension(attributes))
    standard = packet(DC + REFERENCE.format(guid))
    # In any order, as the specification allows.
    return with_segments(segment(0xE1, XMP + standard), *reversed(parts))


LONG = ' xmlns:p="urn:p" p:long="' + "words " * 30_000 + '"'


@pytest.mark.parametrize("format", ["jpeg", "png", "tiff", "webp"])
def test_long_xmp_in_two_parts_arrives_whole(tmp_path: Path, format: str) -> None:
    back, notes = written(tmp_path / "a", metadata_of(two_parts(LONG)), format)
    assert notes == ()
    if format == "jpeg":
        assert back.xmp_extended == extension(LONG)
        assert back.xmp is not None
        assert hashlib.md5(extension(LONG)).hexdigest().upper().encode() in back.xmp
    else:
        assert back.xmp is not None
        assert b"HasExtendedXMP" not in back.xmp
        assert LONG[15:].encode() in back.xmp
        assert b'dc:source="a &gt; b > c"' in back.xmp


def test_a_depth_map_in_the_second_part_goes_with_the_reference_to_it(tmp_path: Path) -> None:
    metadata = metadata_of(two_parts(DEPTH + ' GDepth:Data="' + "A" * 90_000 + '"'))
    back, notes = written(tmp_path / "a", metadata)
    assert back.xmp_extended is None
    assert back.xmp is not None
    assert b"HasExtendedXMP" not in back.xmp
    assert any("GDepth:Data" in note for note in notes)
    assert (tmp_path / "a").stat().st_size < 10_000


def test_xmp_above_a_segment_goes_into_two_parts_of_a_jpeg(tmp_path: Path) -> None:
    metadata = Metadata(format="png", mode="RGB", xmp=packet(LONG))
    back, notes = written(tmp_path / "a.jpg", metadata)
    assert notes == ()
    assert back.xmp_extended is not None
    assert LONG.encode() in back.xmp_extended
    again, _ = written(tmp_path / "a.png", back, "png")
    assert again.xmp is not None
    assert LONG[15:].encode() in again.xmp


def test_xmp_that_is_long_by_its_padding_alone_stays_in_one_part(tmp_path: Path) -> None:
    padded = packet(DC).replace(b"\n     <?xpacket end", b"\n" + b" " * 70_000 + b"<?xpacket end")
    back, _ = written(tmp_path / "a.jpg", Metadata(format="png", mode="RGB", xmp=padded))
    assert back.xmp == packet(DC).replace(b"\n     <?xpacket end", b"\n<?xpacket end")


@pytest.mark.parametrize(("size", "kept"), [(100, True), (90_000, False)])
def test_broken_xmp_is_noted_and_costs_no_picture(tmp_path: Path, size: int, kept: bool) -> None:
    broken = b"<x:xmpmeta>" + b"y" * size
    back, notes = written(tmp_path / "a.jpg", Metadata(format="png", mode="RGB", xmp=broken))
    assert (back.xmp == broken) == kept
    (note,) = notes
    assert ("cannot be parsed, and was kept" if kept else "too large for JPEG, and was not") in note


# Sizes


def exif_of(*sizes: int) -> bytes:
    exif = Image.Exif()
    exif[271] = "Maker"
    for number, size in enumerate(sizes):
        exif.get_ifd(34665)[37510 if number == 0 else 41730] = b"x" * size
    return exif.tobytes().removeprefix(b"Exif\0\0")


def test_exif_above_a_segment_loses_its_largest_values_and_says_so(tmp_path: Path) -> None:
    metadata = Metadata(format="png", mode="RGB", exif=exif_of(90_000, 5000))
    back, notes = written(tmp_path / "a.jpg", metadata)
    assert notes == ("EXIF tags 37510 (90 KB) are too large, and were not kept",)
    found = Image.Exif()
    found.load(back.exif or b"")
    assert found[271] == "Maker"
    assert found.get_ifd(34665)[41730] == b"x" * 5000
    for format in ("png", "webp", "tiff"):
        assert written(tmp_path / "a", metadata, format)[1] == ()


def test_exif_of_many_small_values_is_cut_at_once(tmp_path: Path) -> None:
    entries = [struct.pack("<HHIHH", code, 3, 1, 7, 0) for code in range(1000, 13_000)]
    exif = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    back, notes = written(tmp_path / "a.jpg", Metadata(format="png", mode="RGB", exif=exif))
    assert back.exif is not None
    assert 60_000 < len(back.exif) <= 65_527
    assert len(notes) == 1


def test_comments_of_every_size_arrive_or_are_noted(tmp_path: Path) -> None:
    comments = (b"a" * 65_533, "Bäume".encode(), b"\xe4 in Latin-1", b"nul\0inside")
    data = with_segments(*(segment(0xFE, c) for c in comments))
    metadata = metadata_of(data)
    assert metadata.comments == comments
    assert written(tmp_path / "a.jpg", metadata)[0].comments == comments
    png, notes = written(tmp_path / "a.png", metadata, "png")
    assert notes == ()
    with Image.open(tmp_path / "a.png") as image:
        texts = [body.split(b"\0")[-1] for kind, body in png.chunks if kind in ("tEXt", "iTXt")]
        assert image.text["Comment"]
    assert texts[0] == comments[0]
    assert texts[2].decode("latin-1") == "ä in Latin-1"
    long = Metadata(format="png", mode="RGB", chunks=(("tEXt", b"Comment\0" + b"a" * 70_000),))
    back, notes = written(tmp_path / "b.jpg", long)
    assert back.comments == ()
    assert notes == ("a comment of 70 KB is too large for JPEG, and was not kept",)


def test_a_colour_profile_above_a_segment_goes_into_several(tmp_path: Path) -> None:
    icc = bytes(16) + b"RGB " + bytes(200_000)
    assert written(tmp_path / "a.jpg", Metadata(format="png", mode="RGB", icc=icc))[0].icc == icc


# IPTC and Photoshop


def record(number: int, text: bytes) -> bytes:
    return b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(text)) + text


def resource(kind: int, content: bytes) -> bytes:
    padded = content + b"\0" * (len(content) % 2)
    return b"8BIM" + struct.pack(">HHI", kind, 0, len(content)) + padded


IPTC = b"".join(record(120, b"%d" % n + b"caption " * 3000) for n in range(6))
DIGEST = resource(0x0425, hashlib.md5(IPTC).digest())


@pytest.mark.parametrize("format", ["jpeg", "png", "tiff"])
def test_captions_larger_than_a_segment_arrive_with_their_digest(
    tmp_path: Path, format: str
) -> None:
    block = resource(0x0404, IPTC) + DIGEST
    parts = [
        segment(0xED, b"Photoshop 3.0\0" + block[at : at + 60_000])
        for at in range(0, len(block), 60_000)
    ]
    assert len(parts) > 2
    back, notes = written(tmp_path / "a", metadata_of(with_segments(*parts)), format)
    assert (back.iptc, back.photoshop, notes) == (IPTC, DIGEST, ())


def test_photoshops_thumbnail_and_slices_are_removed_and_noted() -> None:
    block = resource(0x040C, bytes(31)) + DIGEST + resource(0x041A, bytes(9)) + b"8BI"
    found = parted(block)
    assert found.others == DIGEST
    assert found.notes == (
        "Photoshop's thumbnail: removed (31 bytes)",
        "Photoshop's slices: removed (9 bytes)",
        "3 bytes of the Photoshop block are damaged and were not kept",
    )


def test_captions_that_a_tiff_holds_as_swapped_numbers_are_read() -> None:
    padded = IPTC + b"\0" * (-len(IPTC) % 4)
    count = len(padded) // 4
    swapped = struct.pack(f"<{count}I", *struct.unpack(f">{count}I", padded))
    assert iptc_of_tiff(swapped) == padded
    assert iptc_of_tiff(padded) == padded
    assert iptc_of_tiff(b"something else") is None
    assert parted(joined(IPTC, DIGEST)).iptc == IPTC
