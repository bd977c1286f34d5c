"""Wear: which pictures go to the restoring network, by the traces in them.

At the limits below, both networks are equally good by measurement. Enlarged four times, they are at
quality 96 of a JPEG, and enlarged twice at 92; many a JPEG of a high quality was one of a lower
quality before, without showing it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.pictures.traces import Traces

TRACES_KEY = "traces"
"""Key in the provenance of an LR item; the value is the traces in its file."""

_LEAST_QUALITY = {"JPEG": 95, "WebP": 86}
_LEAST_NOISE, _MOST_NOISE = 2.2, 40.0
"""Levels of 255 that count as noise. Less is film grain, more is a pattern such as a halftone."""


def verdict(seen: Traces) -> tuple[bool, str]:
    """Return whether a picture with these traces goes to the restoring network, and why."""
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
