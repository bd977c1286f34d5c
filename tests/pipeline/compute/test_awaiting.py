"""A run that nobody stands by waits for a scheduler that comes late, and not for ever."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from pipeline.compute.awaiting import await_scheduler
from pipeline.compute.cluster import ClusterSettings
from tests.ports import free_port


@pytest.mark.slow
def test_a_scheduler_that_comes_up_later_is_waited_for_and_that_is_said_once() -> None:
    port, heard = free_port(), []
    started: list[subprocess.Popen[bytes]] = []
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
               "--port", str(port), "--no-dashboard"]  # fmt: skip

    def waits() -> None:
        heard.append(1)
        started.append(subprocess.Popen(command))

    began = time.monotonic()
    try:
        address = f"tcp://127.0.0.1:{port}"
        await_scheduler(ClusterSettings(address=address), within_s=300, waits=waits)
        assert time.monotonic() - began < 290
        with socket.create_connection(("127.0.0.1", port)):
            assert heard == [1]
    finally:
        for process in started:
            process.terminate()
            process.wait(120)


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
    await_scheduler(settings, within_s=300, waits=lambda: heard.append(1))
    assert time.monotonic() - began < 10
    assert heard == []
