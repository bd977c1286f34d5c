"""What it takes to hand out one Dask task that does nothing: the bound on units a second."""

from __future__ import annotations

import time

import psutil

from pipeline.compute.cluster import ClusterSettings, connect
from pipeline.compute.submission import submit_windowed

_TASKS = 5_000
_TURNS = 3


def main() -> None:
    least, driver = float("inf"), float("inf")
    with connect(ClusterSettings(workers=2)) as client:
        for _ in range(_TURNS):
            began, cpu = time.perf_counter(), psutil.Process().cpu_times()
            assert sum(1 for _ in submit_windowed(client, abs, iter(range(_TASKS)))) == _TASKS
            now = psutil.Process().cpu_times()
            least = min(least, time.perf_counter() - began)
            driver = min(driver, now.user + now.system - cpu.user - cpu.system)
    print(
        f"{_TASKS} tasks: {least / _TASKS * 1e3:.2f} ms a task by the clock, "
        f"{driver / _TASKS * 1e3:.2f} ms of CPU in the process of driver and scheduler"
    )


if __name__ == "__main__":
    main()
