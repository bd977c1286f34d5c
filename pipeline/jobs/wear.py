"""Wear: which pictures are for a network that restores, by the traces in them.

The bounds are where the two networks are measured to be equally good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.pictures.traces import Traces

TRACES_KEY = "traces"
"""Under which the provenance of an LR item says what was seen of its file."""

_LEAST_QUALITY = {"JPEG": 94, "WebP": 86}
_LEAST_NOISE, _MOST_NOISE = 4.5, 40.0
"""Levels of 255 that are noise: what varies by less is grain, by more a pattern, as a halftone."""


def verdict(seen: Traces) -> tuple[bool, str]:
    """Return whether a picture with these traces is for a network that restores, and why."""
    noisy = _LEAST_NOISE < seen.noise < _MOST_NOISE
    if seen.codec:
        least = _LEAST_QUALITY.get(seen.codec)
        worn = least is None or seen.quality is None or seen.quality < least
        if worn or not noisy:
            return worn, _in_words(seen)
    if noisy:
        return True, f"noise of {seen.noise:.1f} levels"
    return False, "no traces of lossy compression"


def _in_words(seen: Traces) -> str:
    """Return a picture's compression as ``JPEG of quality 75, 4:2:0``."""
    quality = "" if seen.quality is None else f" of quality {seen.quality}"
    if seen.once:
        return f"was once a {seen.codec}{quality}"
    return f"{seen.codec}{quality}" + (f", {seen.subsampling}" if seen.subsampling else "")
