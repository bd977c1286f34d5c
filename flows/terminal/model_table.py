"""Models as lines for people: a table of all, and a sheet of one."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

from flows.terminal.printing import visible
from pipeline.training.catalogue import NONE_NEEDED, RECIPE, SHIPPED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.training.catalogue import ModelEntry

_HEADER = (
    "name", "weights", "scale", "reach", "params", "licence", "data", "Set14", "LPIPS",
    "what it is",
)  # fmt: skip
_WIDTHS = (21, 9, 6, 6, 10, 11, 16, 7, 7, 27)
"""Characters of each column; what does not fit into the last goes on in its next line."""

_SHORT = {SHIPPED: "shipped", RECIPE: "train it", NONE_NEEDED: "-"}

_LEGEND = """
reach: how far a network looks, in LR px. Set14: PSNR-Y in dB, and LPIPS. train it: no weights are
shipped; `upres models NAME` shows the command that trains them. Weights for faces are never
shipped, because the terms of research pictures of faces do not allow it."""


def model_table(entries: Iterable[ModelEntry]) -> str:
    """Return models as lines, one or more each, under a header and above a legend."""
    return "\n".join([_row(_HEADER), *(_row(_cells(entry)) for entry in entries), _LEGEND])


def model_sheet(entry: ModelEntry) -> str:
    """Return all that is known of one model as lines, without what it does not have."""
    values = entry.to_json()
    return "\n".join(f"{key:14} {_words(v)}" for key, v in values.items() if v not in ("", {}))


def _words(value: Any) -> str:
    """Return a value, or the values of a table, as words."""
    if not isinstance(value, dict):
        return visible(str(value))
    if all(isinstance(v, dict) for v in value.values()):
        return "; ".join(f"{visible(key)}: {_words(v)}" for key, v in value.items())
    return visible(", ".join(f"{key} {v}" for key, v in value.items()))


def _cells(entry: ModelEntry) -> tuple[str, ...]:
    spec = entry.spec
    scores = spec.scores.get("Set14", {})
    return (
        spec.name,
        _SHORT[entry.weights],
        f"x{spec.scale}",
        "all" if entry.reach_px is None else str(entry.reach_px),
        f"{entry.parameters:,}",
        _head(spec.licence),
        _head(spec.training_data),
        _figure(scores.get("psnr_y"), 3),
        _figure(scores.get("lpips"), 4),
        spec.summary,
    )


def _head(text: str) -> str:
    """Return the first words of a text, which name the thing; the rest says more of it."""
    return re.split(r" of yours| \(|[:;,] ", text)[0]


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _row(cells: tuple[str, ...]) -> str:
    first, *more = textwrap.wrap(cells[-1], _WIDTHS[-1]) or [""]
    line = "".join(f"{c + ' ':{w}}" for c, w in zip((*cells[:-1], first), _WIDTHS, strict=True))
    return "\n".join([line.rstrip(), *(" " * sum(_WIDTHS[:-1]) + rest for rest in more)])
