"""XMP: exactly the false statements go or change, and every other byte is as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pictures.metadata import xmp
from tests.examples import examples

HEAD = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
)
TAIL = '</rdf:RDF></x:xmpmeta>\n     <?xpacket end="w"?>'
CONTAINER = (
    "<Container:Directory><rdf:Seq><rdf:li rdf:parseType='Resource'><Container:Item "
    'Item:Semantic="GainMap" Item:Length="99"/></rdf:li></rdf:Seq></Container:Directory>'
)
NAMESPACES = (
    ' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"'
    ' xmlns:Container="http://ns.google.com/photos/1.0/container/"'
    ' xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
)
CAMERA = ' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"'
DC = ' xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="a &gt; b > c"'


def packet(attributes: str, inner: str = "") -> bytes:
    return (
        f'{HEAD}<rdf:Description rdf:about=""{attributes}>{inner}</rdf:Description>{TAIL}'.encode()
    )


@pytest.mark.parametrize(
    ("attributes", "inner", "left", "names"),
    [
        (
            NAMESPACES + DC + ' hdrgm:Version="1.0"', CONTAINER + "<dc:title>x</dc:title>",
            packet(DC, "<dc:title>x</dc:title>"), ("hdrgm:Version", "Container:Directory"),
        ),
        (
            CAMERA + ' GCamera:MotionPhoto="1" GCamera:BurstID="7" GCamera:MicroVideoOffset="9"',
            "",
            packet(CAMERA + ' GCamera:BurstID="7"'),
            ("GCamera:MotionPhoto", "GCamera:MicroVideoOffset"),
        ),
        (
            CAMERA + DC, "<GCamera:MotionPhoto>1</GCamera:MotionPhoto><!-- a <b> -->",
            packet(CAMERA + DC, "<!-- a <b> -->"), ("GCamera:MotionPhoto",),
        ),
        (
            ' xmlns:D="http://ns.google.com/photos/1.0/depthmap/" D:Near="1" D:Far="2"' + DC, "",
            packet(DC), ("D:Near", "D:Far"),
        ),
        (
            ' xmlns:q="http://ns.adobe.com/xap/1.0/" q:Rating="3"',
            "<q:Thumbnails><rdf:Alt/></q:Thumbnails>",
            packet(' xmlns:q="http://ns.adobe.com/xap/1.0/" q:Rating="3"'), ("q:Thumbnails",),
        ),
        # A prefix means nothing: the same letters under another namespace stay.
        (' xmlns:hdrgm="urn:x" hdrgm:Version="1.0"', "",
         packet(' xmlns:hdrgm="urn:x" hdrgm:Version="1.0"'), ()),
    ],
)  # fmt: skip
def test_exactly_the_statements_about_lost_parts_are_cut_out(
    attributes: str, inner: str, left: bytes, names: tuple[str, ...]
) -> None:
    cut = xmp.without_lost_parts(packet(attributes, inner))
    assert cut.xmp == left
    assert cut.removed == names


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32-le"])
def test_packets_in_every_unicode_encoding_are_read(encoding: str) -> None:
    data = packet(NAMESPACES + ' hdrgm:Version="1.0"' + DC).decode().encode(encoding)
    assert xmp.without_lost_parts(data).xmp.replace(b"\xef\xbb\xbf", b"") == packet(DC).replace(
        b"\xef\xbb\xbf", b""
    )
    untouched = packet(DC).decode().encode(encoding)
    assert xmp.without_lost_parts(untouched).xmp == untouched


def test_sizes_are_made_true_as_attributes_and_as_elements() -> None:
    spaces = ' xmlns:t="http://ns.adobe.com/tiff/1.0/" xmlns:e="http://ns.adobe.com/exif/1.0/"'
    made = xmp.resized(
        packet(spaces + " t:ImageWidth='64'", "<e:PixelYDimension>48</e:PixelYDimension>"),
        width=128, height=96,
    )  # fmt: skip
    assert made == packet(
        spaces + " t:ImageWidth='128'", "<e:PixelYDimension>96</e:PixelYDimension>"
    )


def region(x: str, y: str, w: str, h: str) -> bytes:
    spaces = (
        ' xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"'
        ' xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"'
    )
    area = f'<mwg-rs:Area stArea:x="{x}" stArea:y="{y}" stArea:w="{w}" stArea:h="{h}"/>'
    return packet(spaces, f"<mwg-rs:Regions>{area}</mwg-rs:Regions>")


@pytest.mark.parametrize(
    ("turn", "turned"),
    [
        (1, ("0.2", "0.3", "0.1", "0.05")), (2, ("0.8", "0.3", "0.1", "0.05")),
        (3, ("0.8", "0.7", "0.1", "0.05")), (4, ("0.2", "0.7", "0.1", "0.05")),
        (5, ("0.3", "0.2", "0.05", "0.1")), (6, ("0.7", "0.2", "0.05", "0.1")),
        (7, ("0.7", "0.8", "0.05", "0.1")), (8, ("0.3", "0.8", "0.05", "0.1")),
    ],
)  # fmt: skip
def test_faces_turn_with_the_picture(turn: int, turned: tuple[str, str, str, str]) -> None:
    made = xmp.turned(region("0.2", "0.3", "0.1", "0.05"), turn, width=640, height=480)
    assert made == region(*turned)


def test_what_is_about_other_pictures_stays_as_it_is() -> None:
    spaces = (
        ' xmlns:t="http://ns.adobe.com/tiff/1.0/" xmlns:e="http://ns.adobe.com/exif/1.0/"'
        ' xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"'
    )
    pantry = (
        "<xmpMM:Pantry><rdf:Bag><rdf:li><rdf:Description t:ImageWidth='9' t:ImageLength='8' "
        "e:FocalPlaneXResolution='7'/></rdf:li></rdf:Bag></xmpMM:Pantry>"
    )
    made = xmp.resized(packet(spaces + " t:ImageWidth='64'", pantry), width=128, height=96)
    assert made == packet(spaces + " t:ImageWidth='128'", pantry)
    assert xmp.enlarged(made, 2) == made


RAW = ' xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" crs:Exposure2012="+0.50"'
CROP = ' crs:CropTop="0.1" crs:CropLeft="0.2" crs:HasCrop="True"'


@pytest.mark.parametrize("applied", ["", ' crs:AlreadyApplied="False"'])
def test_a_crop_that_is_still_to_be_made_goes_when_the_picture_is_turned(applied: str) -> None:
    cut = xmp.without_regions(packet(RAW + applied + CROP))
    assert cut.xmp == packet(RAW + applied)
    assert cut.removed == ("crs:CropTop", "crs:CropLeft", "crs:HasCrop")


def test_a_crop_that_was_made_is_history_and_stays() -> None:
    data = packet(RAW + ' crs:AlreadyApplied="True"' + CROP)
    assert xmp.without_regions(data) == xmp.Cut(data, ())


@pytest.mark.parametrize(("units", "size"), [("0", "40"), ("1", "20")])
def test_the_size_of_a_crop_in_pixels_grows_with_the_picture(units: str, size: str) -> None:
    def said(width: str) -> bytes:
        return packet(RAW + f' crs:CropUnits="{units}" crs:CropWidth="{width}"')

    assert xmp.enlarged(said("20"), 2) == said(size)


def test_the_lens_of_a_drone_is_enlarged_as_far_as_its_numbers_are_known() -> None:
    space = ' xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" drone-dji:FlightYaw="+1.5"'

    def said(length: str, centre: str) -> str:
        return (
            f'{space} drone-dji:CalibratedFocalLength="{length}"'
            f' drone-dji:CalibratedOpticalCenterX="{centre}"'
        )

    dewarp = ' drone-dji:DewarpData="2018-09-08;3678.8,3672.1,-34.9"'
    made = xmp.enlarged(packet(said("3666.5", "2736.0") + dewarp), 2)
    cut = xmp.without_unscalable(made)
    assert cut == xmp.Cut(packet(said("7333", "5472")), ("drone-dji:DewarpData",))
    assert xmp.without_regions(cut.xmp).removed == ("drone-dji:CalibratedOpticalCenterX",)


def test_resolutions_across_and_down_change_places_with_the_sides() -> None:
    def said(across: str, down: str) -> bytes:
        space = ' xmlns:e="http://ns.adobe.com/exif/1.0/"'
        return packet(
            f'{space} e:FocalPlaneXResolution="{across}"',
            f"<e:FocalPlaneYResolution>{down}</e:FocalPlaneYResolution>",
        )

    assert xmp.turned(said("100/1", "7"), 6, width=4, height=3) == said("7", "100/1")
    assert xmp.turned(said("100/1", "7"), 3, width=4, height=3) == said("100/1", "7")


BOMB = (
    b'<!DOCTYPE a [<!ENTITY b "cccccccccc"><!ENTITY d "&b;&b;&b;&b;">]>'
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>&d;</x:xmpmeta>"
)


@pytest.mark.parametrize(
    "broken",
    [BOMB, b"", b"<a>", b"<a></b>", b"\xff\xfe<", b"no xml", b"<a>" * 200 + b"</a>" * 200],
)
def test_what_is_no_safe_xml_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        xmp.without_lost_parts(broken)


@examples(100)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=3))
def test_damaged_packets_are_read_or_refused(damage: list[tuple[int, int]]) -> None:
    data = bytearray(packet(NAMESPACES + DC + ' hdrgm:Version="1.0"', CONTAINER))
    for place, value in damage:
        data[place % len(data)] = value
    try:
        cut = xmp.without_lost_parts(bytes(data))
    except ValueError:
        return
    assert xmp.without_lost_parts(cut.xmp).removed == ()
