"""One worker, two, and more, on one machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.rig import engine_seconds, make_pictures, parse


def main() -> None:
    settings = parse(__doc__ or "")
    cores = len(os.sched_getaffinity(0))
    counts = sorted({1, 2, cores, 2 * cores})
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "in"
        make_pictures(pictures, settings)
        first = None
        for count in counts:
            seconds = engine_seconds(
                pictures, Path(folder) / f"job{count}", settings, workers=count
            )
            first = first or seconds
            print(f"{count} workers on {cores} cores: {seconds:.1f} s, {first / seconds:.2f} times")


if __name__ == "__main__":
    main()
