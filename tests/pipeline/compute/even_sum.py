"""A network for tests of what is read around a tile: whatever it lacks shows."""

from __future__ import annotations

from functools import cache

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pipeline.compute.inference import Inference

SCALE = 2


class EvenSum(nn.Module):
    """Return for each pixel the sum of all within `reach_px`, each with the same weight.

    A trained network hardly looks at what is far away, and often not in the last bit. Sums of small
    whole numbers are exact in fp32, in any order, and a positive number that is missing shows.
    """

    def __init__(self, reach_px: int) -> None:
        super().__init__()
        side = 2 * reach_px + 1
        self.down = nn.Conv2d(3, 3, (side, 1), padding=(reach_px, 0), groups=3, bias=False)
        self.across = nn.Conv2d(3, 3, (1, side), padding=(0, reach_px), groups=3, bias=False)
        for convolution in (self.down, self.across):
            nn.init.ones_(convolution.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, 3, h, w)`` to ``(n, 3, SCALE * h, SCALE * w)``."""
        return interpolate(self.across(self.down(x)), scale_factor=float(SCALE))


@cache
def summing(backend: str, *, reach_px: int) -> Inference:
    """Return the network, ready to run: OpenVINO converts it once for all examples of a test."""
    return Inference.of(
        EvenSum(reach_px), scale=SCALE, channels=3, precision="fp32", backend=backend
    )


def whole_numbers(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return pixels from 1 to 255, as floats."""
    rng = np.random.default_rng(sum(shape))
    return rng.integers(1, 256, shape).astype(np.float32)
