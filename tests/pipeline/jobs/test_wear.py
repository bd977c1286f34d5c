"""Wear: which pictures are for a network that restores, at the bounds where both are as good."""

from __future__ import annotations

import pytest

from pipeline.jobs.wear import verdict
from pipeline.pictures.traces import Traces


@pytest.mark.parametrize(
    ("seen", "worn", "because"),
    [
        (Traces(), False, "no traces of lossy compression"),
        (Traces(codec="JPEG", quality=94, subsampling="4:2:0"), True, "JPEG of quality 94, 4:2:0"),
        (Traces(codec="JPEG", quality=95), False, "JPEG of quality 95"),
        (Traces(codec="JPEG", quality=60, once=True), True, "was once a JPEG of quality 60"),
        (Traces(codec="WebP", quality=85), True, "WebP of quality 85"),
        (Traces(codec="WebP", quality=86), False, "WebP of quality 86"),
        (Traces(codec="WebP"), True, "WebP"),
        (Traces(codec="AVIF"), True, "AVIF"),
        (Traces(noise=2.1), False, "no traces of lossy compression"),
        (Traces(noise=2.3), True, "noise of 2.3 levels"),
        (Traces(noise=6.0), True, "noise of 6.0 levels"),
        (Traces(noise=90.0), False, "no traces of lossy compression"),
        (Traces(codec="JPEG", quality=97, noise=6.0), True, "noise of 6.0 levels"),
    ],
)
def test_a_picture_is_worn_by_coarse_compression_or_noise(
    seen: Traces, worn: bool, because: str
) -> None:
    assert verdict(seen) == (worn, because)
