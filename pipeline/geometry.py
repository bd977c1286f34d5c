"""Rectangles of pixels, one axis at a time. All index arithmetic of upres lives here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Half-open range of pixels ``[start, stop)`` on one axis."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"need 0 <= start < stop, got start={self.start} stop={self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def index(self) -> slice:
        """Return the range as an index."""
        return slice(self.start, self.stop)

    def scaled(self, scale: int) -> Span:
        """Return the range of the same pixels after enlargement by `scale`."""
        return Span(self.start * scale, self.stop * scale)

    def within(self, outer: Span) -> slice:
        """Return where this range is inside `outer`: ``x[outer][s.within(outer)] == x[s]``."""
        if self.start < outer.start or self.stop > outer.stop:
            raise ValueError(f"{self} is not inside {outer}")
        return slice(self.start - outer.start, self.stop - outer.start)

    def reduced(self, scale: int) -> Span:
        """Return the fewest pixels before enlargement by `scale` that cover this range after it."""
        return Span(self.start // scale, -(-self.stop // scale))

    def meet(self, other: Span) -> Span | None:
        """Return the pixels in both ranges, or None where they share none."""
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        return Span(start, stop) if start < stop else None

    def halved(self) -> tuple[Span, Span]:
        """Return two ranges that make up this one; it must hold two pixels or more."""
        middle = (self.start + self.stop) // 2
        return Span(self.start, middle), Span(middle, self.stop)

    def grown(self, halo: int, *, limit: int) -> Span:
        """Return the range with `halo` more pixels on both sides, clipped to ``[0, limit)``."""
        return self.grown_within(halo, Span(0, limit))

    def grown_within(self, halo: int, outer: Span) -> Span:
        """Return the range with `halo` more pixels on both sides, clipped to `outer`."""
        return Span(max(outer.start, self.start - halo), min(outer.stop, self.stop + halo))


def cuts(length: int, step: int) -> list[Span]:
    """Return consecutive ranges of `step` pixels that cover ``[0, length)`` exactly once."""
    if length < 1 or step < 1:
        raise ValueError(f"need length >= 1 and step >= 1, got length={length} step={step}")
    return [Span(start, min(start + step, length)) for start in range(0, length, step)]


def overlapping(length: int, side: int, margin: int) -> list[tuple[Span, Span]]:
    """Return windows of `side` pixels that cover ``[0, length)``, each with the range it owns.

    All are equally long: the last is moved back into the range. The owned ranges cover it exactly
    once, and each stays `margin` pixels clear of the ends of its window that are inside the range.
    """
    if not 0 <= 2 * margin < side <= length:
        raise ValueError(f"need 0 <= 2 * {margin} < {side} <= {length}")
    found: list[tuple[Span, Span]] = []
    owned = 0
    for start in range(0, max(1, length - 2 * margin), side - 2 * margin):
        window = Span(min(start, length - side), min(start + side, length))
        stop = length if window.stop == length else window.stop - margin
        found.append((window, Span(owned, stop)))
        owned = stop
    return found


def equal_side(length: int, parts: int, margin: int) -> int:
    """Return the least side of so many `overlapping` windows of ``[0, length)``."""
    return -(-(length + (parts - 1) * 2 * margin) // parts)


@dataclass(frozen=True, slots=True, order=True)
class Rect:
    """A rectangle of one picture: rows, then columns."""

    rows: Span
    cols: Span

    @property
    def index(self) -> tuple[slice, slice, slice]:
        """Return the index of this rectangle in an array ``(c, y, x)``."""
        return (slice(None), self.rows.index, self.cols.index)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns)."""
        return (len(self.rows), len(self.cols))

    @property
    def pixels(self) -> int:
        """Return how many pixels are inside."""
        return len(self.rows) * len(self.cols)

    def scaled(self, scale: int) -> Rect:
        """Return the same rectangle after enlargement by `scale`."""
        return Rect(self.rows.scaled(scale), self.cols.scaled(scale))

    def reduced(self, scale: int) -> Rect:
        """Return the smallest rectangle whose enlargement by `scale` covers this one."""
        return Rect(self.rows.reduced(scale), self.cols.reduced(scale))

    def within(self, outer: Rect) -> tuple[slice, slice, slice]:
        """Return the index of this rectangle in an array that holds `outer`."""
        return (slice(None), self.rows.within(outer.rows), self.cols.within(outer.cols))

    def meet(self, other: Rect) -> Rect | None:
        """Return the pixels in both rectangles, or None where they share none."""
        rows, cols = self.rows.meet(other.rows), self.cols.meet(other.cols)
        return None if rows is None or cols is None else Rect(rows, cols)

    def halved(self) -> tuple[Rect, Rect, int]:
        """Return the two halves of the longer side, and its axis: 0 for rows, 1 for columns."""
        axis = 0 if len(self.rows) >= len(self.cols) else 1
        first, second = (self.rows if axis == 0 else self.cols).halved()
        if axis == 0:
            return Rect(first, self.cols), Rect(second, self.cols), axis
        return Rect(self.rows, first), Rect(self.rows, second), axis

    def grown_within(self, halo: int, outer: Rect) -> Rect:
        """Return the rectangle with `halo` more pixels on all sides, clipped to `outer`."""
        return Rect(
            self.rows.grown_within(halo, outer.rows), self.cols.grown_within(halo, outer.cols)
        )

    def grown(self, halo: int, *, limit: tuple[int, int]) -> Rect:
        """Return the rectangle with `halo` more pixels on all sides, clipped to the picture."""
        return Rect(self.rows.grown(halo, limit=limit[0]), self.cols.grown(halo, limit=limit[1]))


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The tiles of one picture: they cover it exactly once.

    Tiles are counted row by row from 0. All but the last of each row and column have cores of
    `tile_px` x `tile_px`.
    """

    height: int
    width: int
    tile_px: int
    halo_px: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"picture is {self.height}x{self.width}, need at least 1x1")
        if self.tile_px < 1 or self.halo_px < 0:
            raise ValueError(
                f"need tile >= 1 px and halo >= 0 px, got {self.tile_px} and {self.halo_px}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows of tiles, columns of tiles)."""
        return (-(-self.height // self.tile_px), -(-self.width // self.tile_px))

    def __len__(self) -> int:
        rows, cols = self.shape
        return rows * cols

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def core(self, tile: int) -> Rect:
        """Return the pixels that `tile` owns."""
        if not 0 <= tile < len(self):
            raise ValueError(f"tile {tile} does not exist, the picture has {len(self)} tiles")
        row, col = divmod(tile, self.shape[1])
        return Rect(
            _cut(row, self.tile_px, self.height),
            _cut(col, self.tile_px, self.width),
        )

    def window(self, tile: int) -> Rect:
        """Return the pixels that `tile` reads: its core and halo, clipped to the picture."""
        return self.core(tile).grown(self.halo_px, limit=(self.height, self.width))


def _cut(index: int, step: int, length: int) -> Span:
    return Span(index * step, min((index + 1) * step, length))
