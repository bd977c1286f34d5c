"""The figures of runs at a real Dask scheduler, scraped over HTTP and compared with the ledger."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from pipeline.compute.cluster import ClusterSettings, connect
from pipeline.compute.metrics import STAGES, count_units
from tests.ports import free_port
from tests.waiting import PATIENCE_S, await_workers, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.conftest import Command, SavePicture, TakePhoto

pytestmark = pytest.mark.slow

DASK = [sys.executable, "-m", "dask"]
SAMPLE = re.compile(r"^(upres_\w+)(?:\{(\w+)=\"(\w+)\"\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Cluster:
    """A scheduler and a worker as processes of their own, and where each shows its metrics."""

    address: str
    pages: tuple[str, str]

    def figures(self) -> dict[tuple[str, str], float]:
        """Return what Prometheus would add up over both: each figure by its name and label."""
        sums: dict[tuple[str, str], float] = {}
        for page in self.pages:
            for name, _, label, value in SAMPLE.findall(fetch(page)):
                sums[name, label] = sums.get((name, label), 0.0) + float(value)
        return sums


def fetch(page: str) -> str:
    with urlopen(page, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


@contextmanager
def started(folder: Path, *preloaded: str, **environment: str) -> Iterator[Cluster]:
    port, *boards = (free_port() for _ in range(3))
    address = f"tcp://127.0.0.1:{port}"
    at = [f"127.0.0.1:{board}" for board in boards]
    words = (
        ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", at[0],
         *preloaded],
        ["worker", address, "--host", "127.0.0.1", "--nthreads", "2", "--no-nanny",
         "--dashboard-address", at[1], "--death-timeout", "600"],
    )  # fmt: skip
    with running(folder, words, **environment):
        await_workers(address)
        yield Cluster(address, (f"http://{at[0]}/metrics", f"http://{at[1]}/metrics"))


@contextmanager
def running(folder: Path, parts: Iterable[list[str]], **environment: str) -> Iterator[None]:
    """Run a scheduler and then a worker, each by its words after ``dask``."""
    with (folder / "dask.log").open("wb") as log:
        processes = [
            subprocess.Popen(
                [*DASK, *words],
                cwd=folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
            for words in parts
        ]
    try:
        yield
    finally:
        # The worker first: one that says farewell to nobody takes its time.
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=120)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster


def added(before: dict[Any, float], after: dict[Any, float]) -> dict[Any, float]:
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def break_item(folder: Path, item: str) -> None:
    """Damage what an LR archive holds of an item, as a bad disk would."""
    chunks = [path for path in (folder / item / "0" / "c").rglob("*") if path.is_file()]
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(b"no chunk")


def units(result: str) -> tuple[str, str]:
    return "upres_units_total", result


def seconds(stage: str) -> tuple[str, str]:
    return "upres_stage_seconds_total", stage


PIXELS = ("upres_pixels_total", "")


def test_units_and_pixels_are_those_of_the_ledger_also_where_some_fail(
    dask: Cluster, tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command
) -> None:
    cluster = ("--cluster", dask.address)
    words = (tmp_path / "lr.zarr", tmp_path / "job", "--model", "bicubic-x2", "--tile", 32)
    save(tmp_path / "in" / "a.png", photo(70, 81))
    save(tmp_path / "in" / "b.png", photo(33, 64, at=40))
    assert upres("ingest", tmp_path / "in", words[0], *cluster).code == 0
    whole = (tmp_path / "lr.zarr").with_name("whole.zarr")
    shutil.copytree(words[0], whole)
    break_item(words[0], "b.png")
    before = dask.figures()

    first = upres("upscale", *words, *cluster, "--json")
    counted = added(before, dask.figures())
    assert first.code == 3
    assert first.document["units"] == {"done": 9, "failed": 4, "pending": 0}
    assert (counted[units("done")], counted[units("failed")]) == (9, 4)
    assert counted[PIXELS] == 4 * 70 * 81

    shutil.copytree(whole, words[0], dirs_exist_ok=True)
    again = upres("rerun", tmp_path / "job", *cluster, "--json")
    counted = added(before, dask.figures())
    assert (again.code, again.document["computed_units"]) == (0, 4)
    assert (counted[units("done")], counted[units("failed")]) == (9 + 4, 4)
    assert counted[PIXELS] == 4 * (70 * 81 + 33 * 64)

    assert upres("upscale", *words, *cluster, "--json").document["computed_units"] == 0
    assert added(before, dask.figures())[PIXELS] == counted[PIXELS]


def test_each_stage_has_its_seconds(
    dask: Cluster, tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command
) -> None:
    save(tmp_path / "in" / "a.png", photo(40, 40))
    job, cluster = tmp_path / "job", ("--cluster", dask.address)
    words = (tmp_path / "in", job, "--model", "bicubic-x2", *cluster, "--export", tmp_path / "out")
    before, began = dask.figures(), time.monotonic()
    assert upres("upscale", *words).code == 0
    assert upres("score", job, *cluster).code == 0
    passed, counted = time.monotonic() - began, added(before, dask.figures())
    stages = {stage: counted[seconds(stage)] for stage in STAGES}
    assert stages.pop("prepare") == 0
    assert min(stages.values()) > 0
    assert sum(stages.values()) < passed
    assert added(before, dask.figures()) == counted


def test_a_damaged_shard_that_scoring_meets_counts_as_failed(
    dask: Cluster, tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command
) -> None:
    save(tmp_path / "in" / "a.png", photo(40, 40))
    job, cluster = tmp_path / "job", ("--cluster", dask.address)
    assert upres("upscale", tmp_path / "in", job, "--model", "bicubic-x2", *cluster).code == 0
    before = dask.figures()
    break_item(job / "sr.zarr", "a.png")
    assert upres("score", job, *cluster).code == 3
    counted = added(before, dask.figures())
    assert counted[units("failed")] == upres("status", job, "--json").document["units"]["failed"]
    assert counted[units("failed")] == 1


def test_seconds_pass_while_a_stage_runs_and_end_when_its_driver_is_killed(dask: Cluster) -> None:
    before = dask.figures().get(seconds("upscale"), 0.0)
    script = f"""
