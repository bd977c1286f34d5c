"""The same job on real clusters, with a plug pulled in each: the same bytes as on this machine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Security

from pipeline.compute.cluster import connect, workers_of
from pipeline.compute.clusters import ssh
from pipeline.compute.request import WorkersRequest
from pipeline.errors import ClusterError, UsageError
from pipeline.jobs.listener import JobListener
from pipeline.jobs.perform import upscale_job
from pipeline.jobs.request import UpscaleRequest
from pipeline.tables import toml_lines
from tests.ports import free_port
from tests.services import slurm, sshd
from tests.waiting import PATIENCE_S, await_workers, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.jobs.results import JobResult
    from pipeline.jobs.upscale.stage import UpscaleProgress
    from tests.conftest import Digest, SavePicture, TakePhoto, Upscale
    from tests.services.slurm import Slurm
    from tests.services.sshd import Sshd

pytestmark = [pytest.mark.services, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
MODEL, TILE_PX, SIDE_PX, PICTURES = "span-x2", 32, 64, 6
ENVIRONMENT = {"PYTHONPATH": str(ROOT)}


class Pulling(JobListener):
    """Pulls a plug once, after the first tile."""

    def __init__(self, pull: Callable[[], None]) -> None:
        self._pull = pull
        self.pulled_at = 0

    @contextmanager
    def upscaling(self) -> Iterator[Callable[[UpscaleProgress], None]]:
        yield self._hear

    def _hear(self, progress: UpscaleProgress) -> None:
        if progress.units_done and not self.pulled_at:
            self.pulled_at = progress.units_done
            self._pull()


@pytest.fixture
def photos(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    for n in range(PICTURES):
        save(tmp_path / "photos" / f"{n}.png", photo(SIDE_PX, SIDE_PX + n, at=40 * n))
    return tmp_path / "photos"


@pytest.fixture
def on_this_machine(photos: Path, tmp_path: Path, upscale: Upscale, digest: Digest) -> Any:
    """The bytes of the job as local workers compute it."""
    upscale(photos, tmp_path / "local", model=MODEL, tile_px=TILE_PX, precision="auto")
    return digest(tmp_path / "local" / "sr.zarr")


@pytest.fixture
def clusters(tmp_path: Path) -> Callable[..., Path]:
    """Write the description of the cluster `there`."""

    def write(**values: Any) -> Path:
        file = tmp_path / "clusters.toml"
        file.write_text("[there]\n" + toml_lines(values))
        return file

    return write


def upscaled_there(photos: Path, file: Path, listener: JobListener | None = None) -> JobResult:
    request = UpscaleRequest(
        src=str(photos),
        job_dir=photos.parent / "there",
        model=MODEL,
        tile_px=TILE_PX,
        cluster="there",
        clusters=file,
    )
    return upscale_job(request, listener or JobListener())


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if why := slurm.missing():
        pytest.skip(why)
    yield from slurm.started(tmp_path_factory.mktemp("slurm"), gpus=2)


@pytest.fixture
def submits(queue: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Let this process submit to the queue."""
    monkeypatch.setenv("SLURM_CONF", str(queue.config))
    monkeypatch.setenv("PATH", slurm.PATH)
    return queue


def queue_of(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "kind": "slurm",
        "workers": 1,
        "threads": 1,
        "memory": "2GB",
        "interface": "lo",
        "shared_directory": str(tmp_path / "shared"),
        "environment": ENVIRONMENT,
        **more,
    }


def test_a_queue_job_that_is_cancelled_in_the_middle_is_replaced_and_the_bytes_are_the_same(
    submits: Slurm,
    photos: Path,
    tmp_path: Path,
    clusters: Callable[..., Path],
    on_this_machine: Any,
    digest: Digest,
) -> None:
    listener = Pulling(lambda: submits.run("scancel", *submits.jobs()) and None)
    result = upscaled_there(photos, clusters(**queue_of(tmp_path)), listener)
    tiles = result.status.units["done"]
    assert result.status.complete
    assert result.computed_units == tiles
    assert 0 < listener.pulled_at < tiles, "the only worker was there, and was cancelled"
    assert digest(tmp_path / "there" / "sr.zarr") == on_this_machine
    assert submits.jobs() == []
    assert list((tmp_path / "shared").iterdir()) == [], "no key is left behind"


