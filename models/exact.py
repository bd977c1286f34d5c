"""What keeps the bits of a pixel from depending on the size of the tile it stands in.

Here belongs what torch's convolutions need for it; `models.span.evenly` is for functions that are
computed element by element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Measured on torch 2.13: a single picture of at most so many values is convolved in fp32 with 3x3
# by another algorithm, which rounds otherwise; a batch of two never is, nor are larger kernels.
_FEW_VALUES = 20_480


def in_pairs(function: Callable[[Tensor], Tensor], x: Tensor, *, channels: int) -> Tensor:
    """Return ``function(x)``, computed for a small single picture as one of two equal ones.

    `channels` is the least number that a convolution of at most 3x3 inside `function` takes; it
    decides what is small. Training does not ask for equal bits, and GPUs know no such size.
    """
    needs_bits = x.device.type == "cpu" and not torch.is_grad_enabled()
    if needs_bits and len(x) == 1 and x.shape[2] * x.shape[3] * channels <= _FEW_VALUES:
        return function(x.repeat(2, 1, 1, 1))[:1]
    return function(x)
