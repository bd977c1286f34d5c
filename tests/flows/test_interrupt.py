"""Ctrl-C, kill -9 and dying workers: the status stays true and the same command finishes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import pytest

from pipeline.jobs.job import open_job
from tests.gates import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Command, SavePicture, TakePhoto

pytestmark = pytest.mark.slow

UNITS = 24
FREE = 4
"""How many tiles are done when a test strikes; the others wait until it lets them."""
PATIENCE_S = 600


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto, save: SavePicture) -> Path:
    """Two pictures of many tiles."""
    folder = tmp_path_factory.mktemp("interrupt") / "source"
    for n in range(2):
        save(folder / f"{n}.png", photo(256, 192, at=n))
    return folder


def words(source: Path, job: Path) -> list[str]:
    # With such a halo, each tile is a task of its own.
    tiles = ["--tile", "64", "--halo", "150", "--precision", "fp32", "--device", "cpu"]
    return ["upscale", str(source), str(job), "--model", "bicubic-x2", *tiles]


@dataclass(frozen=True)
class Driver:
    """An `upres upscale` that runs in a process group of its own."""

    process: subprocess.Popen[str]
    job: Path
    log: Path
    gate: Gate

    def done(self) -> dict[tuple[str, int], float]:
        """Return when each shard was written whose unit the ledger holds as done."""
        if not (self.job / "sr.zarr").exists():
            return {}
        ledger = open_job(self.job).open_ledger()
        rows = ledger.done_units()
        ledger.close()
        return {(row.item, row.number): self._written_at(row.item, row.number) for row in rows}

    def _written_at(self, item: str, tile: int) -> float:
        row, col = divmod(tile, 3)
        return (self.job / "sr.zarr" / item / "0/c/0" / str(row) / str(col)).stat().st_mtime

    def wait_until(self, true: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not true():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.2)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that compute, and not the one that they are forked from."""
        server = self.server()
        return [] if server is None else server.children()

    def server(self) -> psutil.Process | None:
        family = psutil.Process(self.process.pid).children()
        return next((one for one in family if "forkserver" in " ".join(one.cmdline())), None)

    def interrupt(self) -> None:
        """Press Ctrl-C: a terminal sends it to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def finish(self) -> tuple[int, Any]:
        """Wait for the end; return the exit code and the document that was printed."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in self.log.read_text()
        return self.process.returncode, json.loads(out) if out else None


@contextmanager
def started(words: list[str], job: Path, *, free: int = FREE, first: str = "") -> Iterator[Driver]:
    """Start a command on two workers of its own, which do so many tasks and wait at the gate."""
    log, gate = job.with_suffix(".log"), Gate(job.with_suffix(".gate"), free)
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*gate.command(first=first), *words, "--workers", "2", "--json"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=gate.environment(),
        ) as process,
    ):
        driver = Driver(process, job, log, gate)
        try:
            yield driver
        finally:
            if process.poll() is None:
                for child in driver.workers():
                    child.kill()
                process.kill()


@pytest.fixture(scope="module")
def undisturbed(
    source: Path,
    tmp_path_factory: pytest.TempPathFactory,
    upres: Command,
    cluster: tuple[str, str],
) -> dict[str, str]:
    """The SR archive of a run that nothing disturbed."""
    job = tmp_path_factory.mktemp("undisturbed") / "job"
    said = upres(*words(source, job), *cluster, "--json")
    assert (said.code, said.document["computed_units"]) == (0, UNITS)
    return content(job)


def content(job: Path) -> dict[str, str]:
    """Return path -> hash of every file of the SR archive."""
    archive = job / "sr.zarr"
    return {
        path.relative_to(archive).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in archive.rglob("*")
        if path.is_file()
    }


def gone(processes: list[psutil.Process], within_s: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


class Continues(Protocol):
    def __call__(self, job: Path, done: int) -> None: ...


@pytest.fixture
def continues(
    source: Path, undisturbed: dict[str, str], upres: Command, cluster: tuple[str, str]
) -> Continues:
    """The same command computes exactly what was pending, and the bytes are those of one run."""

    def check(job: Path, done: int) -> None:
        said = upres(*words(source, job), *cluster, "--json")
        assert (said.code, said.document["computed_units"]) == (0, UNITS - done)
        assert said.document["units"] == {"done": UNITS, "failed": 0, "pending": 0}
        assert content(job) == undisturbed

    return check


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_finishes_what_is_in_flight_and_the_same_command_the_rest(
    number: signal.Signals,
    source: Path,
    tmp_path: Path,
    continues: Continues,
    upres: Command,
) -> None:
    job = tmp_path / "job"
    with started(words(source, job), job) as driver:
        driver.wait_until(driver.done)
        if number == signal.SIGINT:
            driver.interrupt()
        else:
            driver.process.send_signal(number)
        driver.wait_until(lambda: "finishing the work in progress" in driver.log.read_text())
        driver.gate.open()
        code, document = driver.finish()
    assert code == 130
    assert f"{number.name}: finishing the work in progress" in driver.log.read_text()
    units = document["units"]
    assert units["failed"] == 0
    assert 0 < units["done"] < UNITS
    assert document["computed_units"] == units["done"] == len(driver.done())
    status = upres("status", job, "--json")
    assert status.code == 0
    assert status.document["runs"][-1]["outcome"] == "stopped"
    assert status.document["units"]["done"] == units["done"]
    continues(job, units["done"])


def test_a_second_interrupt_ends_at_once(
    source: Path, tmp_path: Path, continues: Continues, upres: Command
) -> None:
    job = tmp_path / "job"
    with started(words(source, job), job) as driver:
        driver.wait_until(driver.done)
        workers = driver.workers()
        driver.interrupt()
        driver.wait_until(lambda: "finishing the work in progress" in driver.log.read_text())
        driver.interrupt()
        code, document = driver.finish()
    assert code == 130
    assert document is None
    assert driver.log.read_text().splitlines()[-1].startswith("upres: interrupted")
    assert gone(workers, within_s=PATIENCE_S)
    assert upres("status", job, "--json").document["runs"][-1]["outcome"] == "stopped"
    continues(job, len(driver.done()))


def test_a_killed_driver_takes_its_workers_along_and_no_recorded_tile_is_done_twice(
    source: Path, tmp_path: Path, continues: Continues, upres: Command
) -> None:
    job = tmp_path / "job"
    with started(words(source, job), job) as driver:
        driver.wait_until(driver.done)
        server, workers = driver.server(), driver.workers()
        assert server is not None
        assert len(workers) == 2
        driver.process.kill()
        driver.process.wait(timeout=PATIENCE_S)
        assert gone([server, *workers], within_s=PATIENCE_S)
    recorded = driver.done()
    assert 0 < len(recorded) < UNITS
    status = upres("status", job, "--json").document["units"]
    assert status["done"] == len(recorded)
    assert status["failed"] == 0
    continues(job, len(recorded))
    again = driver.done()
    assert {unit: again[unit] for unit in recorded} == recorded


def test_a_killed_worker_costs_no_tile(
    source: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    job = tmp_path / "job"
    with started(words(source, job), job) as driver:
        driver.wait_until(driver.done)
        killed = driver.workers()[0]
        killed.kill()
        assert gone([killed], within_s=PATIENCE_S)
        driver.gate.open()
        code, document = driver.finish()
    assert code == 0, driver.log.read_text()
    assert document["units"] == {"done": UNITS, "failed": 0, "pending": 0}
    assert document["failures"] == []
    assert content(job) == undisturbed
