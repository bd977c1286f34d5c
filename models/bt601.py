"""Luma of ITU-R BT.601 in numbers: how much red, green and blue weigh in it."""

from __future__ import annotations

LUMA_PER_MILLE = (299, 587, 114)
_RED, _GREEN, _BLUE = LUMA_PER_MILLE

LUMA = (_RED / 1000, _GREEN / 1000, _BLUE / 1000)
"""Parts of one: grey keeps its level, as in a JPEG."""

_STUDIO_LEVELS = 219
STUDIO_LUMA = tuple(weight * _STUDIO_LEVELS / 1000 for weight in LUMA_PER_MILLE)
"""Levels of 255, which begin at `STUDIO_BLACK`: as published scores are measured."""
STUDIO_BLACK = 16
