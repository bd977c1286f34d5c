"""Strips: every row once and in its place, however they are cut, and errors in their place."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.pictures.codecs.previews import thumbnail
from pipeline.pictures.strips import OneStrip, ahead, gathered, in_order, recut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Cut:
    """A picture in memory, cut into strips of so many rows."""

    pixels: NDArray[Any]
    rows: int

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.pixels.dtype

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for top in range(0, self.pixels.shape[1], self.rows):
            yield self.pixels[:, top : top + self.rows]


def numbered(height: int, width: int = 3) -> NDArray[np.uint16]:
    return np.arange(2 * height * width, dtype=np.uint16).reshape(2, height, width)


@given(st.integers(1, 40), st.integers(1, 17), st.integers(1, 17))
def test_every_row_is_in_one_strip_and_all_but_the_last_have_the_asked_rows(
    height: int, before: int, rows: int
) -> None:
    pixels = numbered(height)
    strips = list(recut(Cut(pixels, before), rows))
    assert np.array_equal(np.concatenate(strips, axis=1), pixels)
    assert all(strip.shape[1] == rows for strip in strips[:-1])
    assert 1 <= strips[-1].shape[1] <= rows


@pytest.mark.parametrize("rows", [1, 7, 30])
def test_gathered_strips_are_the_picture(rows: int) -> None:
    assert np.array_equal(gathered(Cut(numbered(30), rows)), numbered(30))


def test_the_next_strip_is_made_while_the_caller_has_one() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    for item in ahead(items()):
        if item == 1:
            assert second.wait(60)
    assert list(ahead(range(5))) == [0, 1, 2, 3, 4]


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ArithmeticError

    strips = ahead(items())
    assert next(strips) == 1
    with pytest.raises(ArithmeticError):
        next(strips)
    with pytest.raises(ArithmeticError):
        list(in_order(lambda item: item, items()))


@pytest.mark.parametrize("cpus", [1, 8])
def test_results_come_in_the_order_of_the_items(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cpus)
    assert list(in_order(lambda item: item * item, range(100))) == [n * n for n in range(100)]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 37, 512])
def test_a_thumbnail_of_strips_is_that_of_the_picture(channels: int, rows: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 700, 330), np.uint8)
    found = thumbnail(Cut(pixels, rows), 40)
    assert found == thumbnail(OneStrip(pixels), 40)
    assert Image.open(io.BytesIO(found)).size == (19, 40)
