"""Which models there are: the networks of this folder, and where a name leads.

To add a network: write its file, and mark it by `models.architectures`; ship its weights
(safetensors with a `ModelSpec`) in `weights/`. Nothing here names it.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import models
from models.architectures import BASELINES, BUILDERS, DISCRIMINATORS
from models.shipped import shipped
from models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BASELINES", "BUILDERS", "DISCRIMINATORS", "shipped"]

for _module in iter_modules(models.__path__, prefix=f"{models.__name__}."):
    import_module(_module.name)

BASELINE_SCALES: tuple[int, ...] = (4, 2, 3)
"""Scales that `upres models` lists for a baseline, the default first."""


def build(spec: ModelSpec) -> nn.Module:
    """Return the untrained network that `spec` describes.

    Raises:
        ValueError: if the architecture is unknown or refuses the arguments.
    """
    builder = BUILDERS.get(spec.architecture)
    if builder is None:
        raise ValueError(
            f"architecture is {spec.architecture!r}, expected one of {sorted(BUILDERS)}; "
            "was it written by a newer upres?"
        )
    known = set(inspect.signature(builder).parameters) - {"scale", "channels"}
    if spec.architecture not in BASELINES and spec.arguments.keys() - known:
        raise ValueError(
            f"architecture {spec.architecture} refuses arguments {spec.arguments}: it takes "
            f"{' and '.join(sorted(known))}"
        )
    try:
        return builder(scale=spec.scale, channels=spec.channels, **spec.arguments)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"architecture {spec.architecture} refuses arguments {spec.arguments}: {error}"
        ) from error


def baseline_spec(name: str, scale: int) -> ModelSpec:
    """Return the spec of one interpolation method at `scale`."""
    if BASELINES[name].only_doubles and scale & (scale - 1):
        raise ValueError(f"scale is {scale}, expected 2 or 4: {name} only doubles")
    return ModelSpec(
        name=f"{name}-x{scale}",
        architecture=name,
        scale=scale,
        channels=3,
        summary=BASELINES[name].summary,
    )


def is_interpolation(name: str) -> bool:
    """Return whether `name` is one of the baselines, which learned nothing and invent nothing."""
    return re.sub(r"-x[0-9]+$", "", name) in BASELINES


def baselines() -> list[str]:
    """Return the names of the baselines, at the scales that are listed."""
    return [
        f"{name}-x{scale}"
        for name, method in BASELINES.items()
        for scale in sorted(BASELINE_SCALES)
        if not (method.only_doubles and scale & (scale - 1))
    ]


def names() -> list[str]:
    """Return every name that `checkpoint.load` knows: shipped models first, then the baselines."""
    return [*shipped(), *baselines()]
