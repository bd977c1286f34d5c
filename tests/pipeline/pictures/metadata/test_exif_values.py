"""EXIF values that depend on the pixels: true of the new ones, and everything else in its place."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.pictures.files import read_picture, write_picture
from pipeline.pictures.metadata.exif import MOVED
from pipeline.pictures.metadata.exif_values import REMOVED, enlarged, resized, upright
from pipeline.pictures.metadata.travel import enlarged as enlarged_metadata
from pipeline.pictures.picture import Picture
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAKER_NOTE = b"notes of a maker, with positions that count from the start"


def small(width: int = 16, height: int = 12) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(file, "JPEG")
    return file.getvalue()


def exif_of(
    *, order: str = "<", thumbnail: bytes | None = None, at_end: bool = True, sides: str = "H"
) -> bytes:
    """Orientation 6, sides, a maker's note, and a thumbnail that is stored sideways."""

    def entry(code: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HHI", code, kind, count) + value.ljust(4, b"\0")

    def ifd(entries: list[bytes], following: int) -> bytes:
        head = struct.pack(f"{order}H", len(entries))
        return head + b"".join(entries) + struct.pack(f"{order}I", following)

    def number(value: int, code: str = "I") -> bytes:
        return struct.pack(order + code, value)

    kind = 3 if sides == "H" else 4
    exif_at = 8 + 2 + 2 * 12 + 4
    note_at = exif_at + 2 + 3 * 12 + 4
    second_at = note_at + len(MAKER_NOTE)
    small_at = second_at + 2 + 3 * 12 + 4
    jpeg = thumbnail or b""
    first = ifd(
        [entry(274, 3, 1, number(6, "H")), entry(34665, 4, 1, number(exif_at))],
        second_at if thumbnail else 0,
    )
    exif = ifd(
        [
            entry(37500, 7, len(MAKER_NOTE), number(note_at)),
            entry(40962, kind, 1, number(64, sides)),
            entry(40963, kind, 1, number(48, sides)),
        ],
        0,
    )
    second = ifd(
        [
            entry(274, 3, 1, number(6, "H")),
            entry(513, 4, 1, number(small_at)),
            entry(514, 4, 1, number(len(jpeg))),
        ],
        0,
    )
    magic = (b"II*\0" if order == "<" else b"MM\0*") + number(8)
    end = b"" if at_end else b"values of another directory"
    return magic + first + exif + MAKER_NOTE + (second + jpeg + end if thumbnail else b"")


def parsed(exif: bytes) -> Image.Exif:
    found = Image.Exif()
    found.load(exif)
    return found


def second_of(exif: bytes) -> dict[int, int]:
    """Return the numbers of the second directory."""
    order = "<" if exif.startswith(b"II") else ">"
    at = struct.unpack_from(f"{order}I", exif, 8 + 2 + 2 * 12)[0]
    found = {}
    for entry in range(at + 2, at + 2 + 12 * 3, 12) if at else ():
        code, kind = struct.unpack_from(f"{order}HH", exif, entry)
        found[code] = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, entry + 8)[0]
    return found


def thumbnail_of(exif: bytes) -> Image.Image:
    second = second_of(exif)
    return Image.open(io.BytesIO(exif[second[513] : second[513] + second[514]]))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_a_sideways_thumbnail_is_made_again_of_the_upright_picture(
    tmp_path: Path, format: str, at_end: bool, order: str
) -> None:
    exif = exif_of(order=order, thumbnail=small(), at_end=at_end)
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:, :32] = (0, 0, 250)  # Left as stored; on top when upright.
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "JPEG", quality=95, exif=b"Exif\0\0" + exif)
    picture = read_picture(file.getvalue(), name="a.jpg")
    path = tmp_path / "a"
    larger = picture.pixels.repeat(4, 1).repeat(4, 2)
    notes = write_picture(path, Picture(pixels=larger, metadata=picture.metadata), format=format)
    assert notes == ()
    written = read_picture(path.read_bytes(), name="a").metadata.exif or b""
    found = thumbnail_of(written)
    assert found.size == (120, 160)
    top, bottom = np.asarray(found)[:70].mean((0, 1)), np.asarray(found)[90:].mean((0, 1))
    assert top[2] > 240 > 10 > bottom[2]
    assert parsed(written)[274] == second_of(written)[274] == 1
    below = parsed(written).get_ifd(34665)
    assert (below[40962], below[40963]) == (48 * 4, 64 * 4)
    assert written.index(MAKER_NOTE) == exif.index(MAKER_NOTE), "its positions stay true"
    if not at_end:
        assert written.count(b"values of another directory") == 1


