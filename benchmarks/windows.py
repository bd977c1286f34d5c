"""Which window a network is computed fastest in on this CPU: one thread, windows in turn."""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.rig import parse
from models.reach import reach_px
from pipeline.compute.backends import Backend, open_backend, resolve_backend
from pipeline.compute.inference import load_model, resolve_precision
from pipeline.compute.speeds import Speeds, measure_speeds
from pipeline.compute.windows import fastest_cut

SIDES_PX = (64, 96, 128, 149, 170, 192, 213, 234, 256, 298, 362, 426, 554)
TURNS = 5


def seconds(backend: Backend, channels: int, precision: str) -> dict[int, float]:
    """Return the median CPU time of a window of each side, over turns through all sides."""
    windows = {side: torch.rand(1, channels, side, side) for side in SIDES_PX}
    taken: dict[int, list[float]] = {side: [] for side in SIDES_PX}
    for turn in range(TURNS + 1):
        for side, x in windows.items():
            began = time.thread_time()
            backend.run(x, precision)
            if turn:  # The first time, a window of a new size costs more.
                taken[side].append(time.thread_time() - began)
    return {side: statistics.median(times) for side, times in taken.items()}


def main() -> None:
    settings = parse(__doc__ or "", tile=512)
    torch.set_num_threads(1)
    model = load_model(settings.model)
    channels, scale = model.spec.channels, model.spec.scale
    reach = reach_px(model.network, channels=channels) or 0
    precision = resolve_precision(settings.precision, device="cpu")
    name = resolve_backend("auto", device="cpu", model=model.spec.name)
    backend = open_backend(
        name, model.network.eval(), channels=channels, scale=scale, device=torch.device("cpu")
    )
    print(f"{settings.model}, {name} {precision}, SR megapixels a second, reach {reach}")
    print("window | all | without what is around it")
    for side, taken in seconds(backend, channels, precision).items():
        own = max(0, side - 2 * reach)
        speed, useful = (px**2 * scale**2 / 1e6 / taken for px in (side, own))
        print(f"{side:6} | {speed:.2f} | {useful:.2f}")
    began = time.thread_time()
    speeds = measure_speeds(backend, channels=channels, precision=precision) or Speeds()
    took = time.thread_time() - began
    side = settings.tile + 2 * reach
    cut = fastest_cut(1, side, side, reach_px=reach, speeds=speeds) if speeds else None
    chosen = f"{cut.height} x {cut.width}" if cut else f"{side} x {side}, as nothing is known"
    print(f"a worker measures for {took:.1f} s and cuts a tile of {settings.tile} into {chosen}")


if __name__ == "__main__":
    main()
