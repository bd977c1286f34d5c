"""Which models there are: an explicit table of architectures, and where a name leads.

To add a network: write its file, add its builder to `BUILDERS`, ship its weights (safetensors
with a `ModelSpec`) in `weights/`. A model without weights is one entry of `BASELINES`.
"""

from __future__ import annotations

import inspect
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from models.dcgan import DcganDiscriminator, DcganGenerator
from models.interpolation import KernelInterpolation, Nearest, NeighbourAverage
from models.span import Span
from models.spec import ModelSpec
from models.srcnn import Srcnn
from models.srgan import SrganDiscriminator, SRResNet
from models.swishgan import ColourDiscriminator, GreyDiscriminator, SwishGenerator
from models.unet import UNetDiscriminator
from models.vdsr import Vdsr

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "span": Span,
    "srresnet": SRResNet,
    "dcgan": DcganGenerator,
    "swishgan-grey": partial(SwishGenerator, blocks=16),
    "swishgan-colour": partial(SwishGenerator, blocks=18),
    "srcnn": Srcnn,
    "vdsr": Vdsr,
    "nearest": Nearest,
    "bicubic": partial(KernelInterpolation, method="bicubic"),
    "lanczos": partial(KernelInterpolation, method="lanczos"),
    "neighbour-average": NeighbourAverage,
}
"""Architecture name to ``builder(scale=..., channels=..., **arguments)``."""

DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "srgan": SrganDiscriminator,
    "dcgan": DcganDiscriminator,
    "swishgan-grey": GreyDiscriminator,
    "swishgan-colour": ColourDiscriminator,
    "unet": UNetDiscriminator,
}
"""Name to ``builder(channels=..., patch_px=..., **arguments)`` of a network that judges pictures.

It maps HR or SR ``(n, channels, h, w)`` in 0..1 to logits, one a picture (``unet``: one a pixel).
Those with dense layers take patches of `patch_px` alone, the others any size.
"""

BASELINES: dict[str, str] = {
    "nearest": "every pixel becomes a square of equal pixels",
    "bicubic": "Keys' cubic convolution, a = -0.5, as MATLAB's imresize",
    "lanczos": "windowed sinc of width 3",
    "neighbour-average": "doubling by inserting the mean of the neighbours, repeated",
}

BASELINE_SCALES: tuple[int, ...] = (4, 2, 3)
"""Scales that `upres models` lists for a baseline, the default first."""

WEIGHTS_DIR = Path(__file__).parent / "weights"


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
    if name == "neighbour-average" and scale & (scale - 1):
        raise ValueError(f"scale is {scale}, expected 2 or 4: {name} only doubles")
    return ModelSpec(
        name=f"{name}-x{scale}",
        architecture=name,
        scale=scale,
        channels=3,
        summary=BASELINES[name],
    )


def is_interpolation(name: str) -> bool:
    """Return whether `name` is one of the baselines, which learned nothing and invent nothing."""
    return re.sub(r"-x[0-9]+$", "", name) in BASELINES


def shipped() -> dict[str, Path]:
    """Return name -> checkpoint of every model whose weights come with upres."""
    return {p.stem: p for p in sorted(WEIGHTS_DIR.glob("*.safetensors"))}


def baselines() -> list[str]:
    """Return the names of the baselines, at the scales that are listed."""
    return [
        f"{name}-x{scale}"
        for name in BASELINES
        for scale in sorted(BASELINE_SCALES)
        if not (name == "neighbour-average" and scale == 3)
    ]


def names() -> list[str]:
    """Return every name that `checkpoint.load` knows: shipped models first, then the baselines."""
    return [*shipped(), *baselines()]
