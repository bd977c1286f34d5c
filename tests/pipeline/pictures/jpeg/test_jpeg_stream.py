"""A JPEG that is not all there is refused with what is missing; good ones never are."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from skimage import data

from pipeline.errors import PictureError
from pipeline.pictures.files import decode_picture, read_picture
from pipeline.pictures.jpeg.stream import check_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 256
COLOURS = np.ascontiguousarray(data.astronaut()[:SIDE, :SIDE])
GREY = np.ascontiguousarray(COLOURS[..., 1])
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE]


def jpeg(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def half_black() -> NDArray[Any]:
    pixels = GREY.copy()
    pixels[SIDE // 2 :] = 0
    return pixels


def half_mid_grey() -> NDArray[Any]:
    pixels = COLOURS.copy()
    pixels[SIDE // 2 :] = 128
    return pixels


PICTURES = {
    "photograph": COLOURS,
    "grey": GREY,
    "black below": half_black(),
    "mid-grey below": half_mid_grey(),
    "all black": np.zeros((600, 600), np.uint8),
    "all mid-grey": np.full((600, 600, 3), 128, np.uint8),
    "all white": np.full((300, 200, 3), 255, np.uint8),
    "gradient": ((ROWS + COLUMNS) // 2).astype(np.uint8),
    "board": ((ROWS // 8 + COLUMNS // 8) % 2 * 255).astype(np.uint8),
    "one pixel": COLOURS[:1, :1].copy(),
    "narrow": COLOURS[:3, :100].copy(),
}
WAYS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "own tables": {"optimize": True},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "restart by rows": {"restart_marker_rows": 1},
    "restart by blocks": {"restart_marker_blocks": 3},
    "progressive, restart": {"progressive": True, "restart_marker_rows": 2},
    "best": {"quality": 100, "optimize": True},
    "worst": {"quality": 1, "optimize": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", PICTURES)
def test_good_pictures_are_read_however_they_were_written(picture: str, way: str) -> None:
    file = jpeg(PICTURES[picture], **WAYS[way])
    got = read_picture(file, name="a.jpg").pixels
    want = np.atleast_3d(np.asarray(Image.open(io.BytesIO(file))))
    np.testing.assert_array_equal(got, np.moveaxis(want, 2, 0))


def test_an_even_picture_in_half_the_colours_with_tables_of_its_own_is_read() -> None:
    black = np.zeros((900, 900, 3), np.uint8)
    file = imagecodecs.jpeg8_encode(black, optimize=True)
    np.testing.assert_array_equal(read_picture(file, name="a.jpg").pixels, 0)


@pytest.mark.parametrize("way", ["baseline", "own tables", "progressive", "restart by rows"])
@pytest.mark.parametrize(
    "behind",
    [bytes(5000), b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40, jpeg(GREY)],
    ids=["zeros", "a film", "another picture"],
)
def test_what_stands_behind_the_picture_does_no_harm(way: str, behind: bytes) -> None:
    file = jpeg(COLOURS, **WAYS[way])
    got = read_picture(file + behind, name="a.jpg").pixels
    np.testing.assert_array_equal(got, read_picture(file, name="a.jpg").pixels)


@pytest.mark.parametrize("filling", [bytes(700), b"\xff" * 700, b"\xff\xfe\0\4ab"])
def test_filling_before_the_end_marker_does_no_harm(filling: bytes) -> None:
    file = jpeg(COLOURS)
    got = read_picture(file[:-2] + filling + file[-2:], name="a.jpg").pixels
    np.testing.assert_array_equal(got, read_picture(file, name="a.jpg").pixels)


def damaged(file: bytes) -> dict[str, bytes]:
    half, noise = len(file) // 2, np.random.default_rng(0).bytes(4096)
    sector = half // 512 * 512
    return {
        "second half zero": file[:half] + bytes(len(file) - half),
        "second half zero, but for the end marker": file[:half] + bytes(9000) + file[-2:],
        "zeros in the middle": file[:half] + bytes(2048) + file[half + 2048 :],
        "sectors lost": file[:sector] + bytes(2048) + file[sector + 2048 :],
        "last bytes zero": file[:-600] + bytes(600),
        "cut": file[:half],
        "cut and ended": file[:half] + b"\xff\xd9",
        "no end marker": file[:-2],
        "a part left out": file[:half] + file[half + 3000 :],
        "noise in the middle": file[:half] + noise + file[half + 4096 :],
        "0xFF in the middle": file[:half] + b"\xff" * 2048 + file[half + 2048 :],
        "text to the end": file[:half] + b"not found " * 900,
    }


@pytest.mark.parametrize("way", ["baseline", "own tables", "progressive", "4:4:4", "best"])
@pytest.mark.parametrize("damage", damaged(b""))
def test_what_is_not_all_there_is_refused(damage: str, way: str) -> None:
    file = damaged(jpeg(COLOURS, **WAYS[way]))[damage]
    with pytest.raises(PictureError, match=r"^a\.jpg: .*(origin|expected)"):
        decode_picture(file, name="a.jpg")


@pytest.mark.parametrize("way", ["restart by rows", "restart by blocks", "progressive, restart"])
@pytest.mark.parametrize("damage", ["second half zero", "zeros in the middle", "a part left out"])
def test_what_is_lost_between_restart_markers_is_noticed(damage: str, way: str) -> None:
    file = damaged(jpeg(GREY, **WAYS[way]))[damage]
    reason = "restart markers|bytes of zero|last scans are missing"
    with pytest.raises(PictureError, match=reason):
        decode_picture(file, name="a.jpg")


@pytest.mark.parametrize("damage", ["second half zero", "sectors lost"])
def test_zeros_are_found_where_black_is_written_as_zeros_too(damage: str) -> None:
    file = damaged(jpeg(half_black(), optimize=True, quality=100))[damage]
    with pytest.raises(PictureError, match="zero"):
        decode_picture(file, name="a.jpg")


def test_the_reason_names_the_zeros() -> None:
    file = jpeg(COLOURS)
    half = len(file) // 2
    with pytest.raises(PictureError, match=f"bytes of zero from byte {half}|without its end"):
        decode_picture(file[:half] + bytes(len(file) - half), name="a.jpg")


def test_a_progressive_picture_without_its_last_scans_is_refused() -> None:
    file = jpeg(COLOURS, progressive=True)
    third = file.index(b"\xff\xda", file.index(b"\xff\xda", file.index(b"\xff\xda") + 2) + 2)
    with pytest.raises(PictureError, match="progressive JPEG of which the last scans are missing"):
        decode_picture(file[:third] + b"\xff\xd9", name="a.jpg")


def scans(file: bytes) -> list[tuple[int, int]]:
    """Return where the compressed data of each scan starts and ends."""
    starts = [m.end() + file[m.end() + 1] for m in re.finditer(rb"\xff\xda", file)]
    marker = re.compile(rb"\xff[^\x00\xd0-\xd7]")
    ends = [match.start() for at in starts if (match := marker.search(file, at))]
    return list(zip(starts, ends, strict=True))


def in_three_scans(pixels: NDArray[Any]) -> bytes:
    """Return a sequential JPEG with a scan for each of Y, Cb and Cr, as scanners write them."""
    planes = np.moveaxis(np.asarray(Image.fromarray(pixels).convert("YCbCr")), 2, 0)
    files = [jpeg(np.ascontiguousarray(plane)) for plane in planes]
    head, frame = files[0], files[0].index(b"\xff\xc0")
    tables = head.index(b"\xff\xc4")
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    parts = [b"\xff\xda\0\x08\1" + bytes([number, 0, 0, 63, 0]) for number in (1, 2, 3)]
    data = [file[slice(*scans(file)[0])] for file in files]
    return b"".join(
        (
            head[:frame] + b"\xff\xc0\0\x11" + head[frame + 4 : frame + 9] + b"\3" + components,
            head[tables : head.index(b"\xff\xda")],
            *(part + piece for part, piece in zip(parts, data, strict=True)),
            b"\xff\xd9",
        )
    )


IN_SCANS = {
    "progressive": (jpeg(COLOURS, progressive=True), 10),
    "progressive, grey": (jpeg(GREY, progressive=True), 6),
    "progressive, best": (jpeg(COLOURS, progressive=True, quality=100, subsampling=0), 10),
    "progressive, coarse": (jpeg(COLOURS, progressive=True, quality=30), 10),
    "sequential": (in_three_scans(COLOURS), 3),
}


@pytest.mark.parametrize("kind", IN_SCANS)
def test_each_scan_that_ends_early_is_named(kind: str) -> None:
    file, count = IN_SCANS[kind]
    assert len(scans(file)) == count
    for number, (start, end) in enumerate(scans(file), 1):
        for left in (0, (end - start) // 2, end - start - 30):
            short = file[: start + max(0, left)] + file[end:]
            with pytest.raises(PictureError, match=f"data of scan {number} of {count} is missing"):
                decode_picture(short, name="a.jpg")


@pytest.mark.parametrize("kind", ["progressive", "progressive, best", "sequential"])
def test_a_piece_left_out_of_a_scan_leaves_it_short(kind: str) -> None:
    file, count = IN_SCANS[kind]
    start, end = max(scans(file)[:5], key=lambda scan: scan[1] - scan[0])
    number, half = scans(file).index((start, end)) + 1, (start + end) // 2
    with pytest.raises(PictureError, match=f"data of scan {number} of {count} is missing"):
        decode_picture(file[:half] + file[half + 200 :], name="a.jpg")


def test_a_restart_interval_of_a_scan_that_ends_early_is_noticed() -> None:
    file = jpeg(COLOURS, progressive=True, restart_marker_rows=4)
    start, end = scans(file)[-1]
    marker = file.index(b"\xff\xd1", start, end)
    with pytest.raises(PictureError, match="data of scan 10 of 10 is missing"):
        decode_picture(file[: marker - 100] + file[marker:], name="a.jpg")


@pytest.mark.parametrize("filling", [b"\xff" * 5, bytes(20), bytes(range(250))])
@pytest.mark.parametrize("kind", IN_SCANS)
def test_filling_behind_every_scan_does_no_harm(kind: str, filling: bytes) -> None:
    file, _ = IN_SCANS[kind]
    places = [0, *(end for _, end in scans(file)), len(file)]
    filled = filling.join(file[start:end] for start, end in pairwise(places))
    got = read_picture(filled, name="a.jpg").pixels
    np.testing.assert_array_equal(got, read_picture(file, name="a.jpg").pixels)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("half", [slice(256), slice(256, None)], ids=["above", "below"])
def test_an_even_half_whose_refinement_is_all_zeros_is_read(half: slice, value: int) -> None:
    pixels = data.astronaut()[:500, :500]
    pixels[half] = value
    file = jpeg(pixels, progressive=True, quality=95, subsampling=0)
    start, end = scans(file)[6]
    assert bytes(600) in file[start:end]
    got = read_picture(file, name="a.jpg").pixels
    np.testing.assert_array_equal(np.moveaxis(got, 0, 2), np.asarray(Image.open(io.BytesIO(file))))


def test_zeros_that_stand_for_less_than_a_row_of_blocks_are_read() -> None:
    pixels = np.tile(data.astronaut()[:40], (1, 18, 1))
    pixels[:16] = 0
    file = jpeg(pixels, progressive=True, quality=75, subsampling=0)
    got = read_picture(file, name="a.jpg").pixels
    np.testing.assert_array_equal(np.moveaxis(got, 0, 2), np.asarray(Image.open(io.BytesIO(file))))


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_zeros_for_the_means_of_blocks_with_details_are_noticed(quality: int) -> None:
    file = jpeg(data.astronaut(), progressive=True, quality=quality, subsampling=0)
    start, end = scans(file)[6]
    half = (start + end) // 2
    with pytest.raises(PictureError) as caught:
        decode_picture(file[:half] + bytes(end - half) + file[end:], name="a.jpg")
    (found,) = re.findall(r"holds (\d+) bytes of zero from byte (\d+)", str(caught.value))
    many, at = map(int, found)
    # A byte beside them may be zero in the file, too.
    assert half - 2 <= at <= half
    assert end <= at + many <= end + 2


@pytest.mark.parametrize(("kind", "decodings"), [("baseline", 0), ("progressive", 1)])
def test_a_whole_picture_is_decoded_at_most_once_more(kind: str, decodings: int) -> None:
    file, asked = jpeg(COLOURS, **WAYS[kind]), 0

    def decode(data: bytes) -> NDArray[Any]:
        nonlocal asked
        asked += 1
        return np.asarray(Image.open(io.BytesIO(data)))

    check_whole(file, decode(file), decode=decode)
    assert asked == 1 + decodings


def test_the_reason_is_not_a_short_scan_where_nothing_can_be_decoded() -> None:
    check_whole(IN_SCANS["progressive"][0], None, decode=lambda _: GREY)
