"""The engine against the field's habit, with the same weights.

The habit: fp32, NCHW, one picture at a time, tile after tile with a pad of 10 pixels, PNG in and
PNG out. The engine: its defaults, from PNG files to PNG files, everything included.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.rig import Settings, engine_seconds, make_pictures, parse
from pipeline.cluster import ClusterSettings, connect
from pipeline.images import Metadata, Picture, read_picture, write_picture
from pipeline.inference import load_model
from pipeline.job import open_job
from pipeline.run import run_on

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


def export_seconds(job_dir: Path, out: Path) -> float:
    job = open_job(job_dir)
    with run_on(job, "benchmark") as run, connect(ClusterSettings()) as client:
        began = time.perf_counter()
        run.export(out, "png", client)
        return time.perf_counter() - began


def main() -> None:
    settings = parse(__doc__ or "")
    workers = min(len(os.sched_getaffinity(0)), 8)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "in"
        make_pictures(pictures, settings)
        habit = field_seconds(pictures, Path(folder) / "field", settings)
        whole = engine_seconds(pictures, Path(folder) / "job", settings, workers=workers)
        written = export_seconds(Path(folder) / "job", Path(folder) / "out")
    print(
        f"{settings}: the field's way {habit:.1f} s, engine {whole:.1f} s + export "
        f"{written:.1f} s: {habit / (whole + written):.2f} times as fast, "
        f"{habit / whole:.2f} without the export"
    )


if __name__ == "__main__":
    main()
