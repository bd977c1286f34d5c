"""The worker: the network and the memory that its units share, and the way a task is run.

What a unit does is in `tile_task` and `chunk_task`. Nothing there or here opens the
ledger: a unit ends as a row that says what became of it, and the driver records it.
"""

from __future__ import annotations

import errno
import socket
import threading
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.compute.backends import OPENVINO
from pipeline.compute.deadline import Deadline
from pipeline.compute.inference import Inference, load_model, own_device
from pipeline.compute.outcomes import outcome_of
from pipeline.compute.transparency import with_hidden, without_hidden
from pipeline.compute.windows import in_fastest_pieces
from pipeline.compute.worker import torch_threads, worker_name, worker_number, worker_state
from pipeline.errors import ModelError
from pipeline.geometry import Rect, Span
from pipeline.jobs.upscale.units import done_unit
from pipeline.storage.archive import Archive

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.jobs.spec import UpscaleSpec
    from pipeline.jobs.upscale.units import Units, UnitTask
    from pipeline.storage.image import StoredImage
    from pipeline.storage.ledger import UnitRow
    from pipeline.storage.store import Place

_CPU_BATCH_PX = 512 * 512
_CUDA_BATCH_PX = 2048 * 2048
_LEAST_CORE_PX = 16
"""Side of the smallest core that is tried where memory runs out."""
_OPEN_IMAGES = 64


def _opened(archive_dir: Place, item: str, _fingerprint: str) -> StoredImage:
    """Open an item; another fingerprint means that it was replaced."""
    return Archive.open(archive_dir).image(item)


def _opened_once() -> Callable[[Place, str, str], StoredImage]:
    return lru_cache(maxsize=_OPEN_IMAGES)(_opened)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAddress:
    """Where a worker finds the model of a spec, and what it runs it on."""

    name_or_file: str
    device: str = "auto"


@dataclass(slots=True)
class Workbench:
    """What a worker keeps between units: the network, and the window size that fits into memory.

    Workers run two units at a time and the network one: while it computes, the other unit reads
    or writes.
    """

    inference: Inference
    batch_px: int
    """Pixels of windows that go through the network at once."""
    computing: threading.Lock = field(default_factory=threading.Lock)
    deadline: Deadline = field(default_factory=Deadline)
    most_px: int | None = None
    """Pixels of the largest core or batch that fitted into memory, once one did not."""
    image: Callable[[Place, str, str], StoredImage] = field(default_factory=_opened_once)
    """Opens an item once for all its tiles, by archive, id and fingerprint.

    For one run: workers of a standing cluster stay, and the next run may make the array again with
    the same fingerprint and another codec.
    """

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
                    continue  # Again, with half the pixels.
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
        """Return the enlarged `windows`; None (and a smaller limit) where memory runs out."""
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
    inference = Inference.of_model(
        model, precision=spec.precision, device=device, backend=spec.backend
    )
    if device == "cpu" and inference.learned:
        pieces = in_fastest_pieces(inference.backend, model, precision=spec.precision)
        inference = replace(inference, backend=pieces)
    return Workbench(inference, batch_px(device))


def batch_px(device: str) -> int:
    """Return how many pixels of windows fill a device at once."""
    return _CUDA_BATCH_PX if device.startswith("cuda") else _CPU_BATCH_PX


def upscale_units(task: UnitTask, *, key: str) -> list[UnitRow]:
    """Compute the units of one task on the worker that runs it; safe to run twice."""
    return task.compute(worker_state(key))


def unit_here(units: Units, number: int) -> UnitRow:
    """Return the outcome of a unit that this worker has done."""
    return replace(done_unit(units, number), worker=worker_name())


def outcome_here(
    task: UnitTask, number: int, bench: Workbench, work: Callable[[], None]
) -> UnitRow:
    """Do the work of one unit within its time limit; return its outcome, with the reason if any."""
    limited = partial(bench.deadline.run, task.limit_s, work)
    return outcome_of(unit_here(task, number), limited)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On CPUs torch and openvino raise a plain RuntimeError with a message of their allocator.
    words = ("allocate memory", f"error code {errno.ENOMEM}", "Failed to allocate", "bad_alloc")
    return any(word in str(error) for word in words)
