"""One unit on the worker that computes it: read a window, run the network, write a shard.

Nothing here knows the ledger: a unit ends as a row that says what became of it, and the driver
records it.
"""

from __future__ import annotations

import errno
import faulthandler
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.cluster import torch_threads, worker_name, worker_state
from pipeline.errors import ArchiveError, ModelError, UpresError
from pipeline.inference import Inference, load_model, resolve_device
from pipeline.storage.archive import Archive, StoredImage
from pipeline.storage.ledger import DONE, FAILED, UnitRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.geometry import Rect, TileGrid
    from pipeline.spec import UpscaleSpec

_OPEN_IMAGES = 64
_STDERR = 2
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


class Deadline:
    """Ends the process when a unit takes too long, even one that hangs outside of Python.

    faulthandler has one alarm a process, so it is set to whichever unit is due first.
    """

    def __init__(self) -> None:
        self._due: dict[int, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def within(self, limit_s: float) -> Iterator[None]:
        """Allow the block `limit_s` seconds."""
        key = threading.get_ident()
        self._change(key, time.monotonic() + limit_s)
        try:
            yield
        finally:
            self._change(key, None)

    def _change(self, key: int, due: float | None) -> None:
        with self._lock:
            if due is None:
                del self._due[key]
            else:
                self._due[key] = due
            faulthandler.cancel_dump_traceback_later()
            if self._due:
                left = max(0.001, min(self._due.values()) - time.monotonic())
                faulthandler.dump_traceback_later(left, exit=True, file=_STDERR)


@dataclass(slots=True)
class Workbench:
    """What a worker keeps between units: the network, and the window size that memory holds.

    Workers run two units at a time and the network one: while it computes, the other unit reads
    or writes.
    """

    inference: Inference
    computing: threading.Lock = field(default_factory=threading.Lock)
    deadline: Deadline = field(default_factory=Deadline)
    most_px: int | None = None
    """Pixels of the largest core that memory held, once one did not fit."""

    def enlarge_core(self, pixels: NDArray[Any], core: Rect, window: Rect) -> NDArray[Any]:
        """Return the SR pixels of `core` from the `pixels` of `window` around it.

        Where memory runs out the core is halved, again and again, and the size that fitted is
        kept for the units to come. Each half gets the same halo as the whole, clipped to the
        window, so the pixels are those of the whole.

        Raises:
            MemoryError: if not even a core of 16 px fits.
        """
        scale = self.inference.scale
        if self.most_px is None or core.pixels <= self.most_px:
            try:
                with self.computing:
                    sr = self.inference.enlarge(pixels)
                return sr[core.scaled(scale).within(window.scaled(scale))]
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if max(core.shape) <= _LEAST_CORE_PX:
                    raise MemoryError(
                        f"a core of {core.shape} px does not fit into memory; use a machine with "
                        "more, fewer --workers, or --device cpu"
                    ) from error
                self.most_px = core.pixels // 2
        return self._halves(pixels, core, window)

    def _halves(self, pixels: NDArray[Any], core: Rect, window: Rect) -> NDArray[Any]:
        halo = _halo(core, window)
        first, second, axis = core.halved()
        parts = []
        for part in (first, second):
            inner = part.grown_within(halo, window)
            parts.append(self.enlarge_core(pixels[inner.within(window)], part, inner))
        return np.concatenate(parts, axis=axis + 1)


def open_workbench(address: ModelAddress, spec: UpscaleSpec) -> Workbench:
    """Return the network of `spec`, ready to run on this machine.

    Raises:
        ModelError: if this machine finds other weights than the spec names.
    """
    threads = torch_threads()
    if threads is not None:
        torch.set_num_threads(threads)
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
        device=resolve_device(address.device),
    )
    return Workbench(inference)


def upscale_units(task: UpscaleTask, *, key: str) -> list[UnitRow]:
    """Compute the units of one task on the worker that runs it; safe to run twice."""
    bench: Workbench = worker_state(key)
    return [upscale_unit(task, tile, bench) for tile in task.tiles]


def upscale_unit(task: UpscaleTask, tile: int, bench: Workbench) -> UnitRow:
    """Compute and write one tile; return its outcome, with the reason where it failed."""
    began = time.perf_counter()
    row = UnitRow(
        item=task.item,
        tile=tile,
        fingerprint=task.fingerprint,
        state=DONE,
        worker=worker_name(),
    )
    try:
        with bench.deadline.within(task.limit_s):
            core, window = task.grid.core(tile), task.grid.window(tile)
            source = _image(task.source_dir, task.item, task.fingerprint)
            target = _image(task.sr_dir, task.item, task.fingerprint)
            pixels = source.read(window)
            _check_unchanged(task)
            sr = bench.enlarge_core(pixels, core, window)
            target.replace(core.scaled(bench.inference.scale), sr)
    except Exception as error:
        # The unit's border: whatever went wrong is its outcome, and the others go on.
        row = replace(row, state=FAILED, error=type(error).__name__, message=reason_of(error))
    return replace(row, seconds=time.perf_counter() - began)


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


def reason_of(error: BaseException) -> str:
    """Return one line that says why."""
    if isinstance(error, UpresError):
        return str(error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@lru_cache(maxsize=_OPEN_IMAGES)
def _image(archive_dir: Path, item: str, _fingerprint: str) -> StoredImage:
    """Open an item once for all its tiles; another fingerprint means that it was made anew."""
    return Archive.open(archive_dir).image(item)


def _halo(core: Rect, window: Rect) -> int:
    """Return the widest margin between core and window: less only where the picture ends."""
    pairs = ((core.rows, window.rows), (core.cols, window.cols))
    return max(max(c.start - w.start, w.stop - c.stop) for c, w in pairs)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On CPUs torch raises a plain RuntimeError with the allocator's words.
    return "allocate memory" in str(error) or f"error code {errno.ENOMEM}" in str(error)