def test_a_queue_job_that_is_gone_before_its_worker_came_is_replaced(
    submits: Slurm,
    tmp_path: Path,
    clusters: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The node has room for one of them; the other waits, and is cancelled meanwhile.
    file = clusters(**queue_of(tmp_path, workers=2, directives=["--exclusive"]))
    settings = WorkersRequest(cluster="there", clusters=file).cluster_settings()
    with connect(settings), caplog.at_level(logging.WARNING):
        pending = ("squeue", "--noheader", "--states=PENDING", "--format=%A")
        until(lambda: submits.run(*pending), "the job that waits")
        waiting = submits.run(*pending)
        submits.run("scancel", waiting)
        until(
            lambda: len(jobs := submits.jobs()) == 2 and waiting not in jobs,
            "no job has taken its place",
        )
    assert "another replaces it" in caplog.text


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"queue": "nowhere"}, "the queue refuses: sbatch: .*Invalid partition"),
        ({"python": "/nowhere/python"}, "ended before its worker came: .*/nowhere/python"),
    ],
)
def test_a_queue_that_gives_no_worker_is_one_line(
    more: dict[str, str], says: str, submits: Slurm, tmp_path: Path, clusters: Callable[..., Path]
) -> None:
    file = clusters(**queue_of(tmp_path, **more))
    settings = WorkersRequest(cluster="there", clusters=file).cluster_settings()
    with pytest.raises(ClusterError, match=says), connect(settings):
        pass
    assert submits.jobs() == []


def test_each_worker_of_a_queue_has_a_gpu_of_its_own(
    submits: Slurm, tmp_path: Path, clusters: Callable[..., Path]
) -> None:
    file = clusters(**queue_of(tmp_path, gpus=1, workers=2))
    settings = WorkersRequest(cluster="there", clusters=file).cluster_settings()
    with connect(settings) as client:
        client.wait_for_workers(2, timeout=PATIENCE_S)
        seen = client.run(visible_gpus)
        resources = [w["resources"] for w in client.scheduler_info()["workers"].values()]
    assert sorted(seen.values()) == ["0", "1"]
    assert resources == [{"GPU": 1.0}] * 2


def visible_gpus() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if why := sshd.missing():
        pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch:
        # A busy machine may take longer to start workers.
        patch.setattr(ssh, "_READY_S", PATIENCE_S)
        yield from sshd.started(tmp_path_factory.mktemp("sshd"))


def ssh_of(server: Sshd, *hosts: str) -> dict[str, Any]:
    return {
        "kind": "ssh",
        "hosts": list(hosts),
        "port": server.port,
        "key_file": str(server.key_file),
        "known_hosts": str(server.known_hosts),
        "scheduler_host": "127.0.0.1",
        "workers": 1,
        "threads": 1,
        "environment": ENVIRONMENT,
    }