def test_a_thumbnail_that_no_format_holds_is_noted(tmp_path: Path) -> None:
    pixels = np.zeros((3, 40, 40), np.uint8)
    metadata = read_picture(jpeg_with(exif_of(thumbnail=small())), name="a.jpg").metadata
    notes = write_picture(
        tmp_path / "a.tif", Picture(pixels=pixels, metadata=metadata), format="tiff"
    )
    assert notes == (MOVED, REMOVED)


def test_a_thumbnail_that_is_no_jpeg_is_removed_and_noted() -> None:
    exif = bytearray(exif_of(thumbnail=small()))
    second = int.from_bytes(exif[8 + 2 + 24 : 8 + 2 + 24 + 4], "little")
    struct.pack_into("<H", exif, second + 2 + 12, 273)  # Strips, as uncompressed ones have.
    made, notes = resized(bytes(exif), width=9, height=9, thumbnail=lambda _: small())
    assert notes == (REMOVED,)
    assert second_of(made) == {}
    assert parsed(made).get_ifd(34665)[40962] == 9


@pytest.mark.parametrize("broken", ["offset over the whole", "short offset", "no offset at all"])
def test_a_thumbnail_that_points_astray_costs_no_other_value(broken: str) -> None:
    exif = bytearray(exif_of(thumbnail=small()))
    second = int.from_bytes(exif[8 + 2 + 24 : 8 + 2 + 24 + 4], "little")
    entry = second + 2 + 12
    if broken == "offset over the whole":
        struct.pack_into("<I", exif, entry + 8, 8)
        struct.pack_into("<I", exif, entry + 12 + 8, len(exif) - 8)
    elif broken == "short offset":
        struct.pack_into("<H", exif, entry + 2, 3)
    else:
        struct.pack_into("<I", exif, entry + 4, 0)
    made, notes = resized(bytes(exif), width=9, height=7, thumbnail=lambda _: small())
    assert notes == (REMOVED,)
    below = parsed(made).get_ifd(34665)
    assert (below[40962], below[40963]) == (9, 7)
    assert made.index(MAKER_NOTE) == exif.index(MAKER_NOTE)


def test_sides_above_16_bits_become_32_bit_numbers() -> None:
    made, _ = resized(exif_of(), width=70_000, height=66_000, thumbnail=None)
    below = parsed(made).get_ifd(34665)
    assert (below[40962], below[40963]) == (70_000, 66_000)
    assert made[made.index(MAKER_NOTE) :] == MAKER_NOTE


def test_without_anything_that_counts_pixels_no_byte_changes() -> None:
    exif = Image.Exif()
    exif[271] = "Maker"
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    assert resized(data, width=9, height=9, thumbnail=None) == (data, ())
    assert enlarged(data, 4) == data


