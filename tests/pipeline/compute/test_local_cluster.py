"""Local workers: nobody else gets in, nothing of Dask's settings gets in, and failures say why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from pipeline.compute.cluster import Client, ClusterSettings, address_of, connect, workers_of
from pipeline.compute.local_cluster import key_of
from pipeline.compute.submission import submit_windowed
from tests.waiting import PATIENCE_S

STRANGER = """
import asyncio, json, os, socket, sys
from distributed import Client, Security, connect
from distributed.protocol.serialize import to_serialize

address, secret, ports = json.loads(sys.argv[1])
own = Security.temporary()
host, port = address.split("://")[1].rsplit(":", 1)

def leave(path):
    open(path, "w").close()

def submitted(address, security):
    try:
        with Client(address, security=security, timeout="2s", set_as_default=False) as client:
            client.submit(leave, secret).result(timeout=5)
            return "submitted"
    except Exception as error:
        return type(error).__name__

async def sent(address, arguments):
    try:
        comm = await connect(address, timeout=2, **arguments)
        await comm.write({"op": "identity", "reply": True})
        return str(await asyncio.wait_for(comm.read(), 5))
    except Exception as error:
        return type(error).__name__

def answered(port):
    with socket.create_connection((host, port), timeout=5) as plain:
        plain.settimeout(5)
        try:
            plain.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return plain.recv(100).decode("latin-1")
        except OSError as error:
            return ""

# What is imported on the way is read while it can be: the stranger may not read this environment.
for scheme, security in (("tcp", None), ("tls", own)):
    arguments = security.get_connection_args("client") if security else {}
    submitted(f"{scheme}://127.0.0.1:9", security)
    asyncio.run(sent(f"{scheme}://127.0.0.1:9", arguments))
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
said = {
    "account": os.geteuid(),
    "plain client": submitted(f"tcp://{host}:{port}", None),
    "client of its own key": submitted(address, own),
    "messages": {
        port: [
            asyncio.run(sent(f"tcp://{host}:{port}", {})),
            asyncio.run(sent(f"tls://{host}:{port}", own.get_connection_args("client"))),
        ]
        for port in ports
    },
    "pages": {port: answered(port) for port in ports},
}
print(json.dumps(said))
"""


def listening() -> set[int]:
    """Return the TCP ports that this process and its children listen on, on any interface."""
    here = psutil.Process()
    found: list[Any] = []
    for process in (here, *here.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # It has just ended.
            found += (c for c in process.net_connections("inet") if c.status == "LISTEN")
    assert {c.laddr.ip for c in found} <= {"127.0.0.1"}
    return {c.laddr.port for c in found}


def settled() -> set[int]:
    """Return the same once nothing changed for three seconds: other tests' workers may restart."""
    last, since = listening(), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.1)
        now = listening()
        if now != last:
            last, since = now, time.monotonic()
    return last


@pytest.mark.slow
def test_another_account_reaches_no_port_and_can_run_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    secret = tmp_path / "left by the stranger"
    before = settled()
    with connect(ClusterSettings(workers=2)) as client:
        # One for the scheduler, and for each worker its own and its nanny's: no page, no metrics.
        ports = listening() - before
        assert len(ports) == 5
        words = json.dumps([address_of(client), str(secret), sorted(ports)])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", STRANGER, words],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        # The stranger did nobody any harm.
        assert client.submit(abs, -3).result(timeout=PATIENCE_S) == 3
        assert workers_of(client) == 2
    assert not secret.exists()
    assert len(said["messages"]) == 5
    refused = {"OSError", "CommClosedError", "TimeoutError", "SSLError", "FatalCommClosedError"}
    assert {said["plain client"], said["client of its own key"]} <= refused
    assert {answer for both in said["messages"].values() for answer in both} <= refused
    assert not any("HTTP" in page for page in said["pages"].values())
    if os.geteuid() == 0:
        assert said["account"] == 65534


def test_whoever_has_the_key_is_let_in(client: Client) -> None:
    address = address_of(client)
    assert address.startswith("tls://127.0.0.1:")
    assert key_of(address) is not None
    with connect(ClusterSettings(address=address)) as second:
        assert second.submit(abs, -7).result(timeout=PATIENCE_S) == 7


def callbacks(dask_worker: Any) -> dict[str, float]:
    """Return what a worker does again and again, and after how many milliseconds."""
    return {name: each.callback_time for name, each in dask_worker.periodic_callbacks.items()}


def test_workers_that_wait_are_not_woken_more_than_a_few_times_a_second(client: Client) -> None:
    for waiting in client.run(callbacks).values():
        assert "tick" in waiting
        assert "profile" not in waiting
        assert min(waiting.values()) >= 100


def test_the_key_ends_with_the_cluster_and_is_nowhere_to_be_read(client: Client) -> None:
    key = key_of(address_of(client))
    assert key is not None
    secret = key.tls_scheduler_key
    assert "PRIVATE KEY" in secret
    lines = secret.splitlines()[1:-1]
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        shown = ""
        with suppress(psutil.NoSuchProcess):  # It has just ended.
            shown = " ".join(process.cmdline()) + repr(process.environ())
        assert not any(line in shown for line in lines)
    assert secret not in repr(key)
    assert key_of("tls://127.0.0.1:1") is None


