"""The pairs of LR and HR that a training steps over, on its device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.dataset.loader import load_batches
from pipeline.dataset.patch_order import BatchSpec
from pipeline.degradation.batch import degrade_batch

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.dataset.loader import Batches
    from pipeline.degradation.chain import Degradation
    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.dataset import Dataset
    from pipeline.training.processes import Processes


@dataclass(slots=True)
class Pairs:
    """Batches of LR and HR in 0..1, in the recipe's order; LR is degraded here where it is fresh.

    A context, as `Batches` is. `waited_s` are the seconds that `next_pair` waited for patches.
    """

    batches: Batches
    chains: tuple[Degradation, ...]
    """Degradations that make LR in every step; none where the batches bring it."""
    scale: int
    device: torch.device
    waited_s: float = 0.0

    @classmethod
    def open(
        cls,
        dataset: Dataset,
        recipe: TrainRecipe,
        *,
        processes: Processes,
        first_step: int,
        workers: int,
        memory: str,
    ) -> Pairs:
        """Return the pairs from a step on, to the end of the recipe."""
        chains, versions = recipe.fresh_chains, tuple(recipe.lr_versions) or None
        batches = load_batches(
            dataset,
            BatchSpec(
                batch_size=recipe.batch,
                seed=recipe.seed,
                lr=() if chains else versions,
                window_chunks=recipe.window_chunks,
            ),
            first=first_step * recipe.accumulate,
            stop=recipe.steps * recipe.accumulate,
            workers=workers,
            memory=memory,
            device=str(processes.device),
            rank=processes.rank,
            world_size=processes.count,
        )
        return cls(batches, chains, recipe.scale, processes.device)

    def __enter__(self) -> Pairs:
        self.batches.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.batches.close()

    def next_pair(self) -> tuple[Tensor, Tensor]:
        """Return LR and HR of the next batch."""
        before = time.perf_counter()
        batch = next(self.batches)
        self.waited_s += time.perf_counter() - before
        hr = self._unit_range(batch.hr)
        if not self.chains:
            return self._unit_range(batch.lr), hr
        # One chain a step, drawn from what the batch is drawn from.
        chain = self.chains[int(batch.seeds[0]) % len(self.chains)]
        return degrade_batch(hr, batch.seeds.tolist(), chain, scale=self.scale), hr

    def _unit_range(self, pixels: Tensor) -> Tensor:
        moved = pixels.to(self.device, non_blocking=True)
        return moved.to(memory_format=torch.channels_last).float() / 255
