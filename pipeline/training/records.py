"""What a training leaves to look at: figures, TensorBoard events, curves and pictures."""

from __future__ import annotations

import csv
import io
import logging
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.pictures.codecs.previews import encode_preview
from pipeline.recipes.training import LOSSES
from pipeline.storage.access import EVERYONE, make_folder
from pipeline.storage.atomic import write_atomic
from pipeline.training.events import Events
from pipeline.training.folder import CURVES, METRICS
from pipeline.training.validation import psnr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.storage.store import Place
    from pipeline.training.validation import Validator

    Pixels = NDArray[np.uint8]

logger = logging.getLogger(__name__)

SAMPLES, EVENTS = "samples", "events"
PRETRAINING, ADVERSARIAL = "alone", "gan"
"""Stages, as the column `stage` has them: without and with a discriminator."""

SHOWN = 4
"""How many validation patches a picture of samples shows."""

COLUMNS = (
    "step", "stage", "loss", "l1", "mse", "content", "perceptual", "lpips_vgg",
    "adversarial", "validation_loss", "discriminator", "validation_discriminator",
    "accuracy", "precision", "recall", "f1", "specificity", "learning_rate",
    "psnr_y", "bicubic_psnr_y", "ssim_y", "bicubic_ssim_y", "lpips", "bicubic_lpips",
    "seconds", "waiting_s",
)  # fmt: skip
"""Of the metrics: means since the validation before, and the validation."""

_PARTS = LOSSES
_PANELS = {
    "generator: loss in training, its parts, loss in validation": (
        "loss",
        "validation_loss",
        *_PARTS,
    ),
    "discriminator: loss in training and in validation": (
        "discriminator",
        "validation_discriminator",
    ),
    "discriminator: how often it was right, in training": (
        "accuracy",
        "precision",
        "recall",
        "f1",
        "specificity",
    ),
    "PSNR-Y in validation, dB: higher is better": ("psnr_y", "bicubic_psnr_y"),
    "SSIM-Y in validation: higher is better": ("ssim_y", "bicubic_ssim_y"),
    "LPIPS in validation: lower is better": ("lpips", "bicubic_lpips"),
}
_WIDE = 30.0
"""Losses that are so many times apart are drawn on a logarithmic scale."""


@dataclass(slots=True)
class Records:
    """The files of one training that are for people."""

    folder: Place
    _events: Events | None = None

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def record(self, row: Mapping[str, float | str | None]) -> None:
        """Append a row of `COLUMNS`; what is None stays empty. Then draw the curves again.

        Rows of steps from its own on are dropped first: a training that was resumed from before
        them records them again.
        """
        rows = [old for old in self.rows() if int(old["step"]) < int(row["step"] or 0)]
        rows.append({name: _shown(row.get(name)) for name in COLUMNS})
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.folder / METRICS, text.getvalue().encode())
        self._add_events(row)
        write_atomic(self.folder / CURVES, draw_curves(rows))

    def rows(self) -> list[dict[str, str]]:
        """Return the rows so far, as text, without those that cannot be read."""
        path = self.folder / METRICS
        if not path.exists():
            return []
        text = path.read_bytes().decode(errors="replace")
        header, *lines = text.splitlines() or [""]
        rows = [row for row in csv.DictReader([header, *lines]) if _is_readable(row)]
        if len(rows) < len(lines):
            # It is for people: no training ends because of it.
            logger.warning(
                "%s is damaged: %d of %d rows are left out",
                path,
                len(lines) - len(rows),
                len(lines),
            )
        return rows

    def show(self, validator: Validator, sr: Pixels, step: int) -> None:
        """Write a picture of LR, bicubic, SR and HR of validation patches, spaced evenly."""
        make_folder(self.folder / SAMPLES, EVERYONE)
        rows = np.linspace(0, len(sr) - 1, min(SHOWN, len(sr))).round().astype(np.int64)
        content = draw_samples(
            validator.lr[rows], validator.bicubic(rows), sr[rows], validator.hr[rows]
        )
        write_atomic(self.folder / SAMPLES / f"{step:08}.png", content)

    def _add_events(self, row: Mapping[str, float | str | None]) -> None:
        step = int(row["step"] or 0)
        if self._events is None:
            self._events = Events(self.folder / EVENTS, first_step=step)
        figures = {n: v for n, v in row.items() if isinstance(v, float) and n in COLUMNS}
        self._events.add(figures, step)


