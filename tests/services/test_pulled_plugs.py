"""Plugs pulled in the middle of a night: what goes on by itself, and what the next one does."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from flows import run_listening
from flows.nightly import nightly
from flows.tasks import ingest_pictures, report_job, score_tiles, upscale_tiles
from pipeline.compute.status import read_status
from pipeline.jobs.job import open_job
from tests.services.nights import Night, paused
from tests.waiting import PATIENCE_S, await_workers, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Command, Digest, SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]

PICTURES, TILES, TILE_PX = 5, 100, 16
"""So many pictures of so many tiles each."""


def tiles_of(job: Path) -> int:
    return len(list((job / "sr.zarr").glob("*/0/c/0/*/*")))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto, save: SavePicture) -> Path:
    folder, side = tmp_path_factory.mktemp("photos"), TILE_PX * math.isqrt(TILES)
    for n in range(PICTURES):
        save(folder / f"{n}.png", photo(side, side, at=20 * n))
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, pictures: Path, upres: Command, digest: Digest,
    cluster: tuple[str, str],
) -> dict[str, str]:  # fmt: skip
    """What a run writes that nobody disturbs."""
    job = tmp_path_factory.mktemp("undisturbed") / "job"
    words = ("--model", "lanczos-x2", "--tile", TILE_PX, "--device", "cpu", "--precision", "fp32")
    assert upres("upscale", pictures, job, *words, *cluster).code == 0
    return digest(job / "sr.zarr")


def is_asked_to_end(process: psutil.Process) -> bool:
    """Return whether SIGTERM waits for a process that is paused."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (waiting,) = re.findall(r"^ShdPnd:\s+(\w+)$", status, re.MULTILINE)
    return bool(int(waiting, 16) & 1 << (signal.SIGTERM - 1))


def test_a_night_that_is_cancelled_ended_or_killed_is_continued_by_the_next_to_the_same_bytes(
    tmp_path: Path,
    pictures: Path,
    named_cluster: dict[str, str],
    digest: Digest,
    undisturbed: dict[str, str],
) -> None:
    night, job = Night(tmp_path), tmp_path / "job"
    asked = {
        "src": str(pictures), "job_dir": str(job), "model": "lanczos-x2",
        "tile_px": TILE_PX, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    with night.served() as serving:
        serving.ready()

        def begun() -> tuple[str, psutil.Process]:
            """Begin a run, and return its name and process once it wrote a few more tiles."""
            before = tiles_of(job)
            process = night.process_of(run := night.begin(parameters=asked | {"workers": 1}))
            until(
                lambda: tiles_of(job) > before + 16 or not process.is_running(),
                serving.log,
                every_s=0.1,
            )
            return run, process

        def ended(run: str) -> bool:
            return night.run(run)["state_type"] not in (
                "SCHEDULED", "PENDING", "RUNNING", "CANCELLING",
            )  # fmt: skip

        for how, kind in ("cancel", "CANCELLED"), (signal.SIGTERM, "CRASHED"), (
            signal.SIGKILL, "CRASHED",
        ):  # fmt: skip
            run, process = begun()
            family = [process, *process.children(recursive=True)]
            if isinstance(how, str):
                # Prefect takes some seconds to cancel a run, which must not end meanwhile.
                with paused(process):
                    state = {"state": {"type": "CANCELLING"}}
                    night.api(f"flow_runs/{run}/set_state", state)
                    until(lambda process=process: is_asked_to_end(process), every_s=0.1)
            else:
                process.send_signal(how)
            until(lambda run=run: ended(run), serving.log)
            assert night.run(run)["state_type"] == kind, serving.said
            _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
            assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
            assert tiles_of(job) < PICTURES * TILES
        last = night.begin(parameters=asked | named_cluster)
        until(lambda: ended(last), serving.log)
        assert night.run(last)["state_name"] == "Completed", serving.said
        assert night.runs(state={"type": {"any_": ["RUNNING", "CANCELLING"]}}) == []
    ledger = open_job(job).open_ledger_to_read()
    status = read_status(job, ledger)
    ledger.close()
    assert status.units == {"done": PICTURES * TILES, "failed": 0, "pending": 0}
    assert digest(job / "sr.zarr") == undisturbed


class Dask:
    """A scheduler and a worker of a remote cluster, as processes that can be started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.address, self.log = f"tcp://127.0.0.1:{port}", folder / "dask.log"
        self.parts: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        with self.log.open("ab") as log:
            self.parts = [
                subprocess.Popen([sys.executable, "-m", "dask", *words], stdout=log, stderr=log)
                for words in (
                    ["scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"],
                    ["worker", self.address, "--no-nanny", "--no-dashboard", "--death-timeout=600"],
                )
            ]

    def kill(self) -> None:
        for part in self.parts:
            part.kill() if part is self.parts[0] else part.terminate()
        for part in self.parts:
            part.wait(timeout=120)


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    made = Dask(tmp_path, Night(tmp_path).port)
    try:
        await_workers(made.address)
        yield made
    finally:
        made.kill()


@pytest.mark.usefixtures("api")
def test_a_flow_goes_on_by_itself_once_its_dask_scheduler_is_back_at_the_same_address(
    dask: Dask, tmp_path: Path, pictures: Path, digest: Digest, undisturbed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    delays = [1, 10, 30, 60, 60, 60]
    for one in (ingest_pictures, upscale_tiles, score_tiles, report_job):
        monkeypatch.setattr(one, "retry_delay_seconds", delays)
        monkeypatch.setattr(one, "retries", len(delays))
    job = tmp_path / "job"
    asked = {
        "src": str(pictures), "model": "lanczos-x2", "tile_px": TILE_PX, "device": "cpu",
        "precision": "fp32",
    }  # fmt: skip
    seen: list[int] = []

    @contextmanager
    def moving(_job: Path, stage: str) -> Iterator[Callable[[int, int], None]]:
        def hear(done: int, _total: int) -> None:
            # The flow waits meanwhile, and hands over no more tiles.
            if stage == "upscale" and done > 64 and not seen:
                dask.kill()
                seen.append(tiles_of(job))
                dask.start()

        yield hear

    with monkeypatch.context() as patch:
        patch.setattr(run_listening, "moving", moving)
        state = nightly(**asked, job_dir=job, cluster=dask.address, return_state=True)
    assert 64 < seen[0] < PICTURES * TILES
    assert state.name == "Completed", state.message
    document: dict[str, Any] = state.result()
    assert document["units"] == {"done": PICTURES * TILES, "failed": 0, "pending": 0}
    # Of both attempts: what the first one recorded, the second one left alone.
    assert document["computed_units"] == PICTURES * TILES
    assert digest(job / "sr.zarr") == undisturbed
