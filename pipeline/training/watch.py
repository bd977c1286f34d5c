"""What a training leaves to look at: figures, TensorBoard events, curves and pictures."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from pipeline.storage.atomic import write_atomic
from pipeline.training.validation import psnr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.training.validation import Judge

    Pixels = NDArray[np.uint8]

METRICS, CURVES, SAMPLES, EVENTS = "metrics.csv", "curves.png", "samples", "events"
SHOWN = 4
"""How many validation patches a picture of samples shows."""

COLUMNS = (
    "step", "stage", "loss", "l1", "mse", "content", "perceptual", "adversarial",
    "discriminator", "accuracy", "precision", "recall", "f1", "specificity",
    "learning_rate", "psnr_y", "ssim_y", "lpips", "seconds", "waiting_s",
)  # fmt: skip
"""Of the metrics: means since the validation before, and the validation."""

_PANELS = (
    ("generator, training", ("loss", "l1", "mse", "content", "perceptual", "adversarial")),
    ("discriminator, training", ("discriminator", "accuracy", "f1", "specificity")),
    ("PSNR-Y, validation, dB", ("psnr_y",)),
    ("SSIM-Y and LPIPS, validation", ("ssim_y", "lpips")),
)


@dataclass(slots=True)
class Watch:
    """The files of one training that are for people."""

    folder: Path
    _events: SummaryWriter | None = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def record(self, row: Mapping[str, float | str | None]) -> None:
        """Append a row of `COLUMNS`; what is None stays empty. Then draw the curves anew.

        Rows of steps from its own on are dropped first: a training that was resumed from before
        them tells them again.
        """
        rows = [old for old in self.rows() if int(old["step"]) < int(row["step"] or 0)]
        rows.append({name: _shown(row.get(name)) for name in COLUMNS})
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.folder / METRICS, text.getvalue().encode())
        self._tell_tensorboard(row)
        write_atomic(self.folder / CURVES, draw_curves(rows))

    def rows(self) -> list[dict[str, str]]:
        """Return the rows so far, as text."""
        path = self.folder / METRICS
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def show(self, judge: Judge, sr: Pixels, step: int) -> None:
        """Write a picture of LR, bicubic, SR and HR of some validation patches."""
        (self.folder / SAMPLES).mkdir(exist_ok=True)
        content = draw_samples(judge.lr, judge.bicubic(SHOWN), sr, judge.hr)
        write_atomic(self.folder / SAMPLES / f"{step:08}.png", content)

    def _tell_tensorboard(self, row: Mapping[str, float | str | None]) -> None:
        step = int(row["step"] or 0)
        if self._events is None:
            self._events = SummaryWriter(str(self.folder / EVENTS), purge_step=step)
        for name, value in row.items():
            if isinstance(value, float) and name in COLUMNS:
                self._events.add_scalar(name, value, step)
        self._events.flush()


def draw_curves(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Return a PNG with a panel for each side of the training, over the steps."""
    panels = [
        (title, [name for name in names if any(row.get(name) for row in rows)])
        for title, names in _PANELS
    ]
    panels = [(title, names) for title, names in panels if names]
    figure = Figure(figsize=(9, 2.6 * max(1, len(panels))), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, names) in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, place)
        for name in names:
            points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
            axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(visible=True, linewidth=0.3)
        axes.legend(fontsize=8, frameon=False, ncols=len(names))
    if panels:
        axes.set_xlabel("step")
    return _png(figure)


def draw_samples(lr: Pixels, bicubic: Pixels, sr: Pixels, hr: Pixels) -> bytes:
    """Return a PNG with a row LR, bicubic, SR, HR for each of the first patches."""
    many = min(SHOWN, len(hr))
    figure = Figure(figsize=(8, 2.2 * many), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for row in range(many):
        told = (
            ("LR", lr[row], ""),
            ("bicubic", bicubic[row], f"{psnr(bicubic[row], hr[row]):.2f} dB"),
            ("SR", sr[row], f"{psnr(sr[row], hr[row]):.2f} dB"),
            ("HR", hr[row], ""),
        )
        for column, (name, pixels, score) in enumerate(told):
            axes = figure.add_subplot(many, len(told), row * len(told) + column + 1)
            shown = np.moveaxis(np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels, 0, 2)
            axes.imshow(shown, interpolation="nearest")
            axes.set_title(name if row == 0 else "", fontsize=9)
            axes.set_xlabel(score, fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
    return _png(figure)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _shown(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
