"""What a unit costs beside the network, reading and writing: planning, Dask, the ledger."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.rig import engine_seconds, make_pictures, parse
from pipeline.jobs.job import open_job
from pipeline.storage.archive import Archive


def main() -> None:
    settings = parse(__doc__ or "", model="nearest-x2", tile=32, precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "in"
        make_pictures(pictures, settings)
        whole = engine_seconds(pictures, Path(folder) / "job", settings, workers=1)
        job = open_job(Path(folder) / "job")
        grid = settings.spec.grid(settings.side, settings.side)
        source, sr = Archive.open(job.source_dir), Archive.open(job.sr_dir)
        units, began = 0, time.perf_counter()
        for item in sr.items():
            small, large = source.image(item), sr.image(item)
            for tile in grid:
                core = grid.core(tile).scaled(settings.spec.scale)
                small.read(grid.window(tile))
                large.replace(core, large.read(core))
                units += 1
        plain = time.perf_counter() - began
    print(
        f"{settings}: {units} units, engine {whole / units * 1e3:.2f} ms a unit, reading and "
        f"writing alone {plain / units * 1e3:.2f} ms, the rest {(whole - plain) / units * 1e3:.2f}"
        " ms (the network's own time is in the rest)"
    )


if __name__ == "__main__":
    main()
