"""Geometry: tiles cover a picture exactly once, and index laws hold for every range."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.geometry import Rect, Span, TileGrid, cuts, equal_side, overlapping
from tests.examples import examples

LENGTH = 60
ALL = Span(0, LENGTH)

sides = st.integers(1, LENGTH)
scales = st.integers(1, 4)


@st.composite
def spans(draw: st.DrawFn, within: Span = ALL) -> Span:
    start = draw(st.integers(within.start, within.stop - 1))
    return Span(start, draw(st.integers(start + 1, within.stop)))


@st.composite
def rects(draw: st.DrawFn) -> Rect:
    return Rect(draw(spans()), draw(spans()))


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    return TileGrid(
        draw(sides), draw(sides), draw(st.integers(1, LENGTH + 5)), draw(st.integers(0, 70))
    )


@examples()
@given(grids())
def test_tiles_cover_every_pixel_exactly_once(grid: TileGrid) -> None:
    seen = np.zeros((1, grid.height, grid.width), dtype=int)
    for tile in grid:
        seen[grid.core(tile).index] += 1
    assert (seen == 1).all()
    assert len(list(grid)) == len(grid) == grid.shape[0] * grid.shape[1]


@examples()
@given(grids())
def test_all_but_the_last_tiles_of_a_row_and_column_are_full_squares(grid: TileGrid) -> None:
    rows, cols = grid.shape
    for tile in grid:
        row, col = divmod(tile, cols)
        core = grid.core(tile)
        assert (core.rows.start, core.cols.start) == (row * grid.tile_px, col * grid.tile_px)
        if row < rows - 1:
            assert len(core.rows) == grid.tile_px
        if col < cols - 1:
            assert len(core.cols) == grid.tile_px


@examples()
@given(grids())
def test_a_window_holds_its_core_and_halo_and_nothing_outside_the_picture(grid: TileGrid) -> None:
    for tile in grid:
        core, window = grid.core(tile), grid.window(tile)
        for inner, outer, limit in (
            (core.rows, window.rows, grid.height),
            (core.cols, window.cols, grid.width),
        ):
            assert outer.start == max(0, inner.start - grid.halo_px)
            assert outer.stop == min(limit, inner.stop + grid.halo_px)


@examples()
@given(grids(), scales)
def test_the_enlarged_core_lies_in_the_enlarged_window_where_within_says(
    grid: TileGrid, scale: int
) -> None:
    x = np.arange(grid.height * grid.width).reshape(1, grid.height, grid.width)
    sr = x.repeat(scale, axis=1).repeat(scale, axis=2)
    for tile in list(grid)[:50]:
        core, window = grid.core(tile), grid.window(tile)
        out = x[window.index].repeat(scale, axis=1).repeat(scale, axis=2)
        inside = core.scaled(scale).within(window.scaled(scale))
        assert np.array_equal(out[inside], sr[core.scaled(scale).index])


@examples()
@given(st.data())
def test_a_range_within_another_names_the_same_pixels(data: st.DataObject) -> None:
    x = np.arange(LENGTH)
    outer = data.draw(spans())
    inner = data.draw(spans(within=outer))
    assert np.array_equal(x[outer.index][inner.within(outer)], x[inner.index])


@examples()
@given(spans(), spans())
def test_a_range_that_sticks_out_is_refused_with_both_ranges_in_the_message(
    inner: Span, outer: Span
) -> None:
    assume(inner.start < outer.start or inner.stop > outer.stop)
    with pytest.raises(ValueError, match=re.escape(f"{inner} is not inside {outer}")):
        inner.within(outer)


@examples()
@given(rects(), scales)
def test_reducing_undoes_scaling(rect: Rect, scale: int) -> None:
    assert rect.scaled(scale).reduced(scale) == rect
    assert rect.scaled(scale).pixels == rect.pixels * scale**2


@examples()
@given(spans(), scales)
def test_the_reduced_range_is_the_smallest_that_covers_when_enlarged(
    span: Span, scale: int
) -> None:
    covering = {p // scale for p in range(span.start, span.stop)}
    assert set(range(LENGTH)[span.reduced(scale).index]) == covering


@examples()
@given(rects(), rects())
def test_two_rectangles_meet_in_exactly_their_common_pixels(a: Rect, b: Rect) -> None:
    both = np.zeros((2, LENGTH, LENGTH), dtype=bool)
    both[0][a.index[1:]] = True
    both[1][b.index[1:]] = True
    met = a.meet(b)
    common = np.zeros((LENGTH, LENGTH), dtype=bool)
    if met is not None:
        common[met.index[1:]] = True
    assert np.array_equal(common, both.all(axis=0))
    assert met == b.meet(a)


@examples()
@given(grids(), st.integers(0, 70), st.data())
def test_a_grown_rectangle_stays_inside_its_limit(
    grid: TileGrid, halo: int, data: st.DataObject
) -> None:
    height, width = grid.height, grid.width
    rect = grid.core(data.draw(st.sampled_from(range(len(grid)))))
    grown = rect.grown(halo, limit=(height, width))
    assert grown.rows.start >= 0
    assert grown.rows.stop <= height
    assert grown.cols.stop <= width
    whole = Rect(Span(0, height), Span(0, width))
    assert grown == rect.grown_within(halo, whole)


@examples()
@given(rects())
def test_the_halves_of_a_rectangle_make_it_up(rect: Rect) -> None:
    assume(rect.pixels > 1)
    first, second, axis = rect.halved()
    assert first.meet(second) is None
    assert first.pixels + second.pixels == rect.pixels
    assert rect.shape[axis] == max(rect.shape)
    for half in (first, second):
        assert half.meet(rect) == half


@examples()
@given(sides, st.integers(1, LENGTH + 5))
def test_cuts_put_a_length_together_again(length: int, step: int) -> None:
    pieces = cuts(length, step)
    assert [p for piece in pieces for p in range(piece.start, piece.stop)] == list(range(length))
    assert all(len(piece) == step for piece in pieces[:-1])


@given(
    length=st.integers(1, 700),
    parts=st.integers(1, 12),
    margin=st.integers(0, 30),
)
def test_overlapping_windows_are_equal_and_own_every_pixel_once_clear_of_their_ends(
    length: int, parts: int, margin: int
) -> None:
    side = equal_side(length, parts, margin)
    assume(2 * margin < side <= length)
    found = overlapping(length, side, margin)
    assert len(found) <= parts
    assert {len(window) for window, _ in found} == {side}
    assert [at for _, owned in found for at in range(owned.start, owned.stop)] == [*range(length)]
    for window, owned in found:
        assert window.start == 0 or owned.start - window.start >= margin
        assert window.stop == length or window.stop - owned.stop >= margin


def test_the_sides_of_a_tile_in_parts_are_those_that_overlap_by_the_reach_alone() -> None:
    assert [equal_side(554, parts, 21) for parts in (1, 2, 3, 4)] == [554, 298, 213, 170]
    assert overlapping(554, 298, 21) == [
        (Span(0, 298), Span(0, 277)),
        (Span(256, 554), Span(277, 554)),
    ]


@pytest.mark.parametrize(("side", "margin"), [(10, 5), (0, 0), (101, 5), (20, -1)])
def test_windows_that_own_nothing_or_stick_out_are_refused(side: int, margin: int) -> None:
    with pytest.raises(ValueError, match=re.escape(f"2 * {margin} < {side} <= 100")):
        overlapping(100, side, margin)


@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (3, 3), (4, 3)])
def test_a_range_that_holds_no_pixels_cannot_be_built(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=f"start={start} stop={stop}"):
        Span(start, stop)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 5, 4, 0), "0x5"),
        ((5, -1, 4, 0), "5x-1"),
        ((5, 5, 0, 3), "got 0 and 3"),
        ((5, 5, 4, -2), "got 4 and -2"),
    ],
)
def test_a_grid_that_cannot_be_names_its_values(
    values: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TileGrid(*values)


@examples()
@given(grids())
def test_a_tile_that_does_not_exist_is_refused(grid: TileGrid) -> None:
    for tile in (-1, len(grid)):
        with pytest.raises(ValueError, match=f"tile {tile} does not exist"):
            grid.core(tile)
