"""What computes a network: torch itself, or OpenVINO, which is faster on CPUs.

The one home of `openvino`. Here belongs how a network is made ready and run. How pixels become its
input is in `inference`.
"""

from __future__ import annotations

import importlib.util
import platform
import socket
import sys
import warnings
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.registry import is_interpolation
from models.tile_independent import widened
from pipeline.errors import ModelError, UsageError

TORCH, OPENVINO = "torch", "openvino"
BACKENDS = (TORCH, OPENVINO)
EXACT_MACHINES = ("x86_64", "AMD64")
"""Machines on which tiles have the bits of the whole picture, by measurement."""
_MOST_SHAPES = 128
"""openvino keeps about half a megabyte of code for every shape that it met."""


MOST_TOGETHER = 8
"""Pictures that torch computes at once on a CPU.

Measured on torch 2.13 with one thread: from 16 on, a convolution of 1x1 that takes 256 channels is
summed in another order.
"""


class Backend(Protocol):
    """A network made ready to compute."""

    @property
    def name(self) -> str:
        """Return which one of `BACKENDS` it is."""

    def run(self, x: Tensor, precision: str) -> Tensor:
        """Map float32 ``(n, c, h, w)`` to new float32 ``(n, c, scale * h, scale * w)``.

        A pixel's bits do not depend on where in a tile or batch it stands (on a CPU), and the
        result shares no memory with anything else. `precision` is ``fp32`` or ``bf16``.

        Raises:
            RuntimeError, MemoryError: if it does not fit into memory.
        """


