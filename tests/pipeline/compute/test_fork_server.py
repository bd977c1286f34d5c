"""Forked workers: they share what is imported, and have the environment of who starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.compute import fork_server
from pipeline.compute.fork_server import _OWN_PLACE as WANTED

ROOT = Path(fork_server.__file__).parents[2]

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
        "found upres at": str(Path(sys.modules["pipeline.jobs.upscale.worker"].__file__).parents[3])
            if "pipeline.jobs.upscale.worker" in sys.modules else "",
        "told": "UPRES_FORKED_FROM" in os.environ,
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
    assert all(worker["found upres at"] == str(ROOT) for worker in workers)
    assert not any(worker["told"] for worker in workers)
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
        assert worker["found upres at"] == ""
        assert worker["environment"]["LATER"] == "yes"
    assert {worker["hash"] for worker in found[cluster]} == {found["first"][0]["hash"]}


@pytest.mark.parametrize(("name", "theirs"), [("pipeline", True), ("models", True), ("", False)])
def test_nothing_is_imported_of_another_upres_than_the_one_that_starts_the_server(
    name: str, theirs: bool, tmp_path: Path
) -> None:
    path = [str(ROOT)]
    if theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        path.insert(0, str(tmp_path))
    script = "import upres_forked, sys; print({'pipeline', 'models'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            WANTED: str(ROOT if theirs else tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_where_no_server_can_be_started_workers_are_spawned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_long() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(fork_server, "_STARTED_WITH", {})
    monkeypatch.setattr(fork_server.forkserver, "ensure_running", too_long)
    assert fork_server.starting_method(2) == "spawn"
    assert fork_server._STARTED_WITH == {}
