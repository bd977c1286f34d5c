"""The patches of one split as examples: read from disk, or kept in memory.

What an example is, and how it is turned, depends on the dataset, the `BatchSpec` and its index
alone: never on who reads it, or when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from pipeline.dataset.patch_order import SEEDS, TURNS, looked_up
from pipeline.errors import DatasetError
from pipeline.storage.dataset import HR, LR_PREFIX
from pipeline.storage.manifest import SPLITS
from pipeline.tables import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.dataset.patch_order import BatchSpec
    from pipeline.storage.dataset import Dataset

    Pixels = NDArray[np.uint8]
    Numbers = NDArray[np.int64]


_AHEAD = 4
"""How many chunks are fetched at once from a bucket, where all of them are read."""


class Pair(NamedTuple):
    """One example: uint8 ``(c, y, x)``, and what a degradation of `hr` draws from."""

    lr: Tensor
    hr: Tensor
    seed: int


class Batch(NamedTuple):
    """`Pair`s along a first axis: uint8 ``(b, c, y, x)``; `seeds` are int64 ``(b,)``, 0 or more."""

    lr: Tensor
    hr: Tensor
    seeds: Tensor


@dataclass(frozen=True, slots=True)
class _Draws:
    """What is to be read for some indices, an entry each."""

    places: Numbers
    """Of the patches in their split."""
    versions: Numbers
    """Which LR, of those that are read."""
    turns: Numbers
    """Sums of 1 (columns mirrored), 2 (rows mirrored) and 4 (transposed, first of all)."""
    seeds: Numbers


class PatchDataset(TorchDataset[Pair]):
    """The patches of one split, on disk.

    Index i is patch ``i % len`` in epoch ``i // len``, as turn and LR version of a patch differ
    from epoch to epoch. What is at an index depends on the spec's seed and the index alone.
    """

    def __init__(self, dataset: Dataset, spec: BatchSpec) -> None:
        """Look up the rows of the split.

        Raises:
            DatasetError: if it holds none, or lacks a shard, or an LR version is unknown.
        """
        self.dataset = dataset
        self.spec = spec
        self.rows = _rows_of(dataset, spec.split)
        self.patch_seeds = _patch_seeds(dataset, self.rows)
        self.versions = dataset.spec.degradations if spec.lr is None else spec.lr
        if isinstance(self.versions, str):
            raise DatasetError(f"lr is {spec.lr!r}, expected a tuple of names, as ({spec.lr!r},)")
        for name in self.versions:
            if name not in dataset.spec.degradations:
                raise DatasetError(
                    f"{dataset.path} has no LR version {name!r}; "
                    f"{nearest(name, dataset.spec.degradations)}"
                )
        rows, cols = dataset.spec.hr_px
        self._turns = (7 if rows == cols else 3) if spec.augment else 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Pair]:
        """Return the examples at `indices`; torch calls this with those of a batch."""
        batch = self.read_batch(indices)
        seeds = batch.seeds.tolist()
        return [Pair(*pair) for pair in zip(batch.lr, batch.hr, seeds, strict=True)]

    def __iter__(self) -> Iterator[Pair]:
        """Yield the examples of epoch 0; without it Python would count on for ever."""
        return map(self.__getitem__, range(len(self)))

    @property
    def nbytes(self) -> int:
        """Return how many bytes all its pixels take."""
        spec = self.dataset.spec
        sides = [spec.hr_px, *[spec.lr_px] * len(self.versions)]
        return len(self) * spec.channels * sum(rows * cols for rows, cols in sides)

    @property
    def chunks(self) -> Numbers:
        """Return the chunk of the dataset that each patch is in ``(n,)``."""
        return self.rows // self.dataset.spec.chunk_patches

    def empty(self, *sizes: int) -> Batch:
        """Return a batch of `sizes` examples whose pixels are anything."""
        return Batch(
            torch.empty((*sizes, *self.lr_shape), dtype=torch.uint8),
            torch.empty((*sizes, *self.hr_shape), dtype=torch.uint8),
            torch.empty(sizes, dtype=torch.int64),
        )

    def read_batch(self, indices: Sequence[int]) -> Batch:
        """Return the examples at `indices`, in their order.

        Raises:
            DatasetError: if one cannot be read.
        """
        batch = self.empty(len(indices))
        self.read_into(batch, indices)
        return batch

    def read_into(self, batch: Batch, indices: Sequence[int]) -> None:
        """Put the examples at `indices` into a batch of as many, by one read of each array."""
        draws = self.draws(indices)
        rows = self.rows[draws.places]
        arrays = [(HR, batch.hr, np.arange(len(rows)))]
        for number, name in enumerate(self.versions):
            at = np.flatnonzero(draws.versions == number)
            arrays.append((LR_PREFIX + name, batch.lr, at))
        for name, out, at in arrays:
            if at.size:
                _turn_into(out.numpy(), at, self.dataset.read(name, rows[at]), draws.turns[at])
        batch.seeds.copy_(torch.from_numpy(draws.seeds))

    def fetch_ahead(self, indices: Sequence[int]) -> None:
        """Begin to fetch from a bucket what the examples at `indices` are in."""
        _, places = np.divmod(np.asarray(indices, dtype=np.int64), len(self))
        names = [HR, *(LR_PREFIX + name for name in self.versions)]
        self.dataset.fetch_ahead(names, self.rows[places])

    def draws(self, indices: Sequence[int]) -> _Draws:
        """Return what chance decides about the examples at `indices`."""
        epochs, places = np.divmod(np.asarray(indices, dtype=np.int64), len(self))
        if places.size and epochs.min() < 0:
            raise IndexError(f"index is {min(indices)}, expected 0 or more")
        bits = np.empty(len(places), dtype=np.uint64)
        seeds = np.empty_like(bits)
        for epoch in np.unique(epochs).tolist():
            at = epochs == epoch
            key = (self.spec.seed, epoch)
            bits[at] = looked_up(self.rows[places[at]], *key, TURNS)
            seeds[at] = looked_up(self.patch_seeds[places[at]], *key, SEEDS)
        return _Draws(
            places,
            versions=((bits >> 32) % max(1, len(self.versions))).astype(np.int64),
            turns=(bits & self._turns).astype(np.int64),
            seeds=(seeds >> 1).astype(np.int64),
        )

    @property
    def hr_shape(self) -> tuple[int, int, int]:
        """Return the shape (c, y, x) of an HR patch."""
        return (self.dataset.spec.channels, *self.dataset.spec.hr_px)

    @property
    def lr_shape(self) -> tuple[int, int, int]:
        """Return the shape (c, y, x) of an LR patch, without pixels where none is read."""
        spec = self.dataset.spec
        return (spec.channels, *(spec.lr_px if self.versions else (0, 0)))


class ResidentPatches:
    """The patches of one split, in the memory of a device: the same batches, without reading."""

    def __init__(self, patches: PatchDataset, device: str | torch.device = "cpu") -> None:
        """Read all patches once.

        Raises:
            DatasetError: if one cannot be read.
        """
        self.device = torch.device(device)
        self._patches = patches
        self._hr = self._kept([HR], patches.hr_shape)
        self._lr = self._kept([LR_PREFIX + name for name in patches.versions], patches.lr_shape)

    def read_batch(self, indices: Sequence[int]) -> Batch:
        """Return the examples at `indices`, on the device."""
        draws = self._patches.draws(indices)
        gather = _gathered if self.device.type == "cpu" else _gathered_on_device
        hr = gather(self._hr, np.zeros_like(draws.versions), draws)
        lr = gather(self._lr, draws.versions, draws)
        return Batch(lr, hr, torch.from_numpy(draws.seeds).to(self.device))

    def _kept(self, names: Sequence[str], shape: tuple[int, ...]) -> Tensor:
        """Read arrays ``(k, n, c, y, x)`` of the split; only a chunk is in memory twice."""
        dataset, rows = self._patches.dataset, self._patches.rows
        shape = (max(1, len(names)), len(rows), *shape)
        kept = torch.empty(shape, dtype=torch.uint8, device=self.device)
        many = dataset.spec.chunk_patches
        for number, name in enumerate(names):
            for start in range(0, len(rows), many):
                part = slice(start, start + many)
                dataset.fetch_ahead([name], rows[start : start + _AHEAD * many])
                kept[number, part] = torch.from_numpy(dataset.read(name, rows[part]))
        return kept


def turned(patches: Tensor, turns: Tensor) -> Tensor:
    """Return patches ``(b, c, y, x)`` turned, on their device, without a loop over them.

    `turns` (b,) are sums of 1 (columns mirrored), 2 (rows mirrored) and 4 (transposed, before
    both). Rectangles must not be transposed.
    """
    wide = turns[:, None, None, None]
    if patches.shape[2] == patches.shape[3]:
        patches = torch.where((wide & 4) > 0, patches.mT, patches)
    patches = torch.where((wide & 2) > 0, patches.flip(2), patches)
    return torch.where((wide & 1) > 0, patches.flip(3), patches)


def _rows_of(dataset: Dataset, split: str) -> Numbers:
    if split not in SPLITS:
        raise DatasetError(f"a dataset has no split {split!r}; {nearest(split, SPLITS)}")
    rows = dataset.rows(split)
    if not len(rows):
        raise DatasetError(
            f"{dataset.path} holds no patch of the split {split!r}, expected at least 1; prepare "
            "it with a share for that split, or name another one"
        )
    return rows


def _patch_seeds(dataset: Dataset, rows: Numbers) -> Numbers:
    """Return the seed that the manifests give each patch ``(n,)``."""
    many = dataset.spec.chunk_patches
    chunks, starts = np.unique(rows // many, return_index=True)
    seeds = np.empty_like(rows)
    parts = np.split(np.arange(len(rows)), starts[1:])
    for chunk, part in zip(chunks.tolist(), parts, strict=True):
        manifest = dataset.manifest(chunk)
        by_place = dict(zip(manifest.places.tolist(), manifest.seeds.tolist(), strict=True))
        try:
            seeds[part] = [by_place[place] for place in (rows[part] - chunk * many).tolist()]
        except KeyError as error:
            raise DatasetError(
                f"{dataset.path} has a patch in row {chunk * many + error.args[0]} that no "
                "manifest lists; run `upres prepare` again"
            ) from error
    return seeds


def _turn_into(out: Pixels, at: Numbers, patches: Iterable[Pixels], turns: Numbers) -> None:
    """Put `patches`, turned, at places of `out`; on a CPU this copies once, `turned` five times."""
    for place, patch, turn in zip(at.tolist(), patches, turns.tolist(), strict=True):
        if turn & 4:
            patch = patch.swapaxes(1, 2)
        if turn & 2:
            patch = patch[:, ::-1]
        if turn & 1:
            patch = patch[:, :, ::-1]
        out[place] = patch


def _gathered(kept: Tensor, versions: Numbers, draws: _Draws) -> Tensor:
    pixels = kept.numpy()
    found = np.empty((len(versions), *kept.shape[2:]), dtype=np.uint8)
    patches = (pixels[at] for at in zip(versions.tolist(), draws.places.tolist(), strict=True))
    _turn_into(found, np.arange(len(found)), patches, draws.turns)
    return torch.from_numpy(found)


def _gathered_on_device(kept: Tensor, versions: Numbers, draws: _Draws) -> Tensor:
    at = [torch.from_numpy(n).to(kept.device) for n in (versions, draws.places, draws.turns)]
    return turned(kept[at[0], at[1]], at[2])