def upscale(tmp_path: Path, *before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `upres upscale` on one small picture as a process of its own."""
    from PIL import Image

    (tmp_path / "in").mkdir(exist_ok=True)
    Image.new("RGB", (24, 16), (9, 99, 199)).save(tmp_path / "in" / "a.png")
    words = ["upscale", "in", "job", "--model", "nearest-x2", "--workers", "1"]
    return subprocess.run(
        [*before, sys.executable, "-P", "-c", "from flows.cli import main; main()", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


@pytest.mark.slow
def test_settings_of_dask_that_make_no_sense_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "dask.yaml").write_text(
        "distributed:\n"
        "  worker:\n    preload: [no_such_module]\n    memory: {terminate: 0.0001}\n"
        "  nanny:\n    preload: [no_such_module]\n"
        "  scheduler:\n    worker-ttl: 1ms\n    preload: [no_such_module]\n"
    )
    done = upscale(
        tmp_path,
        DASK_CONFIG=str(tmp_path / "dask.yaml"),
        DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="abc",
        DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME="ucx",
        DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD="fork",
        DASK_SCHEDULER_ADDRESS="tcp://127.0.0.1:9",
        DASK_TEMPORARY_DIRECTORY="/proc/nowhere",
        DASK_DISTRIBUTED__COMM__TLS__CIPHERS="NONE-OF-THEM",
    )
    assert (done.returncode, "1 tile computed" in done.stdout) == (0, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["distributed: [\n", "distributed: {comm: {shard: lots}}\n", "- a\n- b\n", "\x00"]
)
def test_a_malformed_file_of_dasks_settings_is_named_in_one_line(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "cfg").mkdir()
    (tmp_path / "cfg" / "mine.yaml").write_text(content)
    done = upscale(tmp_path, DASK_CONFIG=str(tmp_path / "cfg"))
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("upres: Dask's configuration")
    assert str(tmp_path / "cfg") in lines[0]


@pytest.mark.slow
def test_too_few_open_files_are_called_that(tmp_path: Path) -> None:
    done = upscale(tmp_path, "sh", "-c", 'ulimit -n 40; exec "$@"', "sh")
    assert done.returncode == 1
    assert "40 files" in done.stderr
    assert "ulimit -n" in done.stderr
    assert "memory" not in done.stderr


@pytest.mark.slow
def test_a_soft_limit_of_open_files_is_raised_where_that_is_allowed(tmp_path: Path) -> None:
    done = upscale(tmp_path, "sh", "-c", 'ulimit -S -n 40; exec "$@"', "sh")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        ("mount -t tmpfs -o size=4k none /dev/shm", ["/dev/shm", "semaphores"]),
        ("true", ["127.0.0.1", "loopback"]),
    ],
    ids=["no room in /dev/shm", "no loopback interface"],
)
def test_what_a_bare_container_lacks_is_named(breaking: str, words: list[str]) -> None:
    spaces = ["unshare", "-m" if "mount" in breaking else "-n"]
    if subprocess.run([*spaces, "sh", "-c", breaking], capture_output=True).returncode:
        pytest.skip("this account may not make a namespace of its own")
    # Not in /dev/shm, where other tests may keep their files.
    with TemporaryDirectory(prefix="upres-test-") as folder:
        done = upscale(Path(folder), *spaces, "sh", "-c", f'{breaking}; exec "$@"', "sh")
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert all(word in lines[0] for word in words)
    assert "memory" not in lines[0]


@pytest.mark.slow
def test_a_folder_for_temporary_files_that_cannot_be_written_is_passed_over(
    tmp_path: Path,
) -> None:
    done = upscale(tmp_path, TMPDIR=str(tmp_path / "missing"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_modules_in_the_working_folder_break_no_worker(tmp_path: Path) -> None:
    for name in ("select.py", "random.py", "numpy.py", "models.py"):
        (tmp_path / name).write_text("raise SystemExit('mine')\n")
    done = upscale(tmp_path)
    assert done.returncode == 0, done.stderr


def double(number: int) -> int:
    return 2 * number


@pytest.mark.slow
def test_the_environment_of_this_process_is_as_it_was_after_a_cluster() -> None:
    names = ("PYTHONSAFEPATH", "UPRES_WORKER_THREADS", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX")
    names += ("PYTHONHASHSEED",)
    before: dict[str, Any] = {name: os.environ.get(name) for name in names}
    with connect(ClusterSettings(workers=1)) as client:
        outcomes = list(submit_windowed(client, double, range(20)))
        assert sorted(o.result or 0 for o in outcomes) == [2 * n for n in range(20)]
        address = address_of(client)
    assert {name: os.environ.get(name) for name in names} == before
    assert key_of(address) is None
