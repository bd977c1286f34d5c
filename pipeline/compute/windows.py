"""Windows: a unit goes through the network in pieces of the size that its machine is fastest with.

What belongs here: which pieces these are, and how the results are put together. Each piece has as
much around it as the network looks, so on a CPU the bits are those of the whole, wherever it is
cut. Not: how fast a machine is with which size (`pipeline.compute.speeds`).
"""

from __future__ import annotations

import logging
import platform
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from typing import TYPE_CHECKING

from models.reach import reach_of
from pipeline.compute.backends import EXACT_MACHINES
from pipeline.compute.speeds import SPEEDS, Subject, known_or_measured, measure_speeds
from pipeline.geometry import Rect, Span, equal_side, overlapping
from pipeline.storage.user_cache import cache_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from models.checkpoint import Model
    from pipeline.compute.backends import Backend
    from pipeline.compute.speeds import Speeds

logger = logging.getLogger(__name__)

_GAIN = 1.05
"""How many times as fast pieces must promise to be: what is less may be noise of the measuring."""

_LEAST_PX = 32
"""No window is smaller, however little a network looks around: each call costs something."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a batch is cut: so many pictures at once, or windows of ``height`` x ``width`` of one."""

    together: int
    height: int
    width: int


class WindowedBackend:
    """A backend that computes its batches in the pieces that are fastest on this machine."""

    def __init__(self, backend: Backend, *, scale: int, reach_px: int, speeds: Speeds) -> None:
        self._backend = backend
        self._scale = scale
        self._reach_px = reach_px
        self._speeds = speeds

    @property
    def name(self) -> str:
        """Return the name of the backend that computes the pieces."""
        return self._backend.name

    def run(self, x: Tensor, precision: str) -> Tensor:
        """Map ``(n, c, h, w)`` as the backend does, to the same bits."""
        n, c, h, w = x.shape
        scale = self._scale
        cut = fastest_cut(n, h, w, reach_px=self._reach_px, speeds=self._speeds)
        if cut == Cut(n, h, w):
            return self._backend.run(x, precision)
        y = x.new_empty((n, c, h * scale, w * scale))
        for pictures, window, owned in _pieces(x, cut, self._reach_px):
            piece = x[pictures][..., window.rows.index, window.cols.index]
            part = self._backend.run(piece, precision)
            if part.shape[1:] != (c, *window.scaled(scale).shape):
                return self._backend.run(x, precision)  # Whose shape the caller will not take.
            into, inside = owned.scaled(scale), owned.scaled(scale).within(window.scaled(scale))
            y[pictures][..., into.rows.index, into.cols.index] = part[..., *inside[1:]]
        return y


def in_fastest_pieces(backend: Backend, model: Model, *, precision: str) -> Backend:
    """Return what computes `model` on this CPU in the pieces that are fastest here.

    That is `backend` itself where no piece is, and where the bits would not be those of the whole.
    """
    if platform.machine() not in EXACT_MACHINES:
        return backend
    channels, scale = model.spec.channels, model.spec.scale
    subject = Subject.of(model.spec, backend=backend.name, precision=precision)
    measure = partial(measure_speeds, backend, channels=channels, precision=precision)
    speeds = known_or_measured(subject, measure, cache_file(SPEEDS))
    if not _may_pay(speeds):
        return backend
    reach = reach_of(model)
    if reach is None:
        return backend
    return WindowedBackend(backend, scale=scale, reach_px=reach, speeds=speeds)


@lru_cache(maxsize=1024)
def fastest_cut(n: int, height: int, width: int, *, reach_px: int, speeds: Speeds) -> Cut:
    """Return how a batch ``(n, c, height, width)`` is computed in the least time.

    What windows overlap is computed twice, and counts. The whole batch at once is what everything
    else must beat clearly.
    """
    whole = Cut(n, height, width)
    least_s = n * height * width / speeds.at(n * height * width) / _GAIN
    best = whole
    for cut, total_px in _cuts(whole, reach_px):
        piece_px = cut.together * cut.height * cut.width
        # Larger ones are as fast as the largest, and the whole has nothing twice.
        if speeds.least_px <= piece_px <= speeds.most_px and total_px < least_s * speeds.at(
            piece_px
        ):
            best, least_s = cut, total_px / speeds.at(piece_px)
    logger.info("%s goes through the network as %s", whole, best)
    return best


def _may_pay(speeds: Speeds) -> bool:
    """Return whether a smaller window is clearly faster than a larger one."""
    return any(fast >= _GAIN * slow for (_, fast), (_, slow) in combinations(speeds.by_side, 2))


def _cuts(whole: Cut, reach_px: int) -> Iterator[tuple[Cut, int]]:
    """Yield fewer pictures at once, and windows of each alone, with the pixels that all have."""
    n, height, width = whole.together, whole.height, whole.width
    for parts in range(2, n + 1):
        yield Cut(-(-n // parts), height, width), n * height * width
    cols = list(_sides(width, reach_px))
    for rows_side, rows_px in _sides(height, reach_px):
        for cols_side, cols_px in cols:
            yield Cut(1, rows_side, cols_side), n * rows_px * cols_px


def _sides(length: int, reach_px: int) -> Iterator[tuple[int, int]]:
    """Yield the sides of equal windows along an axis, and how many pixels all have together.

    From one window to as many as are not mostly what surrounds what they own.
    """
    parts, side = 1, length
    while parts == 1 or side > max(_LEAST_PX, 4 * reach_px):
        yield side, side * parts
        parts += 1
        side = equal_side(length, parts, reach_px)


def _pieces(x: Tensor, cut: Cut, reach_px: int) -> Iterator[tuple[slice, Rect, Rect]]:
    """Yield which pictures, which window of them, and which part of it they own."""
    n, _, height, width = x.shape
    rows = _windows(height, cut.height, reach_px)
    cols = _windows(width, cut.width, reach_px)
    for start in range(0, n, cut.together):
        for window_rows, owned_rows in rows:
            for window_cols, owned_cols in cols:
                yield (
                    slice(start, start + cut.together),
                    Rect(window_rows, window_cols),
                    Rect(owned_rows, owned_cols),
                )


def _windows(length: int, side: int, reach_px: int) -> list[tuple[Span, Span]]:
    whole = Span(0, length)
    return [(whole, whole)] if side == length else overlapping(length, side, reach_px)
