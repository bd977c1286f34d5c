"""In which order patches are trained on: a function of seed and epoch alone.

So nothing here draws from a generator that has a state: every number is looked up by seed, epoch
and patch, in a stream of SplitMix64.

Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

from pipeline.errors import UsageError
from pipeline.storage.manifest import GOLDEN, scrambled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

CHUNKS, PATCHES, TURNS, SEEDS = range(4)
"""What a number is drawn for, so that no two draws are of one stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """What decides the batches of a dataset."""

    batch_size: int
    """Patches of a batch, in each of the processes that share a training."""
    seed: int
    split: str = "train"
    lr: tuple[str, ...] | None = None
    """Degradations whose LR versions are read, each example's drawn again in each epoch; None are
    all of them, and () is none: then `Batch.lr` is ``(b, c, 0, 0)``."""
    augment: bool = True
    """Whether patches are turned: a square's eight symmetries, or a rectangle's four."""
    window_chunks: int = 16
    """How many chunks patches are mixed among. Few are few files at a time, so that a dataset
    larger than memory is read nearly in order; but in an epoch a patch meets those of its window
    only. As many as the dataset has are a full shuffle, for one that the page cache holds."""
    drop_last: bool = True
    """Whether an epoch leaves out the patches that do not fill a batch, other ones each time."""

    def __post_init__(self) -> None:
        if min(self.batch_size, self.window_chunks) < 1 or self.seed < 0:
            raise UsageError(
                f"batch_size is {self.batch_size}, window_chunks {self.window_chunks} and seed "
                f"{self.seed}, expected 1, 1 and 0 or more"
            )


class ShardSampler(Sampler[list[int]]):
    """The indices of batch after batch, without end; its length is the batches of an epoch.

    An epoch holds every patch once. Its chunks are permuted and dealt into windows of
    `BatchSpec.window_chunks`, and the patches of a window are permuted: all files of a window are
    done with before those of the next are read. Of `world_size` processes, each yields its part of
    the batches that one alone would yield with ``world_size * batch_size``, in order of rank.
    """

    def __init__(
        self, chunks: Numbers, spec: BatchSpec, *, rank: int = 0, world_size: int = 1
    ) -> None:
        """Take the chunk that each patch is in.

        Raises:
            UsageError: if an epoch would hold no batch, or there is no such rank.
        """
        if not 0 <= rank < world_size:
            raise UsageError(f"rank is {rank} of {world_size}, expected 0 to {world_size - 1}")
        if world_size > 1 and not spec.drop_last:
            raise UsageError(
                f"drop_last is False for {world_size} processes, expected True: a last batch might "
                "not reach all of them"
            )
        self._spec, self._rank, self._world_size = spec, rank, world_size
        self._chunks, self._chunk_of = np.unique(chunks, return_inverse=True)
        if not len(self):
            raise UsageError(
                f"{spec.split} holds {len(chunks)} patches, expected {self._step_patches} for one "
                "batch; make batch smaller"
            )

    def __len__(self) -> int:
        full, rest = divmod(len(self._chunk_of), self._step_patches)
        return full + bool(rest and not self._spec.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        return self.batches(0)

    def batches(self, first: int) -> Iterator[list[int]]:
        """Yield the indices of batch `first` and all that follow it, epoch after epoch."""
        size = self._spec.batch_size
        epoch, step = divmod(first, len(self))
        while True:
            order = self.order(epoch) + epoch * len(self._chunk_of)
            for number in range(step, len(self)):
                start = number * self._step_patches + self._rank * size
                yield order[start : start + size].tolist()
            epoch, step = epoch + 1, 0

    def order(self, epoch: int) -> Numbers:
        """Return the places of all patches in their order: a function of seed and epoch alone."""
        key = (self._spec.seed, epoch)
        many = len(self._chunks)
        ranks = np.argsort(np.argsort(looked_up(self._chunks, *key, CHUNKS)))
        # Windows of equal size: a last one of a single chunk would mix nothing.
        windows = ranks * -(-many // self._spec.window_chunks) // many
        within = looked_up(np.arange(len(self._chunk_of)), *key, PATCHES)
        return np.lexsort((within, windows[self._chunk_of])).astype(np.int64)

    @property
    def batch_size(self) -> int:
        """Return the patches of a batch in this process; the last of an epoch may hold fewer."""
        return self._spec.batch_size

    @property
    def _step_patches(self) -> int:
        return self._spec.batch_size * self._world_size


def looked_up(values: Numbers, seed: int, epoch: int, purpose: int) -> NDArray[np.uint64]:
    """Return what stands at `values` (n,) in the SplitMix64 stream of the three numbers.

    64 bits each; no two of one stream are equal.
    """
    start = np.random.SeedSequence((seed, epoch, purpose)).generate_state(1, np.uint64)
    return scrambled(start + values.astype(np.uint64) * GOLDEN)
