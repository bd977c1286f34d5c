"""The engine against the field's habit, with the same weights.

The habit: fp32, NCHW, one picture at a time, tile after tile with a pad of 10 pixels, PNG in and
PNG out, all cores given to torch. The engine: its defaults, stage by stage; pictures of the same
size, written by the same encoder.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.rig import Settings, make_pictures, parse
from pipeline.compute.inference import load_model
from pipeline.jobs.listener import JobListener
from pipeline.jobs.stages import open_stages
from pipeline.pictures.files import read_picture, write_picture
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import Picture

if TYPE_CHECKING:
    import numpy as np

PAD_PX = 10


def field_seconds(pictures: Path, out: Path, settings: Settings) -> float:
    """Return how long the habit takes, with all cores given to torch."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = load_model(settings.model).network
    out.mkdir()
    began = time.perf_counter()
    for path in sorted(pictures.iterdir()):
        pixels = read_picture(path.read_bytes(), name=path.name).pixels
        sr = _tile_by_tile(network, pixels, settings)
        picture = Picture(pixels=sr, metadata=Metadata(format="png", mode="RGB"))
        write_picture(out / path.name, picture, format="png")
    return time.perf_counter() - began


@torch.no_grad()
def _tile_by_tile(network: torch.nn.Module, pixels: np.ndarray, settings: Settings) -> np.ndarray:
    x = torch.from_numpy(pixels).float()[None] / 255
    scale, (height, width) = settings.spec.scale, pixels.shape[1:]
    sr = torch.empty(1, 3, height * scale, width * scale)
    for top in range(0, height, settings.tile):
        for left in range(0, width, settings.tile):
            bottom, right = min(top + settings.tile, height), min(left + settings.tile, width)
            t, l = max(0, top - PAD_PX), max(0, left - PAD_PX)  # noqa: E741
            b, r = min(height, bottom + PAD_PX), min(width, right + PAD_PX)
            y = network(x[..., t:b, l:r].contiguous())
            sr[..., top * scale : bottom * scale, left * scale : right * scale] = y[
                ...,
                (top - t) * scale : (bottom - t) * scale,
                (left - l) * scale : (right - l) * scale,
            ]
    return (sr[0] * 255).clamp(0, 255).round().to(torch.uint8).numpy()


def stage_seconds(pictures: Path, folder: Path, settings: Settings) -> dict[str, float]:
    """Return how long each stage of the engine takes on its default number of workers."""
    request = settings.request(
        pictures, folder / "job", export_dir=folder / "out", file_format="png"
    )
    seconds = {}
    with open_stages(request, JobListener(), command="benchmark") as stages:
        for stage in (stages.ingest, stages.upscale, stages.export):
            began = time.perf_counter()
            stage()
            seconds[stage.__name__] = time.perf_counter() - began
        status = stages.run.status()
    if not status.complete:
        raise SystemExit(f"the run failed: {status.failures[:3]}")
    return seconds


def main() -> None:
    settings = parse(__doc__ or "", pictures=12, side=1024, tile=512)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "in"
        make_pictures(pictures, settings)
        habit = field_seconds(pictures, Path(folder) / "field", settings)
        stages = stage_seconds(pictures, Path(folder), settings)
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items())
    upscaling, all_stages = habit / stages["upscale"], habit / sum(stages.values())
    print(
        f"{settings}: the field's way {habit:.1f} s; engine: {told}; {upscaling:.2f} times as fast "
        f"by the upscaling, {all_stages:.2f} with all stages"
    )


if __name__ == "__main__":
    main()
