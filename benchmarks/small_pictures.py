"""What a small picture costs: CPU time of each stage, files, and nights with nothing to do.

A third of the pictures have sizes of their own, the others are all of one size. The nights with
nothing to do are those of the command itself: without an export, with one, and where the job let
its pixels go.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image

from benchmarks.night import STAGES, measured
from flows.demo.demo import PHOTOS_DIR
from pipeline.jobs.listener import JobListener
from pipeline.jobs.request import UpscaleRequest
from pipeline.jobs.stages import open_stages
from pipeline.pictures.formats import EXTENSIONS
from pipeline.sources.listing import list_source

_QUALITY = 85
_A_FOLDER = 1_000
_WORKERS = 2


def make_small(folder: Path, count: int, *, side: int) -> int:
    """Write so many JPEGs of a side, a third with sizes of their own; return their bytes."""
    names = [f for f in list_source(str(PHOTOS_DIR)) if f.item.lower().endswith(tuple(EXTENSIONS))]
    photos = [Image.open(BytesIO(file.read())).convert("RGB") for file in names]
    chance, total = random.Random(0), 0
    for n in range(count):
        width, height = side, side
        if n % 3 == 0:
            width, height = (chance.randint(side // 2, side * 5 // 2) for _ in range(2))
        photo = photos[n % len(photos)]
        left = chance.randint(0, photo.width - width)
        top = chance.randint(0, photo.height - height)
        path = folder / f"{n // _A_FOLDER:04}" / f"{n:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((left, top, left + width, top + height)).save(path, quality=_QUALITY)
        total += path.stat().st_size
    return total


def used(folder: Path) -> tuple[int, int]:
    """Return how many files a folder holds, and how much of the disk they take."""
    facts = [Path(at, name).stat() for at, _, names in os.walk(folder) for name in names]
    return len(facts), sum(one.st_blocks * 512 for one in facts)


def first_night(request: UpscaleRequest, count: int) -> None:
    """Run the main job, and print what each stage takes a picture."""
    with open_stages(request, JobListener(), command="benchmark") as stages:
        for name in STAGES:
            wall, cpu = measured(getattr(stages, name))
            print(f"{name}: {cpu / count * 1e3:.2f} ms of CPU a picture ({wall:.1f} s)", flush=True)
        if not stages.run.status().complete:
            raise SystemExit("the run failed")


def night(request: UpscaleRequest, *options: str) -> str:
    """Return what the command takes with these options: by the clock, and CPU time."""
    upres = Path(sys.executable).with_name("upres")
    words = [str(upres), "upscale", request.src, str(request.job_dir)]
    words += ["--model", request.model, "--workers", str(request.workers)]
    words += [*options, "--json"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter() - began
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{cpu:.1f} s of CPU ({wall:.0f} s by the clock)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--side", type=int, default=96, help="of most pictures, in pixels")
    parser.add_argument("--model", default="bicubic-x2")
    parser.add_argument("--folder", type=Path, help="keep pictures and job here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = asked.folder or Path(name)
        source, job = folder / "in", folder / "job"
        size = make_small(source, asked.pictures, side=asked.side)
        print(f"{asked.pictures} pictures, {size / 1e6:.0f} MB", flush=True)
        request = UpscaleRequest(
            src=str(source),
            job_dir=job,
            model=asked.model,
            workers=_WORKERS,
            export_dir=folder / "out",
        )
        first_night(request, asked.pictures)
        files, bytes_used = used(job)
        print(f"job: {files / asked.pictures:.2f} files a picture, {bytes_used / 1e6:.0f} MB")
        export = ("--export", str(request.export_dir))
        print(f"nothing to do, no export: {night(request)}", flush=True)
        print(f"nothing to do, exported: {night(request, *export)}", flush=True)
        print(f"letting go: {night(request, *export, '--keep', 'export')}", flush=True)
        print(f"nothing to do, let go: {night(request, *export, '--keep', 'export')}")


if __name__ == "__main__":
    main()
