"""Peak memory of `upres prepare`, driver and workers, from 1,000 to 100,000 patches."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.rig import photographs

PICTURES = 20


def peaks(words: list[str]) -> tuple[float, float, float]:
    """Run a command; return peak resident megabytes of it and of its largest child, and seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    driver = worker = 0
    while process.poll() is None:
        try:
            own = psutil.Process(process.pid)
            driver = max(driver, own.memory_info().rss)
            sizes = [child.memory_info().rss for child in own.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        worker = max([worker, *sizes])
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed with {process.returncode}")
    return driver / 1e6, worker / 1e6, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    given = parser.parse_args()
    upres = str(Path(sys.executable).with_name("upres"))
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "in"
        photographs(pictures, PICTURES)
        for many in given.patches:
            out = str(Path(folder) / f"out{many}")
            settings = [f"count={many // PICTURES}", "candidates=1"]
            words = [upres, "prepare", str(pictures), out, "--recipe", "srgan-x4"]
            words += [word for setting in settings for word in ("--set", setting)]
            driver, worker, seconds = peaks(words)
            print(
                f"{many:7} patches: driver {driver:.0f} MB, worker {worker:.0f} MB, {seconds:.1f} s"
            )


if __name__ == "__main__":
    main()