def draw_curves(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Return a PNG with a panel for each side of the training, over the steps."""
    panels = {title: lines for title, names in _PANELS.items() if (lines := _lines(rows, names))}
    figure = Figure(figsize=(9, 2.4 * max(1, len(panels))), dpi=100, layout="constrained")
    for place, (title, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(
            len(panels), 1, place, sharex=figure.axes[0] if place > 1 else None
        )
        for name, points in lines.items():
            style = "--" if name.startswith("bicubic") else "-"
            axes.plot(*zip(*points, strict=True), style, marker=".", label=_legend(name))
        values = [value for points in lines.values() for _, value in points]
        if "loss" in lines and min(values) > 0 and max(values) > _WIDE * min(values):
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(left=0)
        for step in _stage_ends(rows):
            axes.axvline(step, color="grey", linewidth=0.8, linestyle=":", label="GAN begins")
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(visible=True, linewidth=0.3)
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        axes.set_xlabel("step" if place == len(panels) else "")
    return _png(figure)


def _lines(
    rows: Sequence[Mapping[str, str]], names: Sequence[str]
) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each column that has any; a loss of one part is drawn once."""
    lines = {
        name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        for name in names
    }
    lines = {name: points for name, points in lines.items() if points}
    parts = [name for name in lines if name in _PARTS]
    return {name: p for name, p in lines.items() if len(parts) > 1 or name not in parts}


def _legend(column: str) -> str:
    """Return the name of a column as the legend has it."""
    for measure, name in (("psnr_y", "PSNR-Y"), ("ssim_y", "SSIM-Y"), ("lpips", "LPIPS")):
        column = column.replace(measure, name)
    return column.replace("_", " ")


def _stage_ends(rows: Sequence[Mapping[str, str]]) -> list[int]:
    """Return the steps after which another stage began."""
    return [int(a["step"]) for a, b in pairwise(rows) if a["stage"] != b["stage"]]


def draw_samples(lr: Pixels, bicubic: Pixels, sr: Pixels, hr: Pixels) -> bytes:
    """Return a PNG with a row LR, bicubic, SR, HR for each patch, PSNR under what was made.

    At scale 1 nothing is enlarged, and LR stands beside SR at once.
    """
    columns = {"LR": lr, "bicubic": bicubic, "SR": sr, "HR": hr}
    if lr.shape == hr.shape:
        del columns["bicubic"]
    figure = Figure(figsize=(2 * len(columns), 2.2 * len(hr)), dpi=100, layout="constrained")
    for row in range(len(hr)):
        for column, (name, pixels) in enumerate(columns.items(), 1):
            axes = figure.add_subplot(len(hr), len(columns), row * len(columns) + column)
            axes.imshow(_shown_pixels(pixels[row]), interpolation="nearest", vmin=0, vmax=255)
            axes.set_title(name if row == 0 else "", fontsize=9)
            if pixels.shape == hr.shape and name != "HR":
                score = psnr(pixels[row], hr[row])
                label = f"{score:.2f} dB" if math.isfinite(score) else "equal to HR"
                axes.set_xlabel(label, fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
    return _png(figure)


def _shown_pixels(pixels: Pixels) -> Pixels:
    """Return ``(c, h, w)`` as matplotlib takes it, grey three times over."""
    return np.moveaxis(np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels, 0, 2)


def _png(figure: Figure) -> bytes:
    # Not by `savefig`, which draws twice where there is a layout.
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    return encode_preview(np.moveaxis(drawn, 2, 0), format="png")


def _is_readable(row: Mapping[str | None, str | None]) -> bool:
    if not {"step", "stage"} <= row.keys() or None in row or None in row.values():
        return False
    try:
        int(row["step"] or "")
        return all(math.isfinite(float(row.get(name) or 0)) for name in COLUMNS if name != "stage")
    except ValueError:
        return False


def _shown(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