class TorchBackend:
    """The network as it is."""

    name = TORCH

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._networks = _by_precision(network.eval(), device)
        for ready in self._networks.values():
            ready.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device

    @torch.inference_mode()
    def run(self, x: Tensor, precision: str) -> Tensor:
        """Run the network in the memory layout that is fastest in torch."""
        enabled = precision == "bf16"
        most = MOST_TOGETHER if self._device.type == "cpu" else len(x)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled):
            parts = [
                self._networks[precision](few.contiguous(memory_format=torch.channels_last)).float()
                for few in x.split(most)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class OpenVinoBackend:
    """The network, converted and compiled for each precision when it is first asked for.

    It is compiled for shapes that are not known yet: compiled for one shape it rounds otherwise
    than for another, and a tile would no longer be what the whole picture is there.

    Raises:
        ModelError: if openvino is not installed.
    """

    name = OPENVINO

    def __init__(self, network: nn.Module, *, channels: int, scale: int) -> None:
        self._library = _openvino()
        self._networks = _by_precision(network, torch.device("cpu"))
        self._models: dict[str, Any] = {}
        self._core = _core()
        self._channels = channels
        self._scale = scale
        self._requests: dict[str, Any] = {}
        self._shapes: set[tuple[int, ...]] = set()

    def run(self, x: Tensor, precision: str) -> Tensor:
        """Compute with as many threads as torch has when it first runs in this precision."""
        n, c, h, w = x.shape
        self._shapes.add((n, c, h, w))
        if len(self._shapes) > _MOST_SHAPES:
            self._requests.clear()
            self._shapes = {(n, c, h, w)}
        # openvino keeps the address alone of both, so they are kept here until it has computed.
        given = np.ascontiguousarray(x.numpy())
        # Where openvino writes nothing, NaN remains, which cannot be taken for pixels.
        found = np.full((n, c, h * self._scale, w * self._scale), np.nan, dtype=np.float32)
        # A request that failed once may fail always, so only one that succeeded is kept.
        request = self._requests.pop(precision, None) or self._compiled(precision)
        request.set_input_tensor(0, self._library.Tensor(given, shared_memory=True))
        request.set_output_tensor(0, self._library.Tensor(found, shared_memory=True))
        request.infer()
        self._requests[precision] = request
        return torch.from_numpy(found)

    def _compiled(self, precision: str) -> Any:
        properties, types = self._library.properties, self._library.Type
        wanted = {"fp32": types.f32, "bf16": types.bf16}[precision]
        threads = torch.get_num_threads()
        if precision not in self._models:
            self._models[precision] = _converted(
                self._library, self._networks[precision], channels=self._channels
            )
        compiled = self._core.compile_model(
            self._models[precision],
            "CPU",
            {
                properties.hint.inference_precision: wanted,
                # Pinned, all workers of a machine would compute on its first cores.
                properties.hint.enable_cpu_pinning: False,
                # A stream of one thread swallows exceptions, an allocation's too, and leaves the
                # last result in its place (openvino 2026.4.1); no stream is the caller's thread.
                properties.num_streams: 0 if threads == 1 else 1,
                properties.inference_num_threads: threads,
            },
        )
        found = compiled.get_property(properties.hint.inference_precision)
        if found != wanted:
            raise ModelError(
                f"{socket.gethostname()} computes in {found.to_string()}, expected {precision}; "
                "take --precision fp32, or --backend torch"
            )
        return compiled.create_infer_request()


def _by_precision(network: nn.Module, device: torch.device) -> dict[str, nn.Module]:
    """Return what computes in each precision; on a CPU, bf16 asks for more than fp32."""
    return {"fp32": network, "bf16": widened(network) if device.type == "cpu" else network}


def open_backend(
    name: str, network: nn.Module, *, channels: int, scale: int, device: torch.device
) -> Backend:
    """Return `network` ready to compute on `device`.

    Raises:
        UsageError: if there is no such backend.
        ModelError: if this machine does not have it.
    """
    if name == TORCH:
        return TorchBackend(network, device)
    if name == OPENVINO:
        return OpenVinoBackend(network, channels=channels, scale=scale)
    raise UsageError(f"backend is {name!r}, expected one of {BACKENDS}")


def resolve_backend(wanted: str, *, device: str, model: str) -> str:
    """Return the backend that ``auto|torch|openvino`` means for `model` on `device`.

    Raises:
        UsageError: if it is none of these, or cannot compute this.
    """
    if wanted not in ("auto", *BACKENDS):
        raise UsageError(f"backend is {wanted!r}, expected auto, {' or '.join(BACKENDS)}")
    if wanted == TORCH:
        return TORCH
    obstacle = _obstacle(device=device, model=model)
    if wanted == OPENVINO and obstacle is not None:
        raise UsageError(f"backend is openvino, but {obstacle}; take --backend torch")
    return OPENVINO if obstacle is None else TORCH


def _obstacle(*, device: str, model: str) -> str | None:
    """Return why OpenVINO cannot compute `model` on `device`, None where it can."""
    if device != "cpu":
        return f"the device is {device}, expected cpu"
    if is_interpolation(model):
        return f"the model is {model}, expected a network, no interpolation"
    if platform.machine() not in EXACT_MACHINES:
        return f"this machine is {platform.machine()}, expected {' or '.join(EXACT_MACHINES)}"
    if importlib.util.find_spec("openvino") is None:
        return "the package openvino is not installed (pip install openvino)"
    return None


def _openvino() -> Any:
    """Import openvino without its telemetry."""
    # openvino_telemetry sends an event for each conversion to its maker; where it cannot be
    # imported, openvino takes a stub of its own in its place.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ModelError(
            f"openvino cannot be imported on {socket.gethostname()} ({error}); pip install "
            "openvino there, or take --backend torch"
        ) from error
    return openvino


@cache
def _core() -> Any:
    """Return the one Core of this process.

    Each gives its thread a stack for signals, and when it goes brings back the one from before.
    That may have gone with another Core, and the next signal ends the process (openvino 2026.4.1).
    """
    return _openvino().Core()


def _converted(library: Any, network: nn.Module, *, channels: int) -> Any:
    """Return `network` as a model of openvino, for batches and pictures of any size."""
    # A batch of two with gradients, as a network may do more for a batch of one, or in inference
    # mode, that only torch's own rounding needs. Tracing is deprecated, but torch.export ties the
    # batch to the example's; the check would trace again without gradients.
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
        warnings.simplefilter("ignore")
        example = torch.rand(2, channels, 16, 16)
        traced = torch.jit.trace(network.cpu().eval(), example, check_trace=False)
        return library.convert_model(traced, input=[-1, channels, -1, -1])
