"""What the benchmarks share: pictures, jobs, and timings of the engine and of the bare network."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flows.demo.demo import PHOTOS_DIR
from pipeline.compute.inference import Inference, load_model
from pipeline.degradation.apply import degrade_bicubic
from pipeline.jobs.listener import JobListener
from pipeline.jobs.request import UpscaleRequest
from pipeline.jobs.stages import open_stages
from pipeline.pictures.files import read_picture, write_picture
from pipeline.pictures.formats import EXTENSIONS
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.picture import Picture
from pipeline.sources.listing import list_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.jobs.spec import UpscaleSpec


@dataclass(frozen=True)
class Settings:
    model: str
    tile: int
    pictures: int
    side: int
    precision: str

    def request(self, pictures: Path, job_dir: Path, **asked: Any) -> UpscaleRequest:
        """Return the main job on `pictures` with these settings, on the CPU."""
        return UpscaleRequest(
            src=str(pictures),
            job_dir=job_dir,
            model=self.model,
            tile_px=self.tile,
            precision=self.precision,
            device="cpu",
            **asked,
        )

    @property
    def spec(self) -> UpscaleSpec:
        return self.request(Path("in"), Path("job")).upscaling().spec


def parse(description: str, **defaults: object) -> Settings:
    """Read the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    values = {"model": "span-x4", "tile": 256, "pictures": 16, "side": 512, "precision": "auto"}
    for name, value in (values | defaults).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return Settings(**vars(parser.parse_args()))


def make_pictures(folder: Path, settings: Settings) -> None:
    """Write LR pictures cut from the shipped photographs, repeated by mirroring where short."""
    files = [f for f in list_source(str(PHOTOS_DIR)) if f.item.lower().endswith(tuple(EXTENSIONS))]
    folder.mkdir(parents=True)
    for n in range(settings.pictures):
        file = files[n % len(files)]
        pixels = degrade_bicubic(read_picture(file.read(), name=file.item).pixels, 2)
        pixels = np.repeat(pixels, 3, axis=0) if pixels.shape[0] == 1 else pixels
        pad = [(0, 0)] + [(0, max(0, settings.side - s)) for s in pixels.shape[1:]]
        pixels = np.pad(pixels, pad, mode="symmetric")[:, : settings.side, : settings.side]
        picture = Picture(
            pixels=np.ascontiguousarray(pixels), metadata=Metadata(format="png", mode="RGB")
        )
        write_picture(folder / f"{n:04}.png", picture, format="png")


def photographs(folder: Path, count: int) -> None:
    """Put so many JPEG photographs into a folder: the shipped ones, again and again."""
    files = [f for f in list_source(str(PHOTOS_DIR)) if f.item.lower().endswith(tuple(EXTENSIONS))]
    folder.mkdir(parents=True)
    for n in range(count):
        file = files[n % len(files)]
        (folder / f"{n:05}{Path(file.item).suffix}").write_bytes(file.read())


def read_pictures(folder: Path) -> list[NDArray[np.uint8]]:
    return [read_picture(f.read(), name=f.item).pixels for f in list_source(str(folder))]


def engine_seconds(pictures: Path, job_dir: Path, settings: Settings, *, workers: int) -> float:
    """Return how long the upscale stage takes: plan, read, compute, write, record."""
    request = settings.request(pictures, job_dir, workers=workers)
    with open_stages(request, JobListener(), command="benchmark") as stages:
        stages.ingest()
        began = time.perf_counter()
        computed = stages.upscale()
        seconds = time.perf_counter() - began
        status = stages.run.status()
    if not status.complete or not computed:
        raise SystemExit(f"the run failed: {status.failures[:3]}")
    return seconds


def network_seconds(
    pictures: list[NDArray[np.uint8]], settings: Settings, *, processes: int, threads: int
) -> float:
    """Return how long the bare network takes on the same windows, read and ready in memory."""
    spec = settings.spec
    windows = []
    for pixels in pictures:
        grid = spec.grid(*pixels.shape[1:])
        windows += [np.ascontiguousarray(pixels[grid.window(t).index]) for t in grid]
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(processes + 1), context.Barrier(processes + 1)
    shares = [windows[n::processes] for n in range(processes)]
    workers = [
        context.Process(target=_compute, args=(settings.model, spec, share, threads, ready, go))
        for share in shares
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.perf_counter()
    go.wait()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began


def _compute(
    model: str,
    spec: UpscaleSpec,
    windows: list[NDArray[np.uint8]],
    threads: int,
    ready: object,
    go: object,
) -> None:
    torch.set_num_threads(threads)
    loaded = load_model(model)
    inference = Inference.of(
        loaded.network,
        scale=spec.scale,
        channels=loaded.spec.channels,
        precision=spec.precision,
        backend=spec.backend,
    )
    inference.forward_only(windows[0])
    ready.wait()  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    for window in windows:
        inference.forward_only(window)
