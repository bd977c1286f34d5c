"""The degradations that come with upres, as the tables that a recipe would hold.

Here belong chains of steps and where their numbers come from; what a step means is said in
`pipeline.degradation.steps`. Blurs before the reduction are in HR pixels, the same at every scale.

`bicubic`, `unknown`, `mild`, `difficult` and `wild` are named after the tracks of DIV2K (Timofte
et al., "NTIRE 2018 Challenge on Single Image Super-Resolution", 2018), whose operators were never
published: these are chains of the same kind, not the challenge's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Table = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Steps as a recipe would write them, and what they stand for."""

    summary: str
    steps: tuple[Table, ...]


_REDUCE: Table = {"op": "resize"}
_ANY_KERNEL = ["box", "bilinear", "bicubic"]
_ANY_ANGLE = [-180, 180]


def _choice(*options: tuple[float, list[Table]], chance: float = 1.0) -> Table:
    """Return a step that takes one of ``(weight, steps)``."""
    tables = [{"weight": weight, "steps": steps} for weight, steps in options]
    return {"op": "choice", "chance": chance, "options": tables}


# Real-ESRGAN: Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
# Synthetic Data", 2021, arXiv 2107.10833, section 3 and the options of its x4 training. Ours
# differs in three things: every patch draws alone, where theirs shares resizes and codec order
# within a batch; cubic kernels have a = -0.5; borders are mirrored with their edge. Sharpening
# the HR pictures is not part of it.


def _halves(kind: str, top: float, sigma: Table) -> list[Table]:
    """Return a shaped blur whose exponent is as often below one as above."""
    below = 0.5 if kind == "generalized" else 1.0
    blur = {"op": "blur", "kind": kind, "size": [7, 21], **sigma}
    return [
        _choice((1, [{**blur, "beta": [below, 1]}]), (1, [{**blur, "beta": [1, top]}])),
    ]


def _real_blur(top: float, chance: float) -> Table:
    """Return the paper's blur with sigmas up to `top`: six shapes, and a sinc in one of ten.

    A small sinc has a higher cutoff: of the eight sizes 7 to 21, three are below 13.
    """
    round_: Table = {"sigma": [0.2, top]}
    oval: Table = {**round_, "sigma_y": [0.2, top], "angle": _ANY_ANGLE}
    gaussian = {"op": "blur", "size": [7, 21]}
    return _choice(
        (0.1 * 3 / 8, [{"op": "sinc", "cutoff": [1 / 3, 1], "size": [7, 11]}]),
        (0.1 * 5 / 8, [{"op": "sinc", "cutoff": [1 / 5, 1], "size": [13, 21]}]),
        (0.9 * 0.45, [{**gaussian, **round_}]),
        (0.9 * 0.25, [{**gaussian, **oval}]),
        (0.9 * 0.12, _halves("generalized", 4, round_)),
        (0.9 * 0.03, _halves("generalized", 4, oval)),
        (0.9 * 0.12, _halves("plateau", 2, round_)),
        (0.9 * 0.03, _halves("plateau", 2, oval)),
        chance=chance,
    )


def _real_resize(up: float, down: float, keep: float, *, of: str, range_: list[float]) -> Table:
    resize = {"op": "resize", "of": of, "kernel": _ANY_KERNEL, "antialias": False}
    return _choice(
        (up, [{**resize, "factor": [1, range_[1]]}]),
        (down, [{**resize, "factor": [range_[0], 1]}]),
        (keep, [{**resize, "factor": 1}]),
    )


def _real_noise(sigma: float, scale: float) -> Table:
    return _choice(
        (0.5, [{"op": "noise", "sigma": [1, sigma], "grey": 0.4}]),
        (0.5, [{"op": "poisson", "scale": [0.05, scale], "grey": 0.4}]),
    )


_REAL_JPEG: Table = {"op": "jpeg", "quality": [30, 95]}
_REAL_LAST: list[Table] = [
    {"op": "resize", "kernel": _ANY_KERNEL, "antialias": False},
    {"op": "sinc", "cutoff": [1 / 3, 1], "size": [7, 21], "chance": 0.8},
]

_REAL_ESRGAN: tuple[Table, ...] = (
    _real_blur(3, chance=1),
    _real_resize(0.2, 0.7, 0.1, of="current", range_=[0.15, 1.5]),
    _real_noise(30, 3),
    _REAL_JPEG,
    _real_blur(1.5, chance=0.8),
    _real_resize(0.3, 0.4, 0.3, of="target", range_=[0.3, 1.2]),
    _real_noise(25, 2.5),
    _choice((0.5, [*_REAL_LAST, _REAL_JPEG]), (0.5, [_REAL_JPEG, *_REAL_LAST])),
)


