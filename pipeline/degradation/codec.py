"""Patches through a codec's real stream of bits, for the steps that compress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from pipeline.degradation.levels import to_uint8
from pipeline.pictures.codecs.lossy import recompress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pipeline.degradation.batch_patches import Patches
    from pipeline.degradation.levels import Floats, Values

Codec = Literal["jpeg", "webp"]


def whole_qualities(values: Values) -> list[int]:
    """Return the drawn qualities as the whole numbers that codecs take."""
    return [int(quality) for quality in np.floor(values["quality"] + 0.5)]


def recompressed(levels: Floats, values: Values, *, codec: Codec) -> Floats:
    """Return ``(c, h, w)`` as a file of the drawn quality gives it back."""
    (quality,) = whole_qualities(values)
    return recompress(to_uint8(levels), format=codec, quality=quality).astype(np.float64)


def recompressed_batch(patches: Patches, qualities: Sequence[int], *, codec: Codec) -> Tensor:
    """Return the levels of patches as files give them back, one after another on the CPU."""
    whole = torch.floor(patches.levels.clamp(0, 255) + 0.5).to(torch.uint8).cpu().numpy()
    x = patches.levels.clone()
    for place, ((rows, cols), quality) in enumerate(zip(patches.sizes, qualities, strict=True)):
        coded = recompress(whole[place, :, :rows, :cols], format=codec, quality=quality)
        x[place, :, :rows, :cols] = torch.from_numpy(coded.astype(np.float32)).to(x)
    return x
