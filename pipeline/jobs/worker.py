"""One unit on the worker that computes it: read a window, run the network, write a shard.

Nothing here knows the ledger: a unit ends as a row that says what became of it, and the driver
records it.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.compute.backends import OPENVINO
from pipeline.compute.cluster import torch_threads, worker_name, worker_number, worker_state
from pipeline.compute.deadline import Deadline
from pipeline.compute.inference import Inference, load_model, own_device
from pipeline.compute.outcomes import outcome_of
from pipeline.compute.transparency import has_alpha, with_hidden, without_hidden
from pipeline.errors import ArchiveError, ModelError, NotFiniteError
from pipeline.geometry import Rect, Span
from pipeline.pictures.metadata import KEYS as METADATA_KEYS
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import DONE, UnitRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.geometry import TileGrid
    from pipeline.jobs.spec import UpscaleSpec
    from pipeline.storage.image import StoredImage

_OPEN_IMAGES = 64
COPIED = ("source", "sha256", "size_bytes", "mtime_ns", *METADATA_KEYS)
"""What the provenance of an SR image takes over from its LR."""

_CPU_BATCH_PX = 512 * 512
_CUDA_BATCH_PX = 2048 * 2048
_LEAST_CORE_PX = 16
"""Where memory does not hold a core of this side, no smaller one will help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAddress:
    """Where a worker finds the model of a spec, and what it runs it on."""

    name_or_file: str
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class UpscaleTask:
    """Some units of one item, as a worker gets them: addresses only."""

    item: str
    tiles: tuple[int, ...]
    fingerprint: str
    grid: TileGrid
    source_dir: Path
    sr_dir: Path
    source_sha256: str
    """Content that the LR item must have; "" where the job's lock guards the source anyway."""
    limit_s: float
    """How long one unit may take before its worker is ended: a unit that hangs never returns."""

    def pixels(self, tile: int) -> int:
        """Return how many LR pixels a unit owns."""
        return self.grid.core(tile).pixels


@dataclass(frozen=True, slots=True)
class StackTask:
    """One chunk of a stack, as a worker gets it."""

    item: str
    """Id of the stack."""
    tiles: tuple[int, ...]
    """The number of the chunk."""
    fingerprint: str
    chunk_pixels: int
    halo_px: int
    source_dir: Path
    sr_dir: Path
    source_sha256: str
    """Content that the LR chunk must have."""
    facts: Mapping[str, Any]
    """Provenance that its SR images share."""
    limit_s: float

    def pixels(self, _chunk: int) -> int:
        """Return how many LR pixels the unit owns."""
        return self.chunk_pixels


