"""Contact sheets: what is drawn is what was given, pixel by pixel, on every machine alike."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pytest

from pipeline.pictures.files import read_picture
from pipeline.reports.contact_sheet import Example, draw_sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.conftest import TakePhoto

BARS, MARK = (0x7F, 0x93, 0xA8), (0xA8, 0x4B, 0x00)
MARGIN_PX = 20
VARIANCES = np.array([3.0, 40.0, 41.0, 900.0])


def example(hr: NDArray[Any], *, scale: int = 4, versions: int = 1, label: str = "a") -> Example:
    """Return `hr` with LR versions of every other pixel, each a little darker."""
    lr = {f"v{n}": hr[:, ::scale, ::scale] // np.uint8(n + 1) for n in range(versions)}
    return Example(hr, lr, label)


def sheet(*examples: Example, title: str = "Title", **options: Any) -> NDArray[Any]:
    """Return the pixels ``(3, y, x)`` of a sheet."""
    png = draw_sheet(examples, VARIANCES, title=title, **options)
    return read_picture(png, name="sheet.png").pixels


def enlarged(pixels: NDArray[Any], factor: int) -> NDArray[Any]:
    grey = np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels
    return grey.repeat(factor, axis=1).repeat(factor, axis=2)


def holds(pixels: NDArray[Any], block: NDArray[Any]) -> bool:
    """Return whether `block` stands anywhere in `pixels`, exactly."""
    _, rows, cols = block.shape
    places = np.ones((pixels.shape[1] - rows + 1, pixels.shape[2] - cols + 1), dtype=bool)
    for row, col in ((0, 0), (0, cols - 1), (rows - 1, 0), (rows // 2, cols // 2)):
        seen = pixels[:, row : row + places.shape[0], col : col + places.shape[1]]
        places &= (seen == block[:, row, col, None, None]).all(axis=0)
    starts = np.argwhere(places)
    return any(
        np.array_equal(pixels[:, top : top + rows, left : left + cols], block)
        for top, left in starts.tolist()
    )


def has_colour(pixels: NDArray[Any], colour: tuple[int, int, int]) -> bool:
    return bool((pixels == np.array(colour)[:, None, None]).all(axis=0).any())


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_of_hr_and_lr_is_a_square_of_whole_pixels(
    channels: int, photo: TakePhoto
) -> None:
    shown = example(photo(32, 32, channels, at=150), versions=2)
    drawn = sheet(shown)
    assert holds(drawn, enlarged(shown.hr, 8))
    for lr in shown.lr.values():
        assert holds(drawn, enlarged(lr, 32))


def test_eight_examples_and_ten_versions_are_all_there(photo: TakePhoto) -> None:
    examples = [example(photo(64, 64, at=30 * n), versions=10, label=f"{n}") for n in range(8)]
    drawn = sheet(*examples)
    for shown in examples:
        assert holds(drawn, enlarged(shown.hr, 2))
    assert all(holds(drawn, enlarged(lr, 8)) for lr in examples[-1].lr.values())


def test_of_a_patch_too_large_for_the_sheet_the_middle_is_shown(photo: TakePhoto) -> None:
    hr = photo(300, 320)
    assert holds(sheet(example(hr)), hr[:, 22:278, 32:288])


def test_equal_arguments_give_equal_bytes_whatever_the_settings_of_matplotlib(
    photo: TakePhoto,
) -> None:
    shown = example(photo(32, 32))
    first = draw_sheet([shown], VARIANCES, title="Title", least_variance=10)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "figure.dpi": 300}):
        assert draw_sheet([shown], VARIANCES, title="Title", least_variance=10) == first
        assert matplotlib.rcParams["font.size"] == 30, "the settings of others are left alone"
    assert draw_sheet([shown], VARIANCES[:3], title="Title", least_variance=10) != first


def test_the_file_says_nothing_but_pixels() -> None:
    png, at, kinds = draw_sheet([], VARIANCES, title="Title"), 8, []
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        kinds.append(kind)
        at += length + 12
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize(
    "words", ["w" * 10_000, "$x_1$ \\frac", "a\nb\r\u2028c\x00", "日本語 \udc80 \u202etxt", ""]
)
def test_no_name_leaves_its_line_or_the_sheet(words: str, photo: TakePhoto) -> None:
    hr = photo(64, 64)
    shown = Example(hr, {words: hr[:, ::4, ::4]}, words)
    drawn, plain = sheet(shown, title=words), sheet(example(hr))
    assert drawn.shape == plain.shape
    for border in (slice(MARGIN_PX - 2), slice(2 - MARGIN_PX, None)):
        np.testing.assert_array_equal(drawn[:, :, border], plain[:, :, border])


def test_the_threshold_is_drawn_only_where_there_is_one() -> None:
    assert has_colour(sheet(least_variance=50), MARK)
    assert not has_colour(sheet(), MARK)


@pytest.mark.parametrize("variance", [0.0, 0.1, 127.5**2])
def test_the_least_and_the_largest_variance_have_their_bars(variance: float) -> None:
    png = draw_sheet([], np.array([variance]), title="Title")
    assert has_colour(read_picture(png, name="sheet.png").pixels, BARS)


def test_a_sheet_of_nothing_has_an_empty_histogram() -> None:
    png = draw_sheet([], np.array([]), title="Title", least_variance=1)
    assert not has_colour(read_picture(png, name="sheet.png").pixels, BARS)


def test_examples_of_several_sizes_are_refused(photo: TakePhoto) -> None:
    with pytest.raises(ValueError, match=r"\(3, 32, 32\).*\(3, 64, 64\).*expected all alike"):
        sheet(example(photo(32, 32)), example(photo(64, 64)))
