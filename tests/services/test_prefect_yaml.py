"""The same deployments on a work pool: Prefect's own server, `prefect deploy --all`, a worker."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from flows.services.deployments import ENTRYPOINTS, POOL
from pipeline.compute.status import read_status
from pipeline.jobs.job import open_job
from tests.ports import free_port
from tests.services.databases import put_new_database
from tests.services.nights import ROOT
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]


@contextmanager
def going_on(*words: str, environ: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            env=environ, cwd=log.parent, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:  # A worker of Prefect's that loses the signal.
            process.kill()
            process.wait()


# Each call would read the certificates of the world.
ASKED: dict[str, Any] = {"trust_env": False, "verify": False, "timeout": PATIENCE_S}


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", **ASKED).status_code == 200
    except httpx.HTTPError:
        return False


def answer_to(url: str, body: dict[str, Any]) -> Any:
    """Return what a server answers, once its database is no longer busy."""
    given: list[httpx.Response] = []

    def ask() -> bool:
        given.append(httpx.post(url, json=body, **ASKED))
        return given[-1].status_code != httpx.codes.SERVICE_UNAVAILABLE

    until(ask)
    return given[-1].raise_for_status().json()


def test_the_deployments_of_prefect_yaml_run_on_a_process_worker(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, named_cluster: dict[str, str]
) -> None:
    save(tmp_path / "photos" / "a.png", photo(40, 40))
    put_new_database(tmp_path / "prefect")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    others = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environ = {
        **others,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }

    def prefect(*words: str) -> None:
        said = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            env=environ, cwd=tmp_path, capture_output=True, text=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip
        assert said.returncode == 0, said.stdout + said.stderr

    server = ("server", "start", "--host", "127.0.0.1", "--port", str(port))
    with going_on(*server, environ=environ, log=tmp_path / "server.log"):
        until(lambda: answers(url), tmp_path / "server.log")
        prefect("work-pool", "create", POOL, "--type", "process")
        prefect("deploy", "--all", "--prefect-file", str(ROOT / "prefect.yaml"))
        found = answer_to(f"{url}/deployments/filter", {})
        entrypoints = {one["entrypoint"] for one in found}
        assert entrypoints == {one.replace(":", ".") for one in ENTRYPOINTS.values()}
        for one in found:
            assert one["work_pool_name"] == POOL
            assert one["global_concurrency_limit"]["limit"] == 1
            assert one["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        (nightly,) = [one["id"] for one in found if one["entrypoint"] == "flows.nightly.nightly"]
        asked = {"src": str(tmp_path / "photos"), "job_dir": str(tmp_path / "job"),
                 "model": "bicubic-x2", **named_cluster}  # fmt: skip
        run = answer_to(
            f"{url}/deployments/{nightly}/create_flow_run",
            {"parameters": asked, "state": {"type": "SCHEDULED"}},
        )
        worker = ("worker", "start", "--pool", POOL)
        with going_on(*worker, environ=environ, log=tmp_path / "worker.log"):
            address = f"{url}/flow_runs/{run['id']}"
            until(
                lambda: (
                    httpx.get(address, **ASKED).json().get("state_type")
                    in ("COMPLETED", "FAILED", "CRASHED")
                ),
                tmp_path / "worker.log",
            )
        assert httpx.get(address, **ASKED).json()["state_name"] == "Completed"
    job = open_job(tmp_path / "job")
    ledger = job.open_ledger_to_read()
    assert read_status(job.folder, ledger).items["done"] == 1
    ledger.close()