_ARCHIVE: tuple[Table, ...] = (
    {"op": "blur", "sigma": [0.2, 1.5], "chance": 0.8},
    {"op": "resize", "kernel": _ANY_KERNEL},
    {"op": "noise", "sigma": [1, 8], "grey": 0.6, "chance": 0.8},
    {"op": "jpeg", "quality": [60, 95], "chance": 0.8},
    {"op": "blur", "sigma": [0.2, 0.7], "chance": 0.3},
    {"op": "sinc", "cutoff": [0.6, 1], "size": [7, 13], "chance": 0.2},
    {"op": "noise", "sigma": [0.5, 3], "grey": 0.6, "chance": 0.3},
    {"op": "jpeg", "quality": [60, 95], "chance": 0.5},
)


_WILD: tuple[Table, ...] = (
    _choice(
        (2, [{"op": "blur", "sigma": [0.4, 3], "sigma_y": [0.4, 3], "angle": _ANY_ANGLE}]),
        (1, [{"op": "motion", "length": [1, 12], "angle": _ANY_ANGLE}]),
    ),
    {"op": "resize", "kernel": ["box", "bilinear", "bicubic", "lanczos"]},
    _choice(
        (1, [{"op": "poisson", "scale": [0.2, 1.5], "grey": 0.3}]),
        (1, [{"op": "noise", "sigma": [1, 15], "grey": 0.3}]),
    ),
    _choice(
        (2, []),
        (2, [{"op": "jpeg", "quality": [50, 95]}]),
        (1, [{"op": "webp", "quality": [50, 95]}]),
    ),
)


def _stored(codec: str, quality: int, format_name: str) -> Preset:
    """Return the reduction of the benchmarks, stored as a lossy file of one quality."""
    return Preset(
        summary=f"bicubic, then {format_name} of quality {quality}: for measuring",
        steps=(_REDUCE, {"op": codec, "quality": quality}),
    )


PRESETS: dict[str, Preset] = {
    "bicubic": Preset(
        summary="antialiased bicubic reduction, as MATLAB's imresize: the benchmarks' LR",
        steps=(_REDUCE,),
    ),
    "bilinear": Preset(
        summary="antialiased bilinear reduction", steps=({**_REDUCE, "kernel": "bilinear"},)
    ),
    "box": Preset(
        summary="the mean of each square of pixels", steps=({**_REDUCE, "kernel": "box"},)
    ),
    "lanczos": Preset(
        summary="antialiased Lanczos reduction of width 3",
        steps=({**_REDUCE, "kernel": "lanczos"},),
    ),
    "blur": Preset(
        summary="Gaussian blur of sigma 1.6, then bicubic",
        steps=({"op": "blur", "sigma": 1.6}, _REDUCE),
    ),
    "noise": Preset(
        summary="bicubic, then normal colour noise of 0 to 25 levels",
        steps=(_REDUCE, {"op": "noise", "sigma": [0, 25]}),
    ),
    "jpeg": Preset(
        summary="bicubic, then JPEG of quality 30 to 95",
        steps=(_REDUCE, {"op": "jpeg", "quality": [30, 95]}),
    ),
    "unknown": Preset(
        summary="one oval, tilted blur, the same for all, then bicubic",
        steps=({"op": "blur", "sigma": 2.2, "sigma_y": 1.0, "angle": 30}, _REDUCE),
    ),
    "mild": Preset(
        summary="a short motion blur, bicubic, and faint Poisson noise",
        steps=(
            {"op": "motion", "length": [0, 4], "angle": _ANY_ANGLE},
            _REDUCE,
            {"op": "poisson", "scale": 0.4},
        ),
    ),
    "difficult": Preset(
        summary="a longer motion blur after a Gaussian one, bicubic, and strong Poisson noise",
        steps=(
            {"op": "blur", "sigma": 1.2},
            {"op": "motion", "length": [3, 12], "angle": _ANY_ANGLE},
            _REDUCE,
            {"op": "poisson", "scale": 1},
        ),
    ),
    "wild": Preset(
        summary="blur or motion, kernel, noise and compression drawn for each patch",
        steps=_WILD,
    ),
    "real-esrgan": Preset(
        summary="the second-order chain of Real-ESRGAN: unknown real-world damage",
        steps=_REAL_ESRGAN,
    ),
    "archive": Preset(
        summary="scans and early digital pictures: slight blur, grain, JPEG 60 to 95, twice",
        steps=_ARCHIVE,
    ),
    "jpeg-40": _stored("jpeg", 40, "JPEG"),
    "jpeg-75": _stored("jpeg", 75, "JPEG"),
    "jpeg-90": _stored("jpeg", 90, "JPEG"),
    "webp-75": _stored("webp", 75, "WebP"),
}
"""Name to chain; all work at every scale, and at scale 1 the reduction does nothing."""