def test_a_host_that_cannot_be_reached_is_named_and_the_others_compute_the_same_bytes(
    server: Sshd,
    photos: Path,
    tmp_path: Path,
    clusters: Callable[..., Path],
    on_this_machine: Any,
    digest: Digest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = clusters(**ssh_of(server, "localhost", "127.0.0.9"))
    with caplog.at_level(logging.WARNING):
        result = upscaled_there(photos, file)
    assert result.status.complete
    (line,) = (r.getMessage() for r in caplog.records if "missing" in r.getMessage())
    assert "127.0.0.9 (ssh: connect to host 127.0.0.9 port" in line
    assert "localhost computes" in line
    assert digest(tmp_path / "there" / "sr.zarr") == on_this_machine


def test_where_no_host_can_be_reached_that_is_one_line_with_all_of_them(
    server: Sshd, clusters: Callable[..., Path]
) -> None:
    file = clusters(**ssh_of(server, "127.0.0.8", "127.0.0.9"))
    settings = WorkersRequest(cluster="there", clusters=file).cluster_settings()
    began = time.monotonic()
    # The reasons are those of ssh, and not that nothing was heard for long.
    with (
        pytest.raises(ClusterError, match=r"no host can be used: 127\.0\.0\.8 \(ssh: .*; 127"),
        connect(settings),
    ):
        pass
    assert time.monotonic() - began < 15


def test_workers_over_ssh_end_with_the_run_that_started_them(
    server: Sshd, clusters: Callable[..., Path]
) -> None:
    file = clusters(**ssh_of(server, "localhost", "127.0.0.1"))
    settings = WorkersRequest(cluster="there", clusters=file).cluster_settings()
    with connect(settings) as client:
        assert workers_of(client) == 2
        processes = [int(pid) for pid in client.run(process_id).values()]
    until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes),
        "a worker has outlived its run",
        every_s=0.2,
    )


def process_id() -> int:
    return os.getpid()


def certificate(folder: Path, name: str) -> dict[str, str]:
    """Make a CA and a certificate by it, as the documents say."""
    script = f"""
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
      -subj /CN=upres-ca -keyout {name}-ca.key -out {name}-ca.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
      -subj /CN=upres -keyout {name}.key -out {name}.csr
    openssl x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial \
      -days 2 -out {name}.pem
    """
    subprocess.run(["bash", "-ec", script], cwd=folder, check=True, capture_output=True)
    files = {"tls_ca_file": f"{name}-ca.pem", "tls_cert": f"{name}.pem", "tls_key": f"{name}.key"}
    return {key: str(folder / file) for key, file in files.items()}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def encrypted(keys: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A scheduler with TLS and a worker of it, as commands; its address and its files."""
    files = certificate(keys, "good")
    options = [f"--{key.replace('_', '-')}={file}" for key, file in files.items()]
    address = f"tls://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    of_scheduler = [
        "scheduler",
        "--protocol=tls",
        "--host=127.0.0.1",
        f"--port={port}",
        "--no-dashboard",
    ]
    of_worker = ["worker", address, "--nworkers=1", "--nthreads=2", "--no-dashboard"]
    env = {**os.environ, **ENVIRONMENT}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:], *options],
            env=env,
            stderr=subprocess.DEVNULL,
        )
        for words in (of_scheduler, of_worker)
    ]
    try:
        await_workers(address, security=Security(require_encryption=True, **as_client(files)))
        yield address, files
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=120)


def as_client(files: dict[str, str]) -> dict[str, str]:
    """Return the files of a certificate as Dask names them for a client."""
    return {
        "tls_ca_file": files["tls_ca_file"],
        "tls_client_cert": files["tls_cert"],
        "tls_client_key": files["tls_key"],
    }


def test_a_scheduler_with_certificates_computes_the_same_bytes(
    encrypted: tuple[str, dict[str, str]],
    photos: Path,
    tmp_path: Path,
    clusters: Callable[..., Path],
    on_this_machine: Any,
    digest: Digest,
) -> None:
    address, files = encrypted
    assert upscaled_there(photos, clusters(kind="scheduler", address=address, **files))
    assert digest(tmp_path / "there" / "sr.zarr") == on_this_machine


def test_a_wrong_certificate_is_one_line_within_ten_seconds(
    encrypted: tuple[str, dict[str, str]], keys: Path, clusters: Callable[..., Path]
) -> None:
    address, good = encrypted
    bad = certificate(keys, "bad")
    for wrong in (
        bad,
        good | {"tls_cert": bad["tls_cert"], "tls_key": bad["tls_key"]},
        good | {"tls_ca_file": bad["tls_ca_file"]},
    ):
        file = clusters(kind="scheduler", address=address, **wrong)
        began = time.monotonic()
        settings = WorkersRequest(cluster="there", clusters=file).cluster_settings()
        with pytest.raises(UsageError, match=r"TLS .* check tls_ca_file"), connect(settings):
            pass
        assert time.monotonic() - began < 10
