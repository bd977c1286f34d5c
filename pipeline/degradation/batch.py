"""The degradations on a GPU, fresh for every step of training.

Steps, presets and what each patch draws are those of `pipeline.degradation.apply`; what differs is
that all patches of a batch are computed together, in float32, with noise from the device's
generator and JPEG simulated there. Results are the same in distribution, and equal to within a
level where nothing is drawn on the device; the last bit may depend on the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.degradation.apply import check_patches
from pipeline.degradation.batch_patches import Patches
from pipeline.degradation.chain import check_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pipeline.degradation.chain import Degradation


def degrade_batch(
    hr: Tensor, seeds: Sequence[int], degradation: Degradation, *, scale: int
) -> Tensor:
    """Return LR ``(n, c, h / scale, w / scale)`` of HR ``(n, c, h, w)``, floats in 0..1.

    All is computed on the device of `hr`, in float32 even under autocast, but for WebP, which goes
    through the codec on the CPU. The result has the dtype of `hr`, and levels of 8 bits, as LR
    from a file would. Each patch draws from its own seed; the noise of a batch is decided by all
    its seeds together. No gradient flows back.

    Raises:
        PictureError: if the patches are not ``(n, 1 or 3, h, w)``, or the scale does not divide
            their sides.
        RecipeError: for seeds that do not fit, or a degradation that is not for this scale.
    """
    check_patches(hr.shape, scale=scale)
    check_seeds(seeds, count=len(hr))
    degradation.check_scale(scale)
    n, _, rows, cols = hr.shape
    target = (rows // scale, cols // scale)
    drawn = degradation.draw(degradation.generators(seeds))
    generator = _generator(seeds, degradation.name, hr.device)
    with torch.no_grad(), torch.autocast(hr.device.type, enabled=False):
        patches = Patches(hr.float() * 255, [(rows, cols)] * n)
        for one in drawn:
            hit = np.flatnonzero(one.hit).tolist()
            if hit:
                values = {name: value[one.hit] for name, value in one.values.items()}
                after = one.step.apply_batch(
                    patches.of(hit), values, generator=generator, target=target
                )
                patches = patches.with_others(hit, after)
        lr = patches.levels[..., : target[0], : target[1]]
        return (torch.floor(lr.clamp(0, 255) + 0.5) / 255).to(hr.dtype)


def _generator(seeds: Sequence[int], name: str, device: torch.device) -> torch.Generator:
    """Return a generator of the device that depends on the seeds, in their order, and the name."""
    sequence = np.random.SeedSequence([int(s) for s in seeds], spawn_key=tuple(name.encode()))
    state = int(sequence.generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(state >> 1)
