"""Curves of trainings: those that look alike are drawn once, which takes half a second each time.

A test that trains validates a few times, and draws its curves after each. What is drawn depends on
which columns have figures, where a stage ends, and whether losses are far apart. For a training
like one before, in all of these, the picture of that one is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def drawn_once() -> Callable[[Sequence[Mapping[str, str]]], bytes]:
    """Return what takes the place of `pipeline.training.records.draw_curves`."""
    # Not above: matplotlib and torch take seconds, for which those who collect tests would wait.
    from pipeline.training.records import _PANELS, _WIDE, _lines, _stage_ends, draw_curves

    drawn: dict[object, bytes] = {}

    def draw(rows: Sequence[Mapping[str, str]]) -> bytes:
        # Every figure is read, as for a drawing.
        panels = [_lines(rows, names) for names in _PANELS.values()]
        losses = [value for points in panels[0].values() for _, value in points]
        wide = bool(losses) and max(losses) > _WIDE * min(losses)
        above = bool(losses) and min(losses) > 0
        alike = (
            tuple(map(tuple, panels)), len(_stage_ends(rows)), len(rows) > 1, wide, above,
        )  # fmt: skip
        if alike not in drawn:
            drawn[alike] = draw_curves(rows)
        return drawn[alike]

    return draw
