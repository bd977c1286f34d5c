"""What computes a network fastest on this machine's CPU: one window, one thread, in ratios."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from benchmarks.rig import parse
from pipeline.compute.backends import OpenVinoBackend, TorchBackend
from pipeline.compute.inference import load_model, resolve_precision

if TYPE_CHECKING:
    from collections.abc import Callable

TURNS = 5


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return how long the first window takes, and the fastest of some more."""
    times = []
    for _ in range(TURNS + 1):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times[0], min(times[1:])


def compiled(network: torch.nn.Module, x: torch.Tensor, precision: str) -> Callable[[], object]:
    """Return a run by torch.compile, which needs a C++ compiler on the machine."""
    fast = torch.compile(network.to(memory_format=torch.channels_last))
    x = x.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def run() -> object:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            return fast(x)

    return run


def main() -> None:
    settings = parse(__doc__ or "", side=298)
    torch.set_num_threads(1)
    model = load_model(settings.model)
    network, channels, scale = model.network.eval(), model.spec.channels, model.spec.scale
    x = torch.rand(1, channels, settings.side, settings.side)
    precision = resolve_precision(settings.precision, device="cpu")
    plain = TorchBackend(network, torch.device("cpu"))
    openvino = OpenVinoBackend(network, channels=channels, scale=scale)
    runs: dict[str, Callable[[], object]] = {
        "torch, fp32": lambda: plain.run(x, "fp32"),
        f"torch, {precision}": lambda: plain.run(x, precision),
        f"torch.compile, {precision}": compiled(network, x, precision),
        "openvino, fp32": lambda: openvino.run(x, "fp32"),
        f"openvino, {precision}": lambda: openvino.run(x, precision),
    }
    least = None
    for name, run in runs.items():
        first, fastest = seconds(run)
        least = least or fastest
        speed = x[0, 0].numel() * scale**2 / 1e6 / fastest
        print(
            f"{name}: {speed:.1f} MP/s, {least / fastest:.2f} times as fast as the first; "
            f"its first window took {first:.1f} s"
        )


if __name__ == "__main__":
    main()