@dataclass(slots=True)
class Workbench:
    """What a worker keeps between units: the network, and the window size that memory holds.

    Workers run two units at a time and the network one: while it computes, the other unit reads
    or writes.
    """

    inference: Inference
    batch_px: int
    """Pixels of windows that go through the network at once."""
    computing: threading.Lock = field(default_factory=threading.Lock)
    deadline: Deadline = field(default_factory=Deadline)
    most_px: int | None = None
    """Pixels of the largest core or batch that memory held, once one did not fit."""

    def enlarge_core(
        self, pixels: NDArray[Any], core: Rect, window: Rect, halo_px: int
    ) -> NDArray[Any]:
        """Return the SR pixels of `core` from the `pixels` of `window` around it.

        Where memory runs out the core is halved, again and again, and the size that fitted is
        kept for the units to come. Each half gets the same halo as the whole, clipped to the
        window, so the pixels are those of the whole.

        Raises:
            MemoryError: if not even a core of 16 px fits.
        """
        scale = self.inference.scale
        if self.most_px is None or core.pixels <= self.most_px:
            sr = self._tried(pixels[np.newaxis], core.pixels)
            if sr is not None:
                core_sr: NDArray[Any] = sr[0][core.scaled(scale).within(window.scaled(scale))]
                return core_sr
            if max(core.shape) <= _LEAST_CORE_PX:
                raise MemoryError(
                    f"a core of {core.shape} px does not fit into memory; use a machine with "
                    "more, fewer --workers, or --device cpu"
                )
        return self._halves(pixels, core, window, halo_px)

    def enlarge_all(self, windows: NDArray[Any], halo_px: int) -> NDArray[Any]:
        """Return ``(n, c, scale * h, scale * w)`` of whole `windows` ``(n, c, h, w)``.

        As many go through the network at once as fill the device and fit into its memory.

        Raises:
            MemoryError: if not even a part of one of them fits.
        """
        height, width = windows.shape[2:]
        whole = Rect(Span(0, height), Span(0, width))
        parts: list[NDArray[Any]] = []
        start = 0
        while start < len(windows):
            room = min(self.most_px or self.batch_px, self.batch_px)
            batch = windows[start : start + max(1, room // whole.pixels)]
            if len(batch) == 1:
                sr = self.enlarge_core(batch[0], whole, whole, halo_px)[np.newaxis]
            else:
                tried = self._tried(batch, len(batch) * whole.pixels)
                if tried is None:
                    continue  # With half the room.
                sr = tried
            parts.append(sr)
            start += len(batch)
        return np.concatenate(parts)

    def enlarge_pictures(self, pictures: NDArray[Any], halo_px: int) -> NDArray[Any]:
        """Return ``(n, c, scale * h, scale * w)`` of whole pictures ``(n, c, h, w)``."""
        scale = self.inference.scale
        context = self.inference.context(*pictures.shape[2:])
        shown = without_hidden(pictures, self.inference.depth_px)
        sr = context.cut(self.enlarge_all(context.around(shown), halo_px), scale)
        return with_hidden(np.ascontiguousarray(sr), pictures, scale)

    def _tried(self, windows: NDArray[Any], core_pixels: int) -> NDArray[Any] | None:
        """Return what the network makes of `windows`, None (and less room) without memory."""
        try:
            with self.computing:
                return self.inference.enlarge_batch(windows)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
        self.most_px = max(core_pixels // 2, _LEAST_CORE_PX**2)
        return None

    def _halves(self, pixels: NDArray[Any], core: Rect, window: Rect, halo_px: int) -> NDArray[Any]:
        first, second, axis = core.halved()
        parts = []
        for part in (first, second):
            inner = part.grown_within(halo_px, window)
            parts.append(self.enlarge_core(pixels[inner.within(window)], part, inner, halo_px))
        return np.concatenate(parts, axis=axis + 1)


def open_workbench(address: ModelAddress, spec: UpscaleSpec) -> Workbench:
    """Return the network of `spec`, ready to run on this machine.

    Raises:
        ModelError: if this machine finds other weights than the spec names, or lacks its backend.
    """
    threads = torch_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    gpu_or_cpu = own_device(address.device, worker_number())
    device = "cpu" if spec.backend == OPENVINO else gpu_or_cpu
    model = load_model(address.name_or_file)
    if model.sha256 != spec.weights_sha256:
        raise ModelError(
            f"weights of {address.name_or_file} on {socket.gethostname()} have sha256 "
            f"{model.sha256[:12]}, expected {spec.weights_sha256[:12]}; copy the same file there"
        )
    inference = Inference.of(
        model.network,
        scale=spec.scale,
        channels=model.spec.channels,
        precision=spec.precision,
        device=device,
        backend=spec.backend,
    )
    return Workbench(inference, batch_px(device))


def batch_px(device: str) -> int:
    """Return how many pixels of windows fill a device at once."""
    return _CUDA_BATCH_PX if device.startswith("cuda") else _CPU_BATCH_PX


def upscale_units(task: UpscaleTask | StackTask, *, key: str) -> list[UnitRow]:
    """Compute the units of one task on the worker that runs it; safe to run twice."""
    bench: Workbench = worker_state(key)
    if isinstance(task, StackTask):
        return [_outcome(task, chunk, bench, partial(_upscale_chunk, task)) for chunk in task.tiles]
    together = _together(task, bench) if len(task.tiles) > 1 else []
    written = {row.tile for row in together}
    alone = [tile for tile in task.tiles if tile not in written]
    return together + [_outcome(task, tile, bench, partial(_upscale_tile, task)) for tile in alone]


def _together(task: UpscaleTask, bench: Workbench) -> list[UnitRow]:
    """Compute equal windows in batches; where anything fails, those written until then.

    The others run alone after that, which tells which of them fails.
    """
    began = time.perf_counter()
    written: list[int] = []
    with suppress(Exception), bench.deadline.within(task.limit_s * len(task.tiles)):
        for tile in _upscale_tiles(task, bench):
            written.append(tile)  # noqa: PERF402 - what was written before an error counts.
    seconds = (time.perf_counter() - began) / max(1, len(written))
    return [replace(_done(task, tile), seconds=seconds) for tile in written]


def _outcome(
    task: UpscaleTask | StackTask,
    tile: int,
    bench: Workbench,
    work: Callable[[int, Workbench], None],
) -> UnitRow:
    """Do the work of one unit; return its outcome, with the reason where it failed."""
    limited = partial(bench.deadline.run, task.limit_s, partial(work, tile, bench))
    return outcome_of(_done(task, tile), limited)


def _done(task: UpscaleTask | StackTask, tile: int) -> UnitRow:
    return UnitRow(
        item=task.item,
        tile=tile,
        fingerprint=task.fingerprint,
        state=DONE,
        worker=worker_name(),
    )


def _upscale_tile(task: UpscaleTask, tile: int, bench: Workbench) -> None:
    """Compute and write one tile."""
    grid, scale = task.grid, bench.inference.scale
    core, window = grid.core(tile), grid.window(tile)
    try:
        pixels, shown = _window(task, tile, bench)
    finally:
        # Also where it cannot be read: an item that is being made anew is the better reason.
        _check_unchanged(task)
    context = bench.inference.context(grid.height, grid.width)
    sr = bench.enlarge_core(
        context.around(shown), context.core(core), context.window(window), grid.halo_px
    )
    sr = with_hidden(sr, pixels[core.within(window)], scale)
    _image(task.sr_dir, task.item, task.fingerprint).replace(core.scaled(scale), sr)


def _window(task: UpscaleTask, tile: int, bench: Workbench) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the pixels of a tile's window as they are, and as the network is to see them.

    Where alpha hides colours more is read, so that what continues the visible ones is the same in
    every tile.
    """
    grid, window = task.grid, task.grid.window(tile)
    source = _image(task.source_dir, task.item, task.fingerprint)
    depth_px = bench.inference.depth_px if has_alpha(source.channels) else 0
    wider = window.grown(depth_px, limit=(grid.height, grid.width))
    pixels, inner = source.read(wider), window.within(wider)
    return pixels[inner], without_hidden(pixels, depth_px)[inner]


def _upscale_tiles(task: UpscaleTask, bench: Workbench) -> Iterator[int]:
    """Compute and write all tiles of a task, equal windows at once; yield each once written."""
    target = _image(task.sr_dir, task.item, task.fingerprint)
    scale = bench.inference.scale
    context = bench.inference.context(task.grid.height, task.grid.width)
    equal: dict[tuple[int, int], list[int]] = defaultdict(list)
    for tile in task.tiles:
        equal[task.grid.window(tile).shape].append(tile)
    for tiles in equal.values():
        windows, shown = zip(*(_window(task, tile, bench) for tile in tiles), strict=True)
        _check_unchanged(task)
        enlarged = bench.enlarge_all(context.around(np.stack(shown)), task.grid.halo_px)
        for tile, lr, sr in zip(tiles, windows, context.cut(enlarged, scale), strict=True):
            core, window = task.grid.core(tile), task.grid.window(tile)
            of_core = sr[core.scaled(scale).within(window.scaled(scale))]
            whole = with_hidden(np.ascontiguousarray(of_core), lr[core.within(window)], scale)
            target.replace(core.scaled(scale), whole)
            yield tile


def _upscale_chunk(task: StackTask, number: int, bench: Workbench) -> None:
    """Compute and write the images of one chunk of a stack."""
    source = Archive.open(task.source_dir).stack(task.item)
    chunk = source.chunk(number)
    if chunk is None or chunk.sha256 != task.source_sha256:
        raise ArchiveError(
            f"chunk {number} of {task.item} was changed in {task.source_dir} during the run; "
            "upscale it again"
        )
    places = sorted(chunk.members)
    pixels = source.read(number, places)
    try:
        sr = bench.enlarge_pictures(pixels, task.halo_px)
    except NotFiniteError as error:
        names = [str(chunk.members[p]["item"]) for p in _not_finite(places, pixels, task, bench)]
        raise NotFiniteError(
            f"{error}; it did for {', '.join(names)}: take that out of the source, as the other "
            "pictures of its chunk wait for it"
        ) from error
    members = {
        place: {"item": m["item"], **{name: m[name] for name in COPIED if name in m}}
        for place, m in chunk.members.items()
    }
    Archive.open(task.sr_dir).stack(task.item).write(number, sr, members, task.facts)


def _not_finite(
    places: Sequence[int], pixels: NDArray[Any], task: StackTask, bench: Workbench
) -> Iterator[int]:
    """Yield the places of the images that the network makes no finite pixels of."""
    for place, image in zip(places, pixels, strict=True):
        try:
            bench.enlarge_pictures(image[np.newaxis], task.halo_px)
        except NotFiniteError:
            yield place


def _check_unchanged(task: UpscaleTask) -> None:
    """Make sure that what was just read is of the picture that the unit was planned for.

    An item is replaced by removing its provenance first and writing the new one last, so pixels
    read before this holds are the old ones.

    Raises:
        ArchiveError: if the item was replaced or removed meanwhile.
    """
    if not task.source_sha256:
        return
    found = (Archive.open(task.source_dir).provenance(task.item) or {}).get("sha256")
    if found != task.source_sha256:
        raise ArchiveError(
            f"{task.item} was changed in {task.source_dir} during the run; upscale it again"
        )


@lru_cache(maxsize=_OPEN_IMAGES)
def _image(archive_dir: Path, item: str, _fingerprint: str) -> StoredImage:
    """Open an item once for all its tiles; another fingerprint means that it was made anew."""
    return Archive.open(archive_dir).image(item)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On CPUs torch and openvino raise a plain RuntimeError with their allocator's words.
    words = ("allocate memory", f"error code {errno.ENOMEM}", "Failed to allocate", "bad_alloc")
    return any(word in str(error) for word in words)
