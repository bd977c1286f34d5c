"""Workers with CPUs that differ: the same bytes from all of them, or a refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.compute.cluster import connect, workers_of
from pipeline.compute.instructions import has_level, own_level
from pipeline.compute.request import WorkersRequest
from pipeline.errors import ClusterError, UsageError
from pipeline.jobs.perform import upscale_job
from pipeline.jobs.request import UpscaleRequest
from tests.ports import free_port
from tests.waiting import PATIENCE_S, await_workers, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Digest, SavePicture, TakePhoto, Upscale

pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.skipif(
        not has_level(own_level(), "avx512_core"), reason="this CPU has no more than AVX2"
    ),
]

ROOT = Path(__file__).parent.parent.parent
MODEL, TILE_PX = "span-x2", 32


@pytest.fixture
def scheduler() -> Iterator[tuple[str, Callable[..., None]]]:
    """A scheduler's address, and what starts a worker of it with some variables."""
    address = f"tcp://127.0.0.1:{free_port()}"
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str, **variables: str) -> None:
        path = os.pathsep.join(filter(None, [variables.pop("PYTHONPATH", ""), str(ROOT)]))
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *words, "--no-dashboard"]
        processes.append(subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))

    def worker(**variables: str) -> None:
        start("worker", address, "--nworkers=1", "--nthreads=2", **variables)

    start("scheduler", "--host=127.0.0.1", f"--port={address.rpartition(':')[2]}")
    try:
        yield address, worker
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=120)


def spec_of(job: Path) -> Any:
    (attributes,) = (job / "sr.zarr").glob("*.png/zarr.json")
    text = attributes.read_text()
    start = text.index('"spec": ') + len('"spec": ')
    return json.JSONDecoder().raw_decode(text[start:])[0]


def test_workers_of_two_kinds_write_what_the_lesser_writes_or_are_refused(
    scheduler: tuple[str, Callable[..., None]],
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    digest: Digest,
) -> None:
    address, start_worker = scheduler
    start_worker(ONEDNN_MAX_CPU_ISA="AVX2")
    start_worker()
    save(tmp_path / "photos" / "a.png", photo(96, 96))
    # Begun here, with all that this CPU has.
    upscale(tmp_path / "photos", tmp_path / "here", model=MODEL, tile_px=TILE_PX, precision="auto")
    assert spec_of(tmp_path / "here")["instructions"] == own_level()
    await_workers(address, 2)

    def run(job: str, **asked: Any) -> int:
        request = UpscaleRequest(
            src=str(tmp_path / "photos"),
            job_dir=tmp_path / job,
            model=MODEL,
            tile_px=TILE_PX,
            **asked,
        )
        return upscale_job(request).computed_units

    assert run("mixed", cluster=address) == 9
    spec = spec_of(tmp_path / "mixed")
    assert (spec["instructions"], spec["precision"]) == ("avx2", "fp32")
    assert run("lesser", workers=1, instructions="avx2") == 9
    assert digest(tmp_path / "mixed" / "sr.zarr") == digest(tmp_path / "lesser" / "sr.zarr")
    # A job goes on with what it has, here too; there it cannot.
    assert run("mixed", workers=1) == 0
    save(tmp_path / "photos" / "b.png", photo(96, 96, at=7))
    with pytest.raises(ClusterError, match=f"has the instructions avx2, expected {own_level()}: "):
        run("here", cluster=address)
    with pytest.raises(UsageError, match=r"openvino does not compute bf16 .* avx2"):
        run("new", cluster=address, precision="bf16", backend="openvino")


def test_a_worker_of_another_version_that_joins_later_is_ended_before_it_computes(
    scheduler: tuple[str, Callable[..., None]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address, start_worker = scheduler
    other = tmp_path / "other" / "numpy-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    settings = WorkersRequest(cluster=address).cluster_settings()
    start_worker()
    await_workers(address)
    with connect(settings) as client:
        start_worker(PYTHONPATH=str(other.parent))
        until(lambda: "a worker that joined was ended" in caplog.text, every_s=0.2)
        assert "numpy is" in caplog.text
        assert "0.0.1 on" in caplog.text
        until(lambda: workers_of(client) == 1, "it is not gone", every_s=0.2)
        assert client.submit(abs, -3).result(timeout=PATIENCE_S) == 3


def test_a_worker_of_another_version_is_refused_with_its_machine_at_the_start(
    scheduler: tuple[str, Callable[..., None]], tmp_path: Path
) -> None:
    address, start_worker = scheduler
    other = tmp_path / "other" / "torch-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.0.1\n")
    start_worker(PYTHONPATH=str(other.parent))
    await_workers(address)
    settings = WorkersRequest(cluster=address).cluster_settings()
    with pytest.raises(ClusterError, match=r"torch is .* here and 0\.0\.1 on "), connect(settings):
        pass