import time
from pipeline.compute.cluster import Client, ClusterSettings, connect
from pipeline.compute.metrics import seconds_of
with connect(ClusterSettings(address={dask.address!r})) as client, seconds_of(client, "upscale"):
    print("begun", flush=True)
    time.sleep(600)
"""
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "begun\n"
    first = wait_for(lambda: dask.figures()[seconds("upscale")], above=before)
    wait_for(lambda: dask.figures()[seconds("upscale")], above=first)
    driver.kill()
    driver.communicate()

    def stands() -> bool:
        last = dask.figures()[seconds("upscale")]
        time.sleep(0.2)
        return dask.figures()[seconds("upscale")] == last

    until(stands, "the clock of a driver that was killed still runs", every_s=0.0)


def wait_for(figure: Callable[[], float], *, above: float) -> float:
    until(lambda: figure() > above, every_s=0.1)
    return figure()


def test_preloaded_all_figures_are_there_before_the_first_run(tmp_path: Path) -> None:
    with started(tmp_path, "--preload", "pipeline.compute.metrics") as cluster:
        assert cluster.figures() == {
            PIXELS: 0,
            units("done"): 0,
            units("failed"): 0,
            **{seconds(stage): 0 for stage in STAGES},
        }
        with connect(ClusterSettings(address=cluster.address)) as client:
            count_units(client, done=2, failed=1, pixels=2**53 - 1)
        figures = cluster.figures()
        assert (figures[units("done")], figures[units("failed")]) == (2, 1)
        assert figures[PIXELS] == 2**53 - 1


def test_without_prometheus_client_a_cluster_works_as_ever(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command
) -> None:
    lacking = "import sys\nsys.modules['prometheus_client'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(lacking)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    save(tmp_path / "in" / "a.png", photo(40, 40))
    with started(tmp_path, PYTHONPATH=path) as cluster:
        words = ("--model", "bicubic-x2", "--cluster", cluster.address, "--json")
        done = upres("upscale", tmp_path / "in", tmp_path / "job", *words)
        assert "not available" in fetch(cluster.pages[0])
    assert (done.code, done.document["units"]["done"]) == (0, 1)


def test_the_cluster_of_the_page_about_operations_shows_the_figures_from_the_start(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command
) -> None:
    lines = (Path(__file__).parents[3] / "docs" / "operations.md").read_text().splitlines()
    scheduler, worker = (
        next(line.split()[2:] for line in lines if line.startswith(f"dask {part} "))
        for part in ("scheduler", "worker")
    )
    ports = {port: str(free_port()) for port in ("8786", "8787", "8788")}
    with running(
        tmp_path, [["scheduler", *of_ports(scheduler, ports)], ["worker", *of_ports(worker, ports)]]
    ):
        address = f"tcp://127.0.0.1:{ports['8786']}"
        await_workers(address)
        pages = [f"http://127.0.0.1:{ports[port]}/metrics" for port in ("8787", "8788")]
        cluster = Cluster(address, (pages[0], pages[1]))
        assert cluster.figures()[units("failed")] == 0
        save(tmp_path / "in" / "a.png", photo(40, 40))
        words = ("upscale", tmp_path / "in", tmp_path / "job", "--model", "bicubic-x2")
        assert upres(*words, "--cluster", address).code == 0
        assert cluster.figures()[PIXELS] == 4 * 40 * 40


def of_ports(words: list[str], ports: dict[str, str]) -> list[str]:
    return [re.sub("878[678]", lambda found: ports[found[0]], word) for word in words]
