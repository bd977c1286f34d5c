"""Contact sheets: patches next to their LR versions, and how textured all of them are, as a PNG.

Here belongs how a sheet looks; which patches it shows is up to the caller. Curves of a training
are drawn by `pipeline.training.records`, the only other home of matplotlib.

Patches are laid out pixel by pixel and never resampled: an LR pixel is a square of whole pixels.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib import RcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.pictures.codecs.previews import encode_preview

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

_PAPER, _INK, _SOFT, _LINE, _BARS, _MARK = (
    "#fdfdfb",
    "#1b1c1e",
    "#5c6066",
    "#dcdcd6",
    "#7f93a8",
    "#a84b00",
)
_ROW_PX, _LEAST_CELL_PX, _MOST_CELL_PX = 1040, 128, 256
_LEAST_WIDTH_PX = 640
_MARGIN_PX, _GAP_PX, _TITLE_PX, _HEADINGS_PX, _LABEL_PX = 20, 8, 34, 38, 28
_HISTOGRAM_PX, _AXES_TOP_PX, _AXES_BOTTOM_PX, _AXES_LEFT_PX = 290, 66, 46, 62
_LARGE_PX, _TEXT_PX = 15.0, 12.0

_BIN_EDGES = np.geomspace(0.1, 127.5**2, 53)
"""Ten bins a decade, up to the largest variance that values in 0..255 can have."""
_TICKS = (0.1, 1, 10, 100, 1_000, 10_000)


@dataclass(frozen=True, slots=True)
class Example:
    """One patch to show: HR ``(c, y, x)``, LR versions ``(c, y', x')`` by name, and its words."""

    hr: Pixels
    lr: Mapping[str, Pixels]
    label: str


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are on a sheet, in pixels from its top left corner."""

    columns: int
    rows: int
    factor: int
    """How many pixels wide a pixel of HR is drawn."""
    cell_px: tuple[int, int]
    """Rows and columns of a picture as drawn."""

    @property
    def width(self) -> int:
        cells = self.columns * (self.cell_px[1] + _GAP_PX) - _GAP_PX
        return 2 * _MARGIN_PX + max(cells, _LEAST_WIDTH_PX)

    @property
    def pictures_bottom(self) -> int:
        headings = _HEADINGS_PX if self.rows else 0
        return _MARGIN_PX + _TITLE_PX + headings + self.rows * (self.cell_px[0] + _LABEL_PX)

    @property
    def height(self) -> int:
        return self.pictures_bottom + _HISTOGRAM_PX + _MARGIN_PX

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return top and left of a picture."""
        top = _MARGIN_PX + _TITLE_PX + _HEADINGS_PX + row * (self.cell_px[0] + _LABEL_PX)
        return top, _MARGIN_PX + column * (self.cell_px[1] + _GAP_PX)


def draw_sheet(
    examples: Sequence[Example],
    variances: NDArray[np.float64],
    *,
    title: str,
    least_variance: float = 0.0,
) -> bytes:
    """Return a PNG: a row of pictures for each example, and a histogram of `variances` below.

    All examples have one size and the same LR versions. A row shows HR, then each LR version
    enlarged to the size of HR by nearest neighbour. Small patches are drawn larger by a whole
    factor; of patches too large for the sheet the middle is shown, which the heading says.
    `variances` ``(n,)`` are of luma in squared levels of 0..255; how many are below
    `least_variance` is written unless that is 0. Equal arguments give equal bytes.

    Raises:
        ValueError: if the examples differ in their sizes or LR versions.
    """
    _check_alike(examples)
    layout = _layout(examples)
    with _own_defaults():
        # At 72 dots an inch, a point is a pixel.
        size = layout.width / 72, layout.height / 72
        figure = Figure(figsize=size, dpi=72, facecolor=_PAPER)
        canvas = FigureCanvasAgg(figure)
        writer = _Writer(figure, canvas, layout)
        writer.write(title, top=_MARGIN_PX, left=_MARGIN_PX, size=_LARGE_PX)
        if examples:
            _write_words(writer, examples, layout)
        _draw_histogram(writer, variances, least_variance, layout)
        canvas.draw()
        drawn = np.array(canvas.buffer_rgba())[..., :3]
    _paste(examples, drawn, layout)
    return encode_preview(np.moveaxis(drawn, 2, 0), format="png")


def _check_alike(examples: Sequence[Example]) -> None:
    shapes = [{"HR": e.hr.shape, **{name: lr.shape for name, lr in e.lr.items()}} for e in examples]
    for shape in shapes[1:]:
        if list(shape.items()) != list(shapes[0].items()):
            raise ValueError(f"examples are {shapes[0]} and {shape}, expected all alike")


def _layout(examples: Sequence[Example]) -> _Layout:
    if not examples:
        return _Layout(columns=0, rows=0, factor=1, cell_px=(0, 0))
    columns = 1 + len(examples[0].lr)
    most = min(_MOST_CELL_PX, max(_LEAST_CELL_PX, _ROW_PX // columns - _GAP_PX))
    rows, cols = examples[0].hr.shape[1:]
    factor = max(1, most // max(rows, cols))
    cell = min(rows * factor, most), min(cols * factor, most)
    return _Layout(columns=columns, rows=len(examples), factor=factor, cell_px=cell)


def _paste(examples: Sequence[Example], sheet: Pixels, layout: _Layout) -> None:
    """Put the pictures on a sheet ``(y, x, 3)``, pixel by pixel.

    With matplotlib, which resamples everything it draws, the pictures took two thirds of the time
    of preparing a small dataset.
    """
    rows, cols = layout.cell_px
    for row, example in enumerate(examples):
        size = example.hr.shape[1] * layout.factor, example.hr.shape[2] * layout.factor
        for column, pixels in enumerate((example.hr, *example.lr.values())):
            top, left = layout.corner(row, column)
            shown = _middle(_enlarged(_rgb(pixels), size), layout.cell_px)
            sheet[top : top + rows, left : left + cols] = np.moveaxis(shown, 0, 2)


def _rgb(pixels: Pixels) -> Pixels:
    return pixels[:3] if len(pixels) >= 3 else np.repeat(pixels[:1], 3, axis=0)


def _enlarged(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return ``(c, *size)`` by nearest neighbour."""
    rows, cols = (np.arange(n) * had // n for n, had in zip(size, pixels.shape[1:], strict=True))
    return pixels[:, rows[:, None], cols]


def _middle(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    top, left = ((had - n) // 2 for had, n in zip(pixels.shape[1:], size, strict=True))
    return pixels[:, top : top + size[0], left : left + size[1]]


class _Writer:
    """Writes lines of text that end where they have to, in a font that every machine has."""

    def __init__(self, figure: Figure, canvas: FigureCanvasAgg, layout: _Layout) -> None:
        self.figure = figure
        self._renderer = canvas.get_renderer()
        self._size = layout.height, layout.width
        # The font that comes with matplotlib: another would give other bytes on each machine.
        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        self._font = FontProperties(fname=str(path))
        self._known = get_font(str(path)).get_charmap()

    def font(self, size: float = _TEXT_PX) -> FontProperties:
        """Return the font at `size` pixels."""
        font = self._font.copy()
        font.set_size(size)
        return font

    def write(
        self,
        text: str,
        *,
        top: float,
        left: float,
        width: float | None = None,
        size: float = _TEXT_PX,
        colour: str = _INK,
    ) -> None:
        """Write one line, shortened in its middle to `width` pixels (the sheet's, if None)."""
        height, whole = self._size
        font = self.font(size)
        self.figure.text(
            left / whole,
            1 - top / height,
            self._shortened(self._legible(text), font, width or whole - _MARGIN_PX - left),
            fontproperties=font,
            color=colour,
            verticalalignment="top",
            # Names come from outside: a dollar is a dollar.
            parse_math=False,
        )

    def _legible(self, text: str) -> str:
        """Return `text` with ``?`` for what is not in the font, or would break the line."""
        return "".join(c if c.isprintable() and ord(c) in self._known else "?" for c in text)

    def _shortened(self, text: str, font: FontProperties, width: float) -> str:
        if len(text) < width and self._width(text, font) <= width:
            return text
        # Fewer pixels than letters fit in no font; so a name of any length costs little.
        least, most = 0, min(len(text), int(width))
        while least < most:
            middle = (least + most + 1) // 2
            fits = self._width(_cut(text, middle), font) <= width
            least, most = (middle, most) if fits else (least, middle - 1)
        return _cut(text, least)

    def _width(self, text: str, font: FontProperties) -> float:
        return float(self._renderer.get_text_width_height_descent(text, font, ismath=False)[0])


def _cut(text: str, kept: int) -> str:
    """Return `text` without its middle: `kept` letters, as many from its start as its end."""
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def _write_words(writer: _Writer, examples: Sequence[Example], layout: _Layout) -> None:
    """Write the headings of the columns, and the label under each row."""
    first = examples[0]
    top, _ = layout.corner(0, 0)
    rows, cols = layout.cell_px
    for column, (name, pixels) in enumerate({"HR": first.hr, **first.lr}.items()):
        left = layout.corner(0, column)[1]
        size = f"{pixels.shape[1]} × {pixels.shape[2]} px"
        if column == 0 and layout.cell_px != tuple(n * layout.factor for n in pixels.shape[1:]):
            size += f", middle {rows} × {cols}"
        writer.write(name, top=top - _HEADINGS_PX, left=left, width=cols)
        writer.write(size, top=top - _HEADINGS_PX + 17, left=left, width=cols, colour=_SOFT)
    for row, example in enumerate(examples):
        top, left = layout.corner(row, 0)
        writer.write(example.label, top=top + rows + 5, left=left, colour=_SOFT)


def _draw_histogram(
    writer: _Writer, variances: NDArray[np.float64], least_variance: float, layout: _Layout
) -> None:
    """Draw how many patches have which variance, and what is below the threshold."""
    top = layout.pictures_bottom + 12
    patches = f"{len(variances):,} patch{'' if len(variances) == 1 else 'es'}"
    writer.write(f"Variance of luma, {patches}", top=top, left=_MARGIN_PX, size=_LARGE_PX)
    axes = _axes(writer, layout)
    counts, _ = np.histogram(np.clip(variances, _BIN_EDGES[0], _BIN_EDGES[-1]), _BIN_EDGES)
    axes.bar(_BIN_EDGES[:-1], counts, np.diff(_BIN_EDGES), align="edge", color=_BARS, zorder=2)
    axes.set_ylim(0, max(1.0, 1.05 * float(counts.max(initial=0))))
    # Only now: the ticks follow from the counts.
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontproperties(writer.font())
    if least_variance > 0:
        at = float(np.clip(least_variance, _BIN_EDGES[0], _BIN_EDGES[-1]))
        axes.axvline(at, color=_MARK, linewidth=1.5, zorder=3)
        below = f"{int(np.count_nonzero(variances < least_variance)):,}"
        words = f"least_variance {least_variance:g}: {below} of {patches} below"
        writer.write(words, top=top + 22, left=_MARGIN_PX, colour=_MARK)


def _axes(writer: _Writer, layout: _Layout) -> Axes:
    """Return axes in the place of the histogram: patches over variance, its axis logarithmic."""
    left, width = _MARGIN_PX + _AXES_LEFT_PX, layout.width - 2 * _MARGIN_PX - _AXES_LEFT_PX
    height = _HISTOGRAM_PX - _AXES_TOP_PX - _AXES_BOTTOM_PX
    bottom = _MARGIN_PX + _AXES_BOTTOM_PX
    place = left / layout.width, bottom / layout.height
    size = width / layout.width, height / layout.height
    axes = writer.figure.add_axes((*place, *size), facecolor=_PAPER)
    axes.set_xscale("log")
    axes.set_xlim(_BIN_EDGES[0], _BIN_EDGES[-1])
    axes.minorticks_off()
    axes.set_xticks(_TICKS, labels=[f"{'≤ ' if t == _TICKS[0] else ''}{t:,}" for t in _TICKS])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", color=_LINE, zorder=1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=_SOFT)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("squared levels of 0..255", fontproperties=writer.font(), color=_SOFT)
    return axes


@contextmanager
def _own_defaults() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever a file of settings on the machine says."""
    defaults = {key: v for key, v in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context(RcParams(defaults)):
        yield
