"""A trial: some crops of one picture by every model that could upscale it, on one page.

So a person can choose by eye, before spending a night on it. Here belongs what is shown of a
picture and how it is cropped; how the page looks is in its template.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.reach import reach_of
from models.registry import shipped
from models.strength import RESTORING, Strength
from pipeline.compute.inference import (
    Inference,
    load_model,
    resolve_device,
    resolve_precision,
    to_unit_range,
)
from pipeline.compute.threads import in_threads
from pipeline.errors import SourceError, UsageError
from pipeline.geometry import Rect, Span, cuts
from pipeline.jobs.overview import opaque
from pipeline.jobs.wear import verdict
from pipeline.pictures.files import read_picture
from pipeline.pictures.traces import traces
from pipeline.reports.html import render
from pipeline.reports.portraits import data_uri
from pipeline.storage.atomic import write_atomic
from pipeline.storage.own_files import check_own, is_trial
from pipeline.storage.store import check_names_file, check_stores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from models.checkpoint import Model
    from pipeline.storage.store import Place

CROPS = 3
CROP_SR_PX = 320
"""Side of a crop, in pixels of the enlarged picture."""
STRENGTHS = (0.25, 0.5, 0.75)
SCALES = (4, 2)

_FAMILY = "span"
_FARTHEST_PX = 64
"""Margin around a crop for networks that look at the whole picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TryRequest:
    """A picture to try models on, and which."""

    picture: Path
    out: Place | None = None
    scale: int = SCALES[0]
    models: tuple[str, ...] = ()
    """Further models, besides those of upres."""
    device: str = "auto"

    @property
    def page(self) -> Place:
        """Return where the page is written: in the current folder, unless named."""
        return self.out or Path(f"{self.picture.name}.try.html")


@dataclass(frozen=True, slots=True)
class Trial:
    """A page that was written."""

    page: Place
    models: tuple[str, ...]
    auto: str
    """Which model ``--model auto`` would take."""
    because: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the document that `upres try` prints."""
        return {
            "page": str(self.page),
            "models": list(self.models),
            "auto": self.auto,
            "because": self.because,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, slots=True)
class Look:
    """One crop by one model, as a picture inside the page."""

    model: str
    uri: str


def try_models(request: TryRequest) -> Trial:
    """Write the page, whole or not at all.

    Raises:
        UsageError: if there are no models of the scale, or one that is named has another.
        SourceError, PictureError: if the picture cannot be read.
        OccupiedError: if a file is there that upres did not write.
    """
    began = time.perf_counter()
    check_stores(request.out)
    check_names_file(request.out)
    check_own(request.page, is_trial)
    data = _read(request.picture)
    picture = read_picture(data, name=request.picture.name)
    worn, because = verdict(traces(data, picture.metadata.format, picture.pixels))
    auto = _auto(request.scale, worn=worn)
    windows = crops(picture.pixels, side=CROP_SR_PX // request.scale)
    with in_threads(1):
        models = _models(request)
        looks = _looks(picture.pixels, windows, models, device=resolve_device(request.device))
    names = tuple(model.spec.name for model in models)
    facts = {
        "name": request.picture.name,
        "shape": picture.pixels.shape,
        "scale": request.scale,
        "auto": auto,
        "because": because,
        "models": names,
        "rows": list(zip(windows, looks, strict=True)),
    }
    write_atomic(request.page, render("trial.html", facts))
    return Trial(request.page, names, auto, because, time.perf_counter() - began)


def crops(pixels: NDArray[Any], *, side: int) -> list[Rect]:
    """Return the windows of `side` px with the most detail in ``(c, h, w)``, the best first."""
    grey = opaque(to_unit_range(pixels).numpy()).mean(axis=0)
    detail = np.zeros_like(grey)
    detail[:-1] += np.abs(np.diff(grey, axis=0))
    detail[:, :-1] += np.abs(np.diff(grey, axis=1))
    height, width = grey.shape
    # Bounded, so that one hard edge does not outweigh fine texture.
    detail = np.sqrt(np.nan_to_num(detail, nan=0.0, posinf=0.0))
    windows = [Rect(r, c) for r in _beside(height, side) for c in _beside(width, side)]
    return sorted(windows, key=lambda w: -float(detail[w.index[1:]].mean()))[:CROPS]


def _beside(length: int, side: int) -> list[Span]:
    """Return ranges of `side` px side by side that lie within `length`, or all of it."""
    return [span for span in cuts(length, side) if len(span) == side] or [Span(0, length)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror}); name one picture file"
        ) from error


def _models(request: TryRequest) -> list[Model]:
    """Return the candidates: bicubic, the networks of upres, and those that are named."""
    names = dict.fromkeys([f"bicubic-x{request.scale}", *_own(request.scale), *request.models])
    found = [load_model(name) for name in names]
    for model in found:
        if model.spec.scale != request.scale:
            raise UsageError(
                f"{model.spec.name} enlarges by {model.spec.scale}, expected {request.scale}; add "
                f"--scale {model.spec.scale}"
            )
    return found


def _own(scale: int) -> Iterator[str]:
    """Yield the names of the networks of one family, strengths between two that are a pair."""
    plain = f"{_FAMILY}-x{scale}"
    names = [name for name in shipped() if name == plain or name.startswith(f"{plain}-")]
    if plain in names:
        yield plain
    if {plain, plain + RESTORING} <= set(names):
        yield from (Strength(plain + RESTORING, value).name for value in STRENGTHS)
        yield plain + RESTORING
    yield from (name for name in names if name not in (plain, plain + RESTORING))


def _auto(scale: int, *, worn: bool) -> str:
    plain = f"{_FAMILY}-x{scale}"
    return plain + RESTORING if worn and plain + RESTORING in shipped() else plain


def _looks(
    pixels: NDArray[Any], windows: Sequence[Rect], models: Sequence[Model], *, device: str
) -> list[list[Look]]:
    """Return for each window what each model makes of it, read with as much as it looks at."""
    columns = []
    for model in models:
        precision = resolve_precision("auto", device=device)
        inference = Inference.of_model(model, precision=precision, device=device)
        reach = reach_of(model)
        margin = _FARTHEST_PX if reach is None else reach
        columns.append([_look(pixels, window, inference, margin) for window in windows])
    names = [model.spec.name for model in models]
    return [
        [Look(name, uri) for name, uri in zip(names, row, strict=True)]
        for row in zip(*columns, strict=True)
    ]


def _look(pixels: NDArray[Any], window: Rect, inference: Inference, margin: int) -> str:
    height, width = pixels.shape[1:]
    wider = window.grown(margin, limit=(height, width))
    enlarged = inference.enlarge(np.ascontiguousarray(pixels[wider.index]))
    inside = window.scaled(inference.scale).within(wider.scaled(inference.scale))
    return data_uri(to_unit_range(enlarged[inside]).numpy())
