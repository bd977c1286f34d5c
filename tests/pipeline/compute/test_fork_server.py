"""Forked workers: they share what is imported, and have the environment of who starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from pipeline.compute import fork_server

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")

LOOK = """
import json, os, signal, sys
from pathlib import Path
import psutil
from pipeline.compute.cluster import ClusterSettings, connect

NAMES = ("OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "UPRES_WORKER_THREADS", "LATER")

def look():
    here = psutil.Process()
    return {
        "pid": here.pid,
        "parent": here.ppid(),
        "has torch": "torch" in sys.modules,
        "environment": {name: os.environ.get(name) for name in NAMES},
        "hash": hash("upres"),
        "Ctrl-C is ignored": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    }

def of_workers(count):
    with connect(ClusterSettings(workers=count)) as client:
        return list(client.run(look).values())

with connect(ClusterSettings(workers=2)) as client:
    first = list(client.run(look).values())
    server = psutil.Process(first[0]["parent"])
    about = {
        "pid": server.pid,
        "threads": server.num_threads(),
        "devices": [name for name in os.listdir("/dev") if name.startswith("nvidia")
                    and f"/dev/{name}" in Path(f"/proc/{server.pid}/maps").read_text()],
        "environment": {name: server.environ().get(name) for name in NAMES},
    }
    os.kill(first[0]["pid"], signal.SIGKILL)
    # The scheduler misses the one that was killed before the one that takes its place comes.
    while first[0]["pid"] in {child.pid for child in server.children()}:
        pass
    while len(server.children()) < 2:
        pass
    client.wait_for_workers(2)
    again = [one for one in client.run(look, on_error="ignore").values()]
found = {"driver": os.getpid(), "server": about, "first": first, "again": again}
found["second"] = of_workers(2)
os.environ["LATER"] = "yes"
found["later"], found["one"] = of_workers(2), of_workers(1)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> Any:
    """What workers of clusters that one process starts, one after the other, say of themselves."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return json.loads(done.stdout)


@linux
@pytest.mark.slow
def test_the_server_starts_no_thread_and_opens_no_gpu(found: Any) -> None:
    # OpenBLAS has a thread for each further core that a worker may use, and ends it to fork.
    assert found["server"]["threads"] <= int(found["server"]["environment"]["OMP_NUM_THREADS"])
    assert found["server"]["devices"] == []


@linux
@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["first", "again", "second"])
def test_workers_are_forked_also_for_those_that_died_and_for_the_next_cluster(
    found: Any, cluster: str
) -> None:
    workers = found[cluster]
    assert len(workers) == 2
    assert {worker["parent"] for worker in workers} == {found["server"]["pid"]}
    assert all(worker["has torch"] for worker in workers)
    assert all(worker["Ctrl-C is ignored"] for worker in workers)
    assert len({worker["hash"] for worker in workers}) == 1


@linux
@pytest.mark.slow
def test_what_is_read_as_a_process_starts_is_in_the_environment_of_the_server(found: Any) -> None:
    assert found["server"]["environment"]["MALLOC_ARENA_MAX"] == "2"
    for worker in found["first"]:
        assert worker["environment"] == found["server"]["environment"]


@linux
@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["later", "one"])
def test_workers_of_another_environment_and_one_alone_are_spawned(found: Any, cluster: str) -> None:
    for worker in found[cluster]:
        assert worker["parent"] == found["driver"]
        assert worker["environment"]["LATER"] == "yes"
    assert {worker["hash"] for worker in found[cluster]} == {found["first"][0]["hash"]}


def test_where_no_server_can_be_started_workers_are_spawned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_long() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(fork_server, "_STARTED_WITH", {})
    monkeypatch.setattr(fork_server.forkserver, "ensure_running", too_long)
    assert fork_server.starting_method(2) == "spawn"
    assert fork_server._STARTED_WITH == {}
