"""What a training reads patches through: batches in an order that a seed fixes.

The law: batch k is a function of the dataset, the `BatchSpec` and k. Worker processes, memory and
resuming decide where and when it is made, never what is in it.
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pipeline.constants import MEMORIES
from pipeline.dataset.examples import Batch, PatchDataset, ResidentPatches
from pipeline.dataset.patch_order import BatchSpec, ShardSampler
from pipeline.errors import DatasetError, StoreError, UpresError, UsageError, WorkerError
from pipeline.storage.store import BucketPlace
from pipeline.tables import nearest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from pipeline.storage.dataset import Dataset


_Group = list[list[int]]
"""The indices of several batches, which are read at once."""

_FETCH_BYTES, _FETCH_PATCHES = 2**23, 1024
"""What one read carries at most, if it is more than a batch: a read of several batches takes less
time for each, as the index of each file that it touches is read but once."""

_AHEAD = 2
"""How many reads each worker process is given ahead."""

_WINDOWS_KEPT = 2
"""How many windows of chunks a process keeps that reads from a bucket: this one and the next."""

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")

_GPU_SHARE, _RAM_SHARE = 2, 4
"""A split is kept in memory where it takes a half of the free GPU's, or a quarter of all RAM."""


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
        ahead: int = 0,
        workers: int = 0,
        pinned: bool = False,
    ) -> None:
        """Read nothing yet; `fetched` batches are read at once, by each of `workers` processes.

        What is read `ahead` such groups later is fetched meanwhile, if it is in a bucket.
        """
        self.source, self.sampler = source, sampler
        self._next, self._stop = first, stop
        self._fetched, self._ahead = fetched, ahead
        self._workers, self._pinned = workers, pinned
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
            groups = _with_coming(_grouped(indices, self._fetched), self._ahead)
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
    "gpu" batches are on `device`; else they are on the CPU, and pinned where `device` is CUDA,
    so that ``batch.hr.to(device, non_blocking=True)`` is right in every case.

    Raises:
        DatasetError: if the split is empty or a shard is missing, or an LR version is unknown.
        UsageError: if an option contradicts another, or a batch is larger than the split.
    """
    versions = dataset.spec.degradations if spec.lr is None else spec.lr
    kept = _WINDOWS_KEPT * spec.window_chunks * (1 + len(versions))
    patches = PatchDataset(dataset.keeping(kept), spec)
    sampler = ShardSampler(patches.chunks, spec, rank=rank, world_size=world_size)
    kept_in = _memory(memory, patches.nbytes, device)
    fetch_patches = min(_FETCH_BYTES * len(patches) // patches.nbytes, _FETCH_PATCHES)
    on_disk = kept_in == "disk"
    fetched = max(1, fetch_patches // spec.batch_size) if on_disk else 1
    in_bucket = isinstance(dataset.path, BucketPlace)
    window_patches = spec.window_chunks * dataset.spec.chunk_patches
    return Batches(
        patches if on_disk else ResidentPatches(patches, device if kept_in == "gpu" else "cpu"),
        sampler,
        first=first,
        stop=stop,
        fetched=fetched,
        ahead=-(-window_patches // (fetched * spec.batch_size)) if in_bucket else 0,
        workers=workers if on_disk else 0,
        pinned=kept_in != "gpu" and torch.device(device).type == "cuda",
    )


def _grouped(batches: Iterator[list[int]], size: int) -> Iterator[_Group]:
    while group := list(islice(batches, size)):
        yield group


def _with_coming(groups: Iterator[_Group], ahead: int) -> Iterator[tuple[_Group, list[int]]]:
    """Yield each group with the indices of the one that is so many places after it, if any."""
    coming: deque[_Group] = deque()
    for group in groups:
        coming.append(group)
        if len(coming) > ahead:
            yield coming.popleft(), _flat(group) if ahead else []
    for group in coming:
        yield group, []


def _flat(group: _Group) -> list[int]:
    return [n for batch in group for n in batch]


class _Slots(TorchDataset["str | None"]):
    """Memory that is read into, by workers or this process, and that batches are copied from.

    A page of memory that is new costs more than the pixels on it; so the same slots serve for all
    fetches. At an index, which is a slot's number, a group of batches, and the examples that come
    later, stands the reason why the group could not be read, as torch would wrap an exception in
    its traceback.
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

    def __getitem__(self, index: tuple[int, _Group, list[int]]) -> str | None:
        number, group, coming = index
        indices = _flat(group)
        slot = Batch(*(tensor[number, : len(indices)] for tensor in self._memory))
        try:
            self._patches.read_into(slot, indices)
            # Afterwards: what is read now must not wait for what is read later.
            if coming:
                self._patches.fetch_ahead(coming)
        except (DatasetError, StoreError) as error:
            return str(error)
        return None


def _from_disk(
    patches: PatchDataset, groups: Iterator[tuple[_Group, list[int]]], *, workers: int, most: int
) -> Iterator[Batch]:
    """Read groups of `most` examples or fewer, in this process or in so many others, in order."""
    # One more than torch hands out ahead: it hands out the next before it returns the first.
    many = workers * _AHEAD + 1
    memory = patches.empty(many, most)
    slots = _Slots(patches, _shared(memory) if workers else memory)
    under_way: deque[tuple[int, _Group]] = deque()

    def handed_out() -> Iterator[tuple[int, _Group, list[int]]]:
        for number, (group, coming) in enumerate(groups):
            under_way.append((number % many, group))
            yield number % many, group, coming

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
