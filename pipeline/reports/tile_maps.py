"""Tile maps: every tile of an item as a cell whose colour shows its score.

Here belongs which figure a cell shows, its colour and its words. Drawing it is the template's.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.geometry import Rect, TileGrid, cuts
from pipeline.jobs.scores import BICUBIC, CONSISTENCY, REFERENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.pictures.metrics import Scores

MAX_CELLS_A_SIDE = 40
"""Of a map; where an item has more tiles, a cell stands for a square of them."""

FAILED, PENDING, UNSCORED, SCORED = "failed", "pending", "not scored", "scored"
_WORST_FIRST = (FAILED, PENDING, SCORED, UNSCORED)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on a tile or an item; PSNR in dB, None where nothing was compared."""

    psnr: float | None = None
    ssim: float | None = None
    bicubic_psnr: float | None = None
    bicubic_ssim: float | None = None
    against_bicubic: bool = False

    @classmethod
    def of(cls, kinds: Mapping[str, Scores]) -> Figures:
        """Return the figures of SR beside bicubic, or of consistency, whichever was measured."""
        if CONSISTENCY in kinds:
            found = kinds[CONSISTENCY]
            return cls(found.psnr_y, found.ssim_y)
        if REFERENCE not in kinds or BICUBIC not in kinds:
            return cls()
        sr, bicubic = kinds[REFERENCE], kinds[BICUBIC]
        return cls(sr.psnr_y, sr.ssim_y, bicubic.psnr_y, bicubic.ssim_y, against_bicubic=True)

    @property
    def gain(self) -> float | None:
        """Return PSNR over bicubic in dB; 0 where both are infinite, that is equal to HR."""
        if self.psnr is None or self.bicubic_psnr is None:
            return None
        return 0.0 if self.psnr == self.bicubic_psnr else self.psnr - self.bicubic_psnr

    @property
    def value(self) -> float | None:
        """Return what maps and rankings go by: the gain, or PSNR where there is no reference."""
        return self.gain if self.against_bicubic else self.psnr


@dataclass(frozen=True, slots=True)
class TileState:
    """One tile as the ledger knows it."""

    tile: int
    state: str
    figures: Figures
    reason: str = ""

    @property
    def badness(self) -> tuple[int, float]:
        """Return a key that sorts the tile most in need of a look first."""
        value = self.figures.value
        return (_WORST_FIRST.index(self.state), math.inf if value is None else value)

    @property
    def words(self) -> str:
        """Return all that is known of the tile in one line."""
        reason = f": {self.reason}" if self.reason else ""
        return f"tile {self.tile}, {describe(self.figures) or self.state + reason}"


@dataclass(frozen=True, slots=True)
class Colours:
    """A scale of colours that people with any colour vision can read: steps between edges."""

    title: str
    unit: str
    edges: tuple[float, ...]
    steps: tuple[str, ...]

    def of(self, value: float) -> str:
        """Return the colour of a value; infinity has the last one."""
        return self.steps[bisect_right(self.edges, value)]

    @property
    def bounds(self) -> list[tuple[str, str]]:
        """Return (colour, words for its range) from the lowest to the highest."""
        edges = [self.edge(n) for n in range(len(self.edges))]
        between = [f"{low} to {high}" for low, high in pairwise(edges)]
        words = [f"below {edges[0]}", *between, f"{edges[-1]} and more"]
        return list(zip(self.steps, words, strict=True))

    def edge(self, n: int) -> str:
        """Return the n-th edge, with its sign where the scale has two sides."""
        text = f"{abs(self.edges[n]):g}"
        if self.edges[0] >= 0:
            return text
        return ("−" if self.edges[n] < 0 else "+") + text


GAIN = Colours(
    "PSNR-Y gain over bicubic",
    "dB",
    (-4, -2, -1, -0.5, -0.1, 0.1, 0.5, 1, 2, 4),
    (
        *("#7f3b08", "#b35806", "#e08214", "#fdb863", "#fee0b6", "#f4f4f2"),
        *("#d1e5f0", "#92c5de", "#4393c3", "#2166ac", "#053061"),
    ),
)
"""From orange (worse than bicubic) over white (alike) to blue (better); after ColorBrewer."""

AGREEMENT = Colours(
    "consistency PSNR-Y",
    "dB",
    (25, 30, 35, 40, 45, 50, 55, 60, 65),
    (
        *("#440154", "#482878", "#3e4a89", "#31688e", "#26838f"),
        *("#1f9d8a", "#35b779", "#6cce5a", "#b6de2b", "#fee825"),
    ),
)
"""Viridis: dark is little agreement with the LR input, yellow is much."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A rectangle of the map, in LR pixels, and the worst tile in it."""

    rect: Rect
    worst: TileState
    tiles: int

    @property
    def words(self) -> str:
        """Return what the cell shows when it is pointed at."""
        more = f" (the worst of {self.tiles} tiles)" if self.tiles > 1 else ""
        return self.worst.words + more

    def fill(self, colours: Colours) -> str:
        """Return the paint of the cell: a colour, or the pattern of its state."""
        value = self.worst.figures.value
        if self.worst.state != SCORED or value is None:
            return f"url(#{self.worst.state.replace(' ', '-')})"
        return colours.of(value)


def tile_map(grid: TileGrid, tiles: Iterable[TileState]) -> list[Cell]:
    """Return the cells that cover the picture exactly once, 40x40 at most."""
    step = -(-max(grid.shape) // MAX_CELLS_A_SIDE)
    blocks: dict[tuple[int, int], list[TileState]] = defaultdict(list)
    for tile in tiles:
        row, col = divmod(tile.tile, grid.shape[1])
        blocks[row // step, col // step].append(tile)
    rows, cols = (cuts(side, step * grid.tile_px) for side in (grid.height, grid.width))
    return [
        Cell(Rect(rows[row], cols[col]), min(found, key=lambda tile: tile.badness), len(found))
        for (row, col), found in sorted(blocks.items())
    ]


def describe(figures: Figures) -> str:
    """Return the figures in words, or nothing where nothing was measured."""
    if figures.psnr is None:
        return ""
    if not figures.against_bicubic:
        return f"consistency PSNR-Y {psnr(figures.psnr)} dB, SSIM-Y {ssim(figures.ssim)}"
    return (
        f"PSNR-Y {psnr(figures.psnr)} dB, bicubic {psnr(figures.bicubic_psnr)} dB, "
        f"gain {signed(figures.gain)} dB; "
        f"SSIM-Y {ssim(figures.ssim)}, bicubic {ssim(figures.bicubic_ssim)}"
    )


def psnr(value: float | None) -> str:
    """Return dB with two digits; "∞" for equal pixels, "–" where nothing was compared."""
    if value is None:
        return "–"
    return f"{value:.2f}" if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def ssim(value: float | None) -> str:
    """Return SSIM with four digits, "–" where no window fits."""
    return "–" if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """Return a number with its sign, but for zero: "+0.31", "−1.00", "0.00"."""
    if value is None:
        return "–"
    size = f"{abs(value):.2f}" if math.isfinite(value) else "∞"
    sign = "" if not float(size.replace("∞", "1")) else ("+" if value > 0 else "−")
    return sign + size
