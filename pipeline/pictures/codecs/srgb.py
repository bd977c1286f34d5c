"""Colours of an ICC profile as sRGB, by littleCMS."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from numpy.typing import NDArray


_SRGB_LEVELS = 3
"""A profile by which no colour is further off is sRGB, whoever wrote it: nothing is converted."""


def to_srgb(pixels: NDArray[np.uint8], icc: bytes) -> tuple[NDArray[np.uint8], str]:
    """Return grey or RGB ``(c, h, w)`` of a profile's colours as sRGB, and what was done.

    That is "" where the profile is sRGB. Out of gamut colours are clipped (relative colorimetric
    with black point compensation, as littleCMS does it). A profile that is damaged, or of other
    channels than the pixels, changes nothing, and that is what was done.
    """
    image = Image.fromarray(np.moveaxis(pixels, 0, 2) if len(pixels) == 3 else pixels[0])
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = " ".join(ImageCms.getProfileDescription(profile).split())[:80] or "unnamed"
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            image.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = _probe(image.mode)
        apart = np.asarray(ImageCms.applyTransform(probe, transform)).astype(np.int16)
        if np.abs(apart - np.asarray(probe.convert("RGB"))).max() <= _SRGB_LEVELS:
            return pixels, ""
        found = np.moveaxis(np.asarray(ImageCms.applyTransform(image, transform)), 2, 0)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return pixels, "profile cannot be used, taken as sRGB"
    return np.ascontiguousarray(found[: len(pixels)]), f"{name} converted to sRGB"


def _probe(mode: str) -> Image.Image:
    """Return a picture of colours from all over a cube, or of all greys."""
    steps = np.linspace(0, 255, 16 if mode == "L" else 9).round().astype(np.uint8)
    if mode == "L":
        return Image.fromarray(steps[np.newaxis])
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    return Image.fromarray(cube.reshape(len(steps), -1, 3))
