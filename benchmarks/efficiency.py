"""`upres upscale` end to end over the bare network on the same windows and cores."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.rig import engine_seconds, make_pictures, network_seconds, parse, read_pictures


def main() -> None:
    settings = parse(__doc__ or "", pictures=64)
    cores = len(os.sched_getaffinity(0))
    workers = min(cores, 8)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "in"
        make_pictures(pictures, settings)
        read = read_pictures(pictures)
        megapixels = sum(p[0].size for p in read) * settings.spec.scale**2 / 1e6
        ratios = []
        for turn in range(3):
            bare = network_seconds(
                read, settings, processes=workers, threads=max(1, cores // workers)
            )
            whole = engine_seconds(pictures, Path(folder) / f"job{turn}", settings, workers=workers)
            ratios.append(bare / whole)
            print(
                f"network {bare:.1f} s ({megapixels / bare:.1f} MP/s), engine {whole:.1f} s "
                f"({megapixels / whole:.1f} MP/s), efficiency {bare / whole:.2f}"
            )
    print(f"{settings}, {workers} workers: median efficiency {sorted(ratios)[1]:.2f}")


if __name__ == "__main__":
    main()
