"""Running a network on pixels: integers in, integers of the same type out, never a stand-in.

A network sees float values in 0..1. Channels that it does not have are run as pictures of their
own: grey through a colour network (the mean of its three equal-input outputs), alpha beside the
colours as one more grey picture, kept within the range of the alpha around it. Pictures with a side
too short for a network get mirrored context, which is cut off again.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from models import checkpoint
from models.blocks import folded
from models.interpolation import Nearest, interpolates
from pipeline.compute.backends import TORCH, Backend, open_backend
from pipeline.compute.instructions import computes_bf16, own_level
from pipeline.compute.small_sides import Context
from pipeline.compute.transparency import bounded_alpha, has_alpha, with_hidden, without_hidden
from pipeline.errors import (
    ModelError,
    NotFiniteError,
    TileShapeError,
    UnknownModelError,
    UsageError,
)
from pipeline.geometry import TileGrid
from pipeline.pictures.picture import WHITE
from pipeline.recipes.trainable import why_no_model

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

PRECISIONS = ("fp32", "bf16")
_GPUS = "cuda(:[0-9]{1,4})?"
_CPU = torch.device("cpu")
DEPTH_PX = 64
"""More than the reach of every network here, and than alpha grows by its own pixel."""
_INTERPOLATED_DEPTH_PX = 4


@dataclass(frozen=True, slots=True)
class Inference:
    """A network made ready on a device."""

    backend: Backend
    scale: int
    channels: int
    device: torch.device
    precision: str
    learned: bool
    """Whether it is a network, not an interpolation."""
    depth_px: int
    """How far visible colours are to reach into hidden ones, before they are enlarged."""

    @classmethod
    def of(
        cls,
        network: nn.Module,
        *,
        scale: int,
        channels: int,
        precision: str,
        device: str = "cpu",
        backend: str = TORCH,
    ) -> Inference:
        """Make `network` ready to be run by `backend` on `device`, BatchNorm folded away.

        Raises:
            ModelError: if this machine does not have the backend.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"precision is {precision!r}, expected one of {PRECISIONS}")
        where = torch.device(device)
        ready = open_backend(backend, folded(network), channels=channels, scale=scale, device=where)
        learned = not interpolates(network)
        depth_px = DEPTH_PX if learned else _INTERPOLATED_DEPTH_PX
        if isinstance(network, Nearest):
            depth_px = 0  # It reads no pixel but its own.
        return cls(ready, scale, channels, where, precision, learned, depth_px)

    @classmethod
    def of_model(
        cls, model: checkpoint.Model, *, precision: str, device: str = "cpu", backend: str = TORCH
    ) -> Inference:
        """Make a model ready to be run, as `of` does its network."""
        spec = model.spec
        return cls.of(
            model.network,
            scale=spec.scale,
            channels=spec.channels,
            precision=precision,
            device=device,
            backend=backend,
        )

    def context(self, height: int, width: int) -> Context:
        """Return the mirrored pixels that a picture of this size needs around it."""
        return Context.of(height, width) if self.learned else Context()

    def enlarge(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return ``(c, scale * h, scale * w)`` of the dtype of a whole picture ``(c, h, w)``."""
        context = self.context(*pixels.shape[1:])
        shown = context.around(without_hidden(pixels, self.depth_px))
        enlarged: NDArray[Any] = self.enlarge_batch(shown[np.newaxis])[0]
        return with_hidden(context.cut(enlarged, self.scale), pixels, self.scale)

    def enlarge_batch(self, windows: NDArray[Any]) -> NDArray[Any]:
        """Return ``(n, c, scale * h, scale * w)`` of the dtype of `windows` ``(n, c, h, w)``.

        Integers are rounded and clamped to their range; float32 is in 0..1 and is not clamped.
        The windows are taken as they are, without context; so the caller sees to small pictures.

        Raises:
            NotFiniteError: if the pixels hold NaN or infinity, or the network returns it in fp32.
            TileShapeError: if it returns another shape than its scale promises.
        """
        outputs = [self._run(group) for group in _channel_groups(windows, self.channels)]
        if has_alpha(windows.shape[1]):
            outputs[-1] = bounded_alpha(outputs[-1], windows[:, -1:], self.scale)
        sr = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)
        n, c, h, w = windows.shape
        if sr.shape != (n, c, h * self.scale, w * self.scale):
            raise TileShapeError(
                f"model returned {sr.shape} for {windows.shape}, expected scale {self.scale}; "
                "is the checkpoint of another scale?"
            )
        return sr

    def enlarge_tiled(self, pixels: NDArray[Any], *, tile_px: int, halo_px: int) -> NDArray[Any]:
        """Return the same as `enlarge`, one tile at a time, so that memory stays bounded."""
        context = self.context(*pixels.shape[1:])
        shown = context.around(without_hidden(pixels, self.depth_px))
        c, h, w = shown.shape
        grid = TileGrid(h, w, tile_px, halo_px)
        sr = np.empty((c, h * self.scale, w * self.scale), dtype=pixels.dtype)
        for tile in grid:
            core, window = grid.core(tile), grid.window(tile)
            out = self.enlarge_batch(shown[window.index][np.newaxis])[0]
            inside = core.scaled(self.scale).within(window.scaled(self.scale))
            sr[core.scaled(self.scale).index] = out[inside]
        return with_hidden(context.cut(sr, self.scale), pixels, self.scale)

    def forward_only(self, pixels: NDArray[Any]) -> Tensor:
        """Return what the network itself makes of ``(c, h, w)``: the bare work, for benchmarks."""
        return self.backend.run(to_unit_range(pixels[np.newaxis], self.device), self.precision)

    @torch.inference_mode()
    def _run(self, group: NDArray[Any]) -> NDArray[Any]:
        """Run one group of channels ``(n, g, h, w)``, g being 1 or the network's own number."""
        x = to_unit_range(group, self.device)
        if x.shape[1] != self.channels:
            x = x.expand(-1, self.channels, -1, -1)
        y = self.backend.run(x, self.precision)
        if not _is_finite(y):
            y = self._mended(y, x)
        if group.shape[1] != self.channels:
            y = y.mean(dim=1, keepdim=True)
        return from_unit_range(y, group.dtype)

    def _mended(self, y: Tensor, x: Tensor) -> Tensor:
        """Return `y` with those windows of `x` that are not finite in it done again in fp32.

        Those alone, as the pixels of a window must not depend on its batch.
        """
        bad = _not_finite(y)
        if self.precision != "fp32":
            y[bad] = self.backend.run(x[bad], "fp32")
            bad = _not_finite(y)
        if bool(bad.any()):
            _check_finite(x)
            raise NotFiniteError(
                "the network returned NaN or infinity in fp32; check the checkpoint's weights"
            )
        return y


def load_model(name_or_file: str) -> checkpoint.Model:
    """Return a model by name or checkpoint file.

    Raises:
        UnknownModelError: if there is no such model, or it is yet to be trained.
        ModelError: if its file is damaged.
    """
    try:
        return checkpoint.load(name_or_file)
    except checkpoint.UnknownModelError as error:
        raise UnknownModelError(why_no_model(name_or_file)) from error
    except (TypeError, ValueError) as error:
        raise ModelError(str(error)) from error


def resolve_device(wanted: str) -> str:
    """Return the device that ``auto|cpu|cuda[:N]`` means on this machine.

    Raises:
        UsageError: if it is none of these, or the machine has no such device.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu" and not re.fullmatch(_GPUS, wanted):
        raise UsageError(f"device is {wanted!r}, expected auto, cpu, cuda or cuda:N")
    if wanted != "cpu":
        found = torch.cuda.device_count()
        if int(wanted.removeprefix("cuda").removeprefix(":") or 0) >= found:
            raise UsageError(
                f"device is {wanted!r}, this machine has {found} CUDA devices; use cpu"
            )
    return wanted


def kind_of_device(wanted: str) -> str:
    """Return what ``auto|cpu|cuda[:N]`` means where the workers are, which may be elsewhere.

    Each worker makes sure by itself that it has such a device.

    Raises:
        UsageError: if it is none of these.
    """
    return wanted if re.fullmatch(_GPUS, wanted) else resolve_device(wanted)


def gpus_of(device: str) -> int:
    """Return how many GPUs of this machine ``auto|cpu|cuda[:N]`` means."""
    resolved = resolve_device(device)
    if resolved == "cuda":
        return torch.cuda.device_count()
    return int(resolved.startswith("cuda"))


def own_device(device: str, worker: int) -> str:
    """Return the device of one of several workers: they share out the GPUs of a machine."""
    resolved = resolve_device(device)
    return f"cuda:{worker % torch.cuda.device_count()}" if resolved == "cuda" else resolved


def resolve_precision(wanted: str, *, device: str, level: str | None = None) -> str:
    """Return the precision that ``auto|fp32|bf16`` means: bf16 where `device` computes in it.

    `level` is that of the CPU instructions, by default of this machine.
    """
    if wanted == "auto":
        return "bf16" if _computes_bf16(device, level) else "fp32"
    if wanted not in PRECISIONS:
        raise UsageError(f"precision is {wanted!r}, expected auto, {' or '.join(PRECISIONS)}")
    return wanted


def _computes_bf16(device: str, level: str | None) -> bool:
    if device.startswith("cuda"):
        # Of a GPU elsewhere it is assumed.
        return not torch.cuda.is_available() or bool(
            torch.cuda.is_bf16_supported(including_emulation=False)
        )
    return computes_bf16(own_level() if level is None else level)


def _channel_groups(windows: NDArray[Any], channels: int) -> list[NDArray[Any]]:
    """Split ``(n, c, h, w)`` into one group of the network's channels and single channels."""
    c = windows.shape[1]
    joined = channels if channels > 1 and c >= channels else 0
    groups = [windows[:, :joined]] if joined else []
    return groups + [windows[:, k : k + 1] for k in range(joined, c)]


def _is_finite(y: Tensor) -> bool:
    """Return whether no value is NaN or infinite: where the sum is finite, none is."""
    return math.isfinite(y.sum().item()) or not bool(_not_finite(y).any())


def _not_finite(y: Tensor) -> Tensor:
    """Return which pictures ``(n,)`` of a batch hold NaN or infinity."""
    return ~torch.isfinite(y).flatten(1).all(dim=1)


def _check_finite(x: Tensor) -> None:
    """Refuse pixels ``(n, c, h, w)`` that contain NaN or infinity, before the network is blamed."""
    wrong = torch.nonzero(~torch.isfinite(x))
    if len(wrong):
        places = {(n, row, col) for n, _, row, col in wrong.tolist()}
        _, row, col = min(places)
        raise NotFiniteError(
            f"the picture itself holds NaN or infinity in {len(places)} pixels of this tile, first "
            f"in its row {row}, column {col} (margin included); give a picture of finite numbers"
        )


def to_unit_range(pixels: NDArray[Any], device: torch.device = _CPU) -> Tensor:
    """Return pixels of any dtype as floats in 0..1; float32 as it is."""
    if pixels.dtype == np.uint16:
        # torch computes little in uint16, and float32 holds every value of it.
        return _moved(pixels.astype(np.float32), device).div_(WHITE["uint16"])
    x = _moved(np.ascontiguousarray(pixels), device)
    return x if pixels.dtype == np.float32 else x.float().div_(WHITE[str(pixels.dtype)])


def _moved(pixels: NDArray[Any], device: torch.device) -> Tensor:
    """Return pixels on the device, by way of pinned memory where that is another's."""
    x = torch.from_numpy(pixels)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def from_unit_range(y: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return floats in 0..1 as pixels: rounded and clamped, or as they are for float32.

    `y` is used up.
    """
    if dtype == np.float32:
        return np.ascontiguousarray(y.cpu().numpy())
    peak = WHITE[str(dtype)]
    rounded = y.mul_(peak).round_().clamp_(0, peak)
    if dtype == np.uint8:
        return np.ascontiguousarray(rounded.to(torch.uint8).cpu().numpy())
    return np.ascontiguousarray(rounded.cpu().numpy().astype(dtype))
