"""What a training reads patches through: batches in an order that a seed fixes.

The law: batch k is a function of the dataset, the `BatchSpec` and k. Worker processes, memory and
resuming decide where and when it is made, never what is in it. So nothing here draws from a
generator that has a state: every number is looked up by seed, epoch and patch, in a stream of
SplitMix64.

Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from pipeline.config import nearest
from pipeline.errors import DatasetError, UpresError, UsageError, WorkerError
from pipeline.storage.dataset import HR, LR_PREFIX, SPLITS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.storage.dataset import Dataset

    Pixels = NDArray[np.uint8]
    Numbers = NDArray[np.int64]

_Group = list[list[int]]
"""The indices of several batches, which are read at once."""

MEMORIES = ("auto", "disk", "ram", "gpu")
"""Where the patches lie while they are read: `auto` is the fastest of the others that they fit."""

_CHUNKS, _PATCHES, _TURNS, _SEEDS = range(4)
"""What a number is drawn for, so that no two draws are of one stream."""

_FETCH_BYTES, _FETCH_PATCHES = 2**23, 1024
"""What one read carries at most, if it is more than a batch: a read of several batches takes less
time for each, as the index of each file that it touches is read but once."""

_AHEAD = 2
"""How many reads each worker process is given ahead."""

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")

_GPU_SHARE, _RAM_SHARE = 2, 4
"""A split is kept in memory where it takes a half of the free GPU's, or a quarter of all RAM."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """What decides the batches of a dataset."""

    batch_size: int
    """Patches of a batch, in each of the processes that share a training."""
    seed: int
    split: str = "train"
    lr: tuple[str, ...] | None = None
    """Degradations whose LR versions are read, each example's drawn anew in each epoch; None are
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
        """Return the chunk of the dataset that each patch lies in ``(n,)``."""
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
            bits[at] = _looked_up(self.rows[places[at]], *key, _TURNS)
            seeds[at] = _looked_up(self.patch_seeds[places[at]], *key, _SEEDS)
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
        """Read arrays ``(k, n, c, y, x)`` of the split; only a chunk lies in memory twice."""
        dataset, rows = self._patches.dataset, self._patches.rows
        shape = (max(1, len(names)), len(rows), *shape)
        kept = torch.empty(shape, dtype=torch.uint8, device=self.device)
        for number, name in enumerate(names):
            for start in range(0, len(rows), dataset.spec.chunk_patches):
                part = slice(start, start + dataset.spec.chunk_patches)
                kept[number, part] = torch.from_numpy(dataset.read(name, rows[part]))
        return kept


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
        """Take the chunk that each patch lies in.

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
                "batch; make batch_size smaller"
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
        ranks = np.argsort(np.argsort(_looked_up(self._chunks, *key, _CHUNKS)))
        # Windows of equal size: a last one of a single chunk would mix nothing.
        windows = ranks * -(-many // self._spec.window_chunks) // many
        within = _looked_up(np.arange(len(self._chunk_of)), *key, _PATCHES)
        return np.lexsort((within, windows[self._chunk_of])).astype(np.int64)

    @property
    def batch_size(self) -> int:
        """Return the patches of a batch in this process; the last of an epoch may hold fewer."""
        return self._spec.batch_size

    @property
    def _step_patches(self) -> int:
        return self._spec.batch_size * self._world_size


class Batches:
    """The batches from `first` on, and to before `stop` where there is one.

    Its state is where it stands, so that a training which stores it with the weights goes on with
    the very next batch. Closed, or left as a context, it leaves no process and no thread.
    """

    def __init__(
        self,
        source: PatchDataset | ResidentPatches,
        sampler: ShardSampler,
        *,
        first: int = 0,
        stop: int | None = None,
        fetched: int = 1,
        workers: int = 0,
        pinned: bool = False,
    ) -> None:
        """Read nothing yet; `fetched` batches are read at once, by each of `workers` processes."""
        self.source, self.sampler = source, sampler
        self._next, self._stop = first, stop
        self._fetched, self._workers, self._pinned = fetched, workers, pinned
        self._stream: Generator[Batch, None, None] | None = None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
            DatasetError: if a patch of it cannot be read.
            WorkerError: if a worker process died.
        """
        if self._stream is None:
            self._stream = self._read()
        try:
            batch = next(self._stream)
        except UpresError:
            # The next call must not take the ended stream for the end of the batches.
            self.close()
            raise
        self._next += 1
        return batch

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; a `next` after it would start them again where it stood."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def state_dict(self) -> dict[str, int]:
        """Return where the next batch stands: numbers that JSON carries."""
        epoch, step = divmod(self._next, len(self.sampler))
        return {"epoch": epoch, "step": step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to where `state_dict` was taken, of the same dataset and `BatchSpec`."""
        self.close()
        self._next = state["epoch"] * len(self.sampler) + state["step"]

    def _read(self) -> Generator[Batch, None, None]:
        more = None if self._stop is None else max(0, self._stop - self._next)
        indices = islice(self.sampler.batches(self._next), more)
        if isinstance(self.source, PatchDataset):
            most = self._fetched * self.sampler.batch_size
            groups = _grouped(indices, self._fetched)
            batches = _from_disk(self.source, groups, workers=self._workers, most=most)
        else:
            batches = map(self.source.read_batch, indices)
        for batch in batches:
            yield Batch(*(t.pin_memory() for t in batch)) if self._pinned else batch


def load_batches(
    dataset: Dataset,
    spec: BatchSpec,
    *,
    first: int = 0,
    stop: int | None = None,
    workers: int = 0,
    memory: str = "auto",
    device: str = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> Batches:
    """Return the batches from `first` on, without end or to before `stop`.

    `memory` is one of `MEMORIES`; `workers` are processes that read from disk, and 0 is this one.
    They are spawned: a script that asks for them needs its ``if __name__ == "__main__"``. With
    "gpu" batches lie on `device`; else they are on the CPU, and pinned where `device` is CUDA,
    so that ``batch.hr.to(device, non_blocking=True)`` is right in every case.

    Raises:
        DatasetError: if the split is empty or a shard is missing, or an LR version is unknown.
        UsageError: if an option contradicts another, or a batch is larger than the split.
    """
    patches = PatchDataset(dataset, spec)
    sampler = ShardSampler(patches.chunks, spec, rank=rank, world_size=world_size)
    kept_in = _memory(memory, patches.nbytes, device)
    fetch_patches = min(_FETCH_BYTES * len(patches) // patches.nbytes, _FETCH_PATCHES)
    on_disk = kept_in == "disk"
    return Batches(
        patches if on_disk else ResidentPatches(patches, device if kept_in == "gpu" else "cpu"),
        sampler,
        first=first,
        stop=stop,
        fetched=max(1, fetch_patches // spec.batch_size) if on_disk else 1,
        workers=workers if on_disk else 0,
        pinned=kept_in != "gpu" and torch.device(device).type == "cuda",
    )


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


def _grouped(batches: Iterator[list[int]], size: int) -> Iterator[_Group]:
    while group := list(islice(batches, size)):
        yield group


class _Slots(TorchDataset["str | None"]):
    """Memory that is read into, by workers or this process, and that batches are copied from.

    A page of memory that is new costs more than the pixels on it; so the same slots serve for all
    fetches. At an index, which is a slot's number and a group of batches, stands the reason why
    the group could not be read, as torch would wrap an exception in its traceback.
    """

    def __init__(self, patches: PatchDataset, memory: Batch) -> None:
        self._patches = patches
        self._memory = memory

    def batches(self, number: int, group: _Group) -> Iterator[Batch]:
        """Yield copies of the batches in a slot."""
        stop = 0
        for batch in group:
            start, stop = stop, stop + len(batch)
            # By numpy: torch's threads would wait for the workers' processor.
            parts = (tensor[number, start:stop].numpy().copy() for tensor in self._memory)
            yield Batch(*map(torch.from_numpy, parts))

    def __getitem__(self, index: tuple[int, _Group]) -> str | None:
        number, group = index
        indices = [n for batch in group for n in batch]
        slot = Batch(*(tensor[number, : len(indices)] for tensor in self._memory))
        try:
            self._patches.read_into(slot, indices)
        except DatasetError as error:
            return str(error)
        return None


def _from_disk(
    patches: PatchDataset, groups: Iterator[_Group], *, workers: int, most: int
) -> Iterator[Batch]:
    """Read groups of `most` examples or fewer, in this process or in so many others, in order."""
    # One more than torch hands out ahead: it hands out the next before it returns the first.
    many = workers * _AHEAD + 1
    memory = patches.empty(many, most)
    slots = _Slots(patches, _shared(memory) if workers else memory)
    under_way: deque[tuple[int, _Group]] = deque()

    def handed_out() -> Iterator[tuple[int, _Group]]:
        for number, group in enumerate(groups):
            under_way.append((number % many, group))
            yield under_way[-1]

    loader: DataLoader[str | None] = DataLoader(
        slots,
        batch_size=None,
        sampler=handed_out(),
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        worker_init_fn=_end_at_once,
        # A process in which tensorstore has run cannot be forked: its threads stay behind.
        multiprocessing_context="spawn" if workers else None,
        # Its own: torch would draw from the generator that the training draws from.
        generator=torch.Generator(),
    )
    try:
        for failure in loader:
            if failure is not None:
                raise DatasetError(failure)
            yield from slots.batches(*under_way.popleft())
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerError(
            f"a process that reads patches died ({error}); give it more memory, or use fewer "
            "workers"
        ) from error


def _shared(memory: Batch) -> Batch:
    """Move memory to where worker processes see it too."""
    try:
        return Batch(*(tensor.share_memory_() for tensor in memory))
    except RuntimeError as error:
        raise UsageError(
            f"worker processes need {sum(t.nbytes for t in memory) >> 20} MiB of shared memory "
            f"({error}); use fewer workers, or give the container more (docker run --shm-size)"
        ) from error


def _as_it_is(fetch: Any) -> Any:
    return fetch


def _end_at_once(_worker: int) -> None:
    """Let a worker process end without taking Python down around threads that still run.

    Met with Python 3.11 and torch 2.13: a thread that waits for the interpreter then is unwound
    through C++, which aborts the process, and torch prints a traceback in the main one.
    """
    atexit.register(os._exit, 0)


def _memory(wanted: str, nbytes: int, device: str) -> str:
    """Return which of disk, ram and gpu patches are read from."""
    if wanted not in MEMORIES:
        raise UsageError(f"memory is {wanted!r}; {nearest(wanted, MEMORIES)}")
    on_gpu = torch.device(device).type == "cuda"
    if wanted == "gpu" and not on_gpu:
        raise UsageError(f"memory is 'gpu' and device {device!r}, expected cuda; use memory 'ram'")
    if wanted != "auto":
        return wanted
    if on_gpu and nbytes * _GPU_SHARE <= torch.cuda.mem_get_info(device)[0]:
        return "gpu"
    return "ram" if nbytes * _RAM_SHARE <= _ram_bytes() else "disk"


def _ram_bytes() -> int:
    """Return the memory of this machine, or of the container that this is."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CONTAINER_LIMIT.read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


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


def _looked_up(values: Numbers, seed: int, epoch: int, purpose: int) -> NDArray[np.uint64]:
    """Return what stands at `values` (n,) in the SplitMix64 stream of the three numbers.

    64 bits each; no two of one stream are equal.
    """
    start = np.random.SeedSequence((seed, epoch, purpose)).generate_state(1, np.uint64)
    mixed: NDArray[np.uint64] = start + values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
