"""A run that nobody stands by waits for a scheduler that comes late, and not for ever."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from threading import Timer

import pytest

from pipeline.compute.awaiting import await_scheduler
from pipeline.compute.cluster import ClusterSettings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_scheduler_that_comes_up_later_is_waited_for_and_that_is_said_once() -> None:
    port, heard, started = free_port(), [], []
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
               "--port", str(port), "--no-dashboard"]  # fmt: skip
    timer = Timer(3, lambda: started.append(subprocess.Popen(command)))
    timer.start()
    began = time.monotonic()
    try:
        await_scheduler(
            ClusterSettings(address=f"tcp://127.0.0.1:{port}"),
            within_s=60,
            waits=lambda: heard.append(1),
        )
        assert 3 < time.monotonic() - began < 50
        assert heard == [1]
    finally:
        timer.join()
        for process in started:
            process.terminate()
            process.wait(30)


def test_waiting_has_an_end() -> None:
    heard: list[int] = []
    began = time.monotonic()
    settings = ClusterSettings(address=f"tcp://127.0.0.1:{free_port()}")
    await_scheduler(settings, within_s=0.5, waits=lambda: heard.append(1))
    assert time.monotonic() - began < 8
    assert heard == [1] or heard == []


@pytest.mark.parametrize("address", ["local", "nonsense://127.0.0.1:1", "tls://127.0.0.1:1"])
def test_what_waiting_cannot_mend_is_left_to_connecting(address: str) -> None:
    heard: list[int] = []
    began = time.monotonic()
    settings = ClusterSettings(address=address)
    await_scheduler(settings, within_s=60, waits=lambda: heard.append(1))
    assert time.monotonic() - began < 10
    assert heard == []
