"""What a night gets done: CPU seconds of each stage of the main job, for each SR megapixel.

CPU time hardly depends on what else runs on the machine. Of several turns the least counts.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.rig import Settings, make_pictures, parse
from pipeline.jobs.listener import JobListener
from pipeline.jobs.stages import open_stages

if TYPE_CHECKING:
    from collections.abc import Callable

STAGES = ("ingest", "upscale", "score", "export")
_TURNS = 3
_NIGHT_S = 8 * 3600


def cpu_seconds() -> float:
    """Return the CPU time of this process and its workers until now."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Return how long some work takes, by the clock and in CPU time."""
    began, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - began, cpu_seconds() - cpu


def turn(
    folder: Path, settings: Settings, workers: int, *, codec: str | None = None
) -> dict[str, tuple[float, float]]:
    """Run the main job once; return the seconds of each stage."""
    request = settings.request(
        folder.parent / "in",
        folder / "job",
        workers=workers,
        export_dir=folder / "out",
        codec=codec,
    )
    with open_stages(request, JobListener(), command="benchmark") as stages:
        seconds = {name: measured(getattr(stages, name)) for name in STAGES}
        if not stages.run.status().complete:
            raise SystemExit("the run failed")
    return seconds


def main() -> None:
    settings = parse(__doc__ or "", tile=512, pictures=12, side=1024)
    workers = min(len(os.sched_getaffinity(0)), 8)
    megapixels = settings.pictures * (settings.side * settings.spec.scale) ** 2 / 1e6
    with tempfile.TemporaryDirectory() as name:
        make_pictures(Path(name) / "in", settings)
        turns = [turn(Path(name) / f"turn{n}", settings, workers) for n in range(_TURNS)]
    print(
        f"{settings}, {workers} workers, {megapixels:.0f} SR megapixels, least of {_TURNS} turns:"
    )
    total = 0.0
    for stage in STAGES:
        wall, cpu = (min(t[stage][n] for t in turns) for n in range(2))
        total += cpu
        print(f"{stage}: {wall:.1f} s, {cpu:.1f} s of CPU, {cpu / megapixels:.3f} s a megapixel")
    night = _NIGHT_S * megapixels / total
    print(f"all: {total / megapixels:.3f} s of CPU a megapixel, {night / 1e3:.1f} GP a core in 8 h")


if __name__ == "__main__":
    main()
