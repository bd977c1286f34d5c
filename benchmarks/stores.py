"""A job in an object store over the same job on a local disk: SeaweedFS, on this machine.

Both do the same work in turn, on workers of their own: ingest, upscale and export large pictures.
Then a listing of many objects is counted in requests. Nothing else should write to the disk.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rig import Settings, make_pictures, parse
from pipeline.jobs.listener import JobListener
from pipeline.jobs.stages import open_stages
from pipeline.sources.listing import list_source
from pipeline.storage.store import BucketPlace
from tests.services.stores import BUCKET, SeaweedFS, environment, in_front_of

if TYPE_CHECKING:
    from pipeline.storage.store import Place

STAGES = ("ingest", "upscale", "export")
TURNS = 3
KEYS = int(os.environ.get("KEYS", "100000"))


def stage_seconds(place: Place, pictures: Place, settings: Settings, ledger: Path) -> list[float]:
    """Return how long each stage takes where source, job and export are at one place."""
    request = replace(
        settings.request(Path("in"), Path("job"), workers=min(os.cpu_count() or 1, 8)),
        src=str(pictures),
        job_dir=place / "job",
        export_dir=place / "out",
        ledger=f"sqlite:///{ledger}",
    )
    with open_stages(request, JobListener(), command="benchmark") as stages:
        marks = [time.perf_counter()]
        for stage in STAGES:
            getattr(stages, stage)()
            marks.append(time.perf_counter())
        if not stages.run.status().complete:
            raise SystemExit(f"the run failed: {stages.run.status().failures[:3]}")
    return [after - before for before, after in pairwise(marks)]


def compare(folder: Path, bucket: BucketPlace, settings: Settings) -> None:
    """Print the ratios of both, stage by stage, of jobs that are done in turn."""
    make_pictures(folder / "in", settings)
    for path in (folder / "in").iterdir():
        (bucket / "in" / path.name).write_bytes(path.read_bytes())
    ratios: list[list[float]] = []
    for turn in range(TURNS):
        here, there = folder / f"disk{turn}", bucket / f"store{turn}"
        here.mkdir()
        disk = stage_seconds(here, folder / "in", settings, here / "l.sqlite")
        store = stage_seconds(there, bucket / "in", settings, folder / f"store{turn}.sqlite")
        ratios.append([d / s for d, s in zip(disk, store, strict=True)])
        ratios[-1].append(sum(disk) / sum(store))
        shutil.rmtree(here)
        there.remove_below()
        for name, d, s in zip(STAGES, disk, store, strict=True):
            print(f"{name}: disk {d:.1f} s, store {s:.1f} s, speed on the store {d / s:.2f}")
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    named = zip((*STAGES, "all"), medians, strict=True)
    print("median speed on the store, disk 1.00:", ", ".join(f"{n} {r:.2f}" for n, r in named))


def main() -> None:
    settings = parse(__doc__ or "", pictures=2, side=1536)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "weed").mkdir()
        store = SeaweedFS(folder / "weed")
        store.start()
        try:
            store.make_bucket(BUCKET)
            os.environ |= environment(store.endpoint)
            bucket = BucketPlace("s3", BUCKET)
            compare(folder, bucket, settings)
            many = bucket / "many"
            with ThreadPoolExecutor(16) as pool:
                keys = (many / f"{n % 100:02}/{n:06}.jpg" for n in range(KEYS))
                list(pool.map(lambda key: key.write_bytes(b"x"), keys))
            with in_front_of(store) as front:
                os.environ |= environment(front.endpoint)
                began = time.perf_counter()
                number = len(list_source(str(many)))
                seconds = time.perf_counter() - began
                print(f"{number:,} objects: {front.requests.total()} requests, {seconds:.1f} s")
        finally:
            store.kill()


if __name__ == "__main__":
    main()
