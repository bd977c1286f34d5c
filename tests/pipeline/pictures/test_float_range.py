"""Floating point pictures are in 0..1, or in the range that the file declares, or refused."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from pipeline.errors import PictureError
from pipeline.geometry import Rect, Span
from pipeline.pictures.files import decode_picture, read_picture, write_picture
from pipeline.pictures.metadata.metadata import from_json
from pipeline.pictures.picture import Picture

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import Upscale

UNIT = np.random.default_rng(0).random((12, 15, 3)).astype(np.float32)


def tiff(pixels: NDArray[Any], low: Any = None, high: Any = None, *, kind: str = "f") -> bytes:
    codes = (340, 341) if kind == "f" else (280, 281)
    count = pixels.shape[2] if pixels.ndim == 3 else 1
    tags = [
        (code, kind, count, (value,) * count if count > 1 else value, True)
        for code, value in zip(codes, (low, high), strict=True)
        if value is not None
    ]
    file = io.BytesIO()
    colours = "rgb" if count > 1 else "minisblack"
    tifffile.imwrite(file, pixels, photometric=colours, metadata=None, extratags=tags)
    return file.getvalue()


def test_values_of_zero_to_one_are_left_as_they_are() -> None:
    picture = read_picture(tiff(UNIT), name="a.tif")
    np.testing.assert_array_equal(picture.pixels, np.moveaxis(UNIT, 2, 0))
    assert picture.metadata.value_range is None


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0, 255, "f"), (-1, 3, "f"), (0, 1000, "H"), (0, 65535, "H")]
)
@pytest.mark.parametrize("grey", [False, True])
def test_a_declared_range_becomes_0_to_1_and_is_undone_in_the_output(
    grey: bool, low: int, high: int, kind: str, tmp_path: Path
) -> None:
    values = UNIT[..., 0] if grey else UNIT
    values = values * np.float32(high - low) + np.float32(low)
    picture = read_picture(tiff(values, low, high, kind=kind), name="a.tif")
    assert picture.metadata.value_range == (low, high)
    unit = UNIT[..., :1] if grey else UNIT
    np.testing.assert_allclose(picture.pixels, np.moveaxis(unit, 2, 0), atol=1e-6)
    path = tmp_path / "b.tif"
    write_picture(path, picture, format="tiff")
    np.testing.assert_allclose(tifffile.imread(path), values, rtol=1e-5, atol=1e-5)
    assert read_picture(path.read_bytes(), name="b.tif").metadata.value_range == (low, high)


@pytest.mark.parametrize("factor", [255, 8, 65535])
def test_values_beyond_that_nobody_declares_are_refused(factor: int) -> None:
    with pytest.raises(PictureError, match=r"values go from .* expected 0 to 1 .*none is declared"):
        decode_picture(tiff(UNIT * factor), name="a.tif")


def test_values_beyond_the_declared_range_are_refused() -> None:
    with pytest.raises(PictureError, match="the file declares 0 to 255"):
        decode_picture(tiff(UNIT * 900, 0, 255), name="a.tif")


@pytest.mark.parametrize(("low", "high"), [(0, 0), (5, 1), (0, float("nan"))])
def test_a_declaration_that_cannot_be_used_counts_as_none(low: float, high: float) -> None:
    with pytest.raises(PictureError, match="none is declared"):
        decode_picture(tiff(UNIT * 255, low, high), name="a.tif")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_called_so_with_their_place(value: float) -> None:
    pixels = UNIT.copy()
    pixels[7, 4, 2] = value
    pixels[9, 1, 0] = value
    message = "holds 2 values that are NaN or infinite, the first in row 7, column 4"
    with pytest.raises(PictureError, match=message):
        decode_picture(tiff(pixels), name="a.tif")


def test_the_overshoot_of_our_own_output_is_read_back() -> None:
    pixels = UNIT * np.float32(1.3) - np.float32(0.15)
    got = read_picture(tiff(pixels), name="a.tif").pixels
    np.testing.assert_array_equal(got, np.moveaxis(pixels, 2, 0))


def test_an_enlarged_picture_keeps_its_mean_in_the_units_of_the_file(
    tmp_path: Path, upscale: Upscale
) -> None:
    values = UNIT * np.float32(255)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.tif").write_bytes(tiff(values, 0, 255))
    image = upscale(tmp_path / "source", tmp_path / "job").job.open_sr().image("a.tif")
    pixels = image.read(Rect(Span(0, 24), Span(0, 30)))
    picture = Picture(pixels=pixels, metadata=from_json(image.provenance))
    assert not [note for note in picture.metadata.notes if "range of the samples" in note]
    write_picture(tmp_path / "out.tif", picture, format="tiff")
    enlarged = tifffile.imread(tmp_path / "out.tif")
    assert enlarged.shape == (24, 30, 3)
    assert abs(float(enlarged.mean()) - float(values.mean())) < 3
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages[0].tags[341].value == (255.0, 255.0, 255.0)