def jpeg_with(exif: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG", exif=b"Exif\0\0" + exif)
    return file.getvalue()


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_subject_is_where_it_was_after_turning_and_enlarging(turn: int) -> None:
    stored = np.zeros((30, 44), np.uint8)
    stored[7, 11] = 255
    exif = Image.Exif()
    exif[274] = turn
    exif.get_ifd(34665)[41492] = (11, 7)
    exif.get_ifd(34665)[37396] = (11, 7, 8, 2)
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    picture = read_picture(file.getvalue(), name="a.png")
    below = parsed(picture.metadata.exif or b"").get_ifd(34665)
    ((row, column),) = np.argwhere(picture.pixels[0])
    assert below[41492] == (column, row)
    assert below[37396] == (column, row, *((8, 2) if turn < 5 else (2, 8)))
    larger = parsed(enlarged_metadata(picture.metadata, 3).exif or b"").get_ifd(34665)
    assert larger[41492] == (3 * column + 1, 3 * row + 1), "the middle of the pixel's block"
    assert larger[37396][2:] == ((24, 6) if turn < 5 else (6, 24))


def test_resolutions_across_and_down_change_places_with_the_sides() -> None:
    exif = Image.Exif()
    exif[274], exif[282], exif[283], exif[296] = 6, 300.0, 150.0, 2
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG", exif=exif, dpi=(300, 150))
    metadata = read_picture(file.getvalue(), name="a.jpg").metadata
    found = parsed(metadata.exif or b"")
    assert (found[282], found[283]) == (150, 300)
    assert metadata.dpi == (150, 300)


# GeoTIFF

KEYS = {"area": (1, 1, 0, 1, 1025, 0, 1, 1), "point": (1, 1, 0, 1, 1025, 0, 1, 2)}
AFFINE = (0.5, 0.1, 0.0, 440_000.0, 0.2, -0.25, 0.0, 5_300_000.0, 0, 0, 0, 0, 0, 0, 0, 1.0)
TIED = [
    (33550, "d", 3, (0.5, 0.25, 0.0), True),
    (33922, "d", 6, (10.0, 20.0, 0.0, 440_000.0, 5_300_000.0, 0.0), True),
]


def ground(tags: Any, corner: NDArray[np.float64], raster: str) -> NDArray[np.float64]:
    """Return the place on the ground of a corner of pixels (column, row)."""
    at = corner - (0.5 if raster == "point" else 0.0)
    if (matrix := tags.valueof(34264)) is not None:
        m = np.array(matrix).reshape(4, 4)
        return m[:2, :2] @ at + m[:2, 3]
    scale, tie = np.array(tags.valueof(33550)), np.array(tags.valueof(33922))
    return tie[3:5] + (at - tie[:2]) * scale[:2] * (1, -1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("raster", ["area", "point"])
@pytest.mark.parametrize("by", ["tie", "matrix"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_corner_of_a_map_stays_at_its_place_on_the_ground(
    tmp_path: Path, scale: int, by: str, raster: str, order: str
) -> None:
    tags = TIED if by == "tie" else [(34264, "d", 16, AFFINE, True)]
    file = io.BytesIO()
    tifffile.imwrite(
        file, np.zeros((20, 30), np.uint8), metadata=None, byteorder=order,
        extratags=[*tags, (34735, "H", 8, KEYS[raster], True)],
    )  # fmt: skip
    picture = read_picture(file.getvalue(), name="a.tif")
    larger = picture.pixels.repeat(scale, 1).repeat(scale, 2)
    metadata = enlarged_metadata(picture.metadata, scale)
    path = tmp_path / "a.tif"
    assert write_picture(path, Picture(pixels=larger, metadata=metadata), format="tiff") == ()
    file.seek(0)
    with tifffile.TiffFile(file) as before, tifffile.TiffFile(path) as after:
        old, new = before.pages[0].aspage().tags, after.pages[0].aspage().tags
        assert new.valueof(34735) == KEYS[raster]
        for corner in np.array([(0, 0), (30, 20), (7, 3)], dtype=float):
            np.testing.assert_allclose(
                ground(new, corner * scale, raster), ground(old, corner, raster), rtol=1e-12
            )


def test_the_place_of_a_turned_map_is_removed_and_noted() -> None:
    file = io.BytesIO()
    tifffile.imwrite(
        file, np.zeros((20, 30), np.uint8), metadata=None,
        extratags=[*TIED, (274, "H", 1, 6, True), (42113, "s", 0, "-9999", True)],
    )  # fmt: skip
    metadata = read_picture(file.getvalue(), name="a.tif").metadata
    assert any("GeoTIFF" in note for note in metadata.notes)
    found = parsed(metadata.exif or b"")
    assert 33550 not in found
    assert 33922 not in found
    assert found[42113] == "-9999"


@examples(150)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=5))
def test_damaged_exif_never_costs_a_picture(damage: list[tuple[int, int]]) -> None:
    data = bytearray(exif_of(thumbnail=small(), at_end=False))
    for place, value in damage:
        data[place % len(data)] = value
    exif = enlarged(upright(bytes(data), 6, width=64, height=48), 4)
    made, notes = resized(exif, width=192, height=256, thumbnail=lambda _: small())
    assert isinstance(made, bytes)
    assert all(isinstance(note, str) for note in notes)
