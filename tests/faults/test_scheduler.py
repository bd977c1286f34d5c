"""A scheduler that is killed in mid-run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tornado.tcpclient import TCPClient

from pipeline.compute.cluster import join
from pipeline.compute.submission import submit_windowed
from pipeline.errors import ClusterError
from tests.ports import free_port
from tests.waiting import PATIENCE_S, await_workers, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Command, Digest, SavePicture

pytestmark = pytest.mark.slow

UPRES = [sys.executable, "-c", "from flows.cli import main; main()"]
UNITS = 3 * 256


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and one worker as processes of their own, on the loopback interface."""
    address = f"tcp://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    dask = [sys.executable, "-m", "dask"]
    with (tmp_path / "dask.log").open("wb") as log:
        parts = [
            subprocess.Popen(words, stdout=log, stderr=log)
            for words in (
                [*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"],
                [*dask, "worker", address, "--no-dashboard", "--death-timeout", "600"],
            )
        ]
        try:
            await_workers(address)
            yield address, parts[0]
        finally:
            for part in parts:
                part.send_signal(signal.SIGTERM)
            for part in parts:
                part.wait(timeout=120)


def test_a_killed_scheduler_ends_the_command_in_one_line_and_loses_nothing(
    scheduler: tuple[str, subprocess.Popen[bytes]],
    tmp_path: Path,
    save: SavePicture,
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
) -> None:
    address, process = scheduler
    noise = np.random.default_rng(0)
    for n in range(3):
        pixels = noise.integers(0, 256, (3, 512, 512), dtype=np.uint8)
        save(tmp_path / "in" / f"{n}.png", pixels)
    job = tmp_path / "job"
    words = ["upscale", str(tmp_path / "in"), str(job), "--model", "lanczos", "--tile", "32"]
    run = subprocess.Popen(
        [*UPRES, *words, "--cluster", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_shards(job / "sr.zarr", run)
    process.kill()
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 1
    assert "Traceback" not in err.rpartition("upres:")[2]
    assert "is gone" in err.rpartition("upres:")[2]
    status = upres("status", job, "--json")
    units = status.document["units"]
    assert (status.code, units["failed"]) == (0, 0)
    assert 0 < units["done"] <= _tiles(job / "sr.zarr") < UNITS
    again = upres(*words, *cluster, "--json")
    assert again.code == 0
    assert again.document["units"] == {"done": UNITS, "failed": 0, "pending": 0}
    assert again.document["computed_units"] == units["pending"]
    undisturbed = tmp_path / "undisturbed"
    assert upres(*(undisturbed if w == str(job) else w for w in words), *cluster).code == 0
    assert digest(job / "sr.zarr") == digest(undisturbed / "sr.zarr")


def test_what_a_broken_handshake_raises_takes_the_place_of_no_reason(
    scheduler: tuple[str, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client of a scheduler that dies in a handshake raises the same again as it is closed."""

    async def shake(*_: object, **__: object) -> None:
        raise ValueError("IOStream is not idle; cannot convert to SSL")

    address, process = scheduler
    with pytest.raises(ClusterError, match="scheduler is gone"), join(address) as client:  # noqa: PT012
        monkeypatch.setattr(TCPClient, "connect", shake)
        process.kill()
        list(submit_windowed(client, time.sleep, [60]))
    assert "could not be closed: IOStream is not idle" in caplog.text


def _tiles(archive: Path) -> int:
    return len(list(archive.glob("*/0/c/0/*/*")))


def _wait_for_shards(archive: Path, run: subprocess.Popen[str]) -> None:
    """Wait until a few tiles were written, so that the run is in its midst."""
    until(lambda: _tiles(archive) > 64 or run.poll() is not None, every_s=0.05)
    assert run.poll() is None, f"it ended with exit code {run.poll()}"
