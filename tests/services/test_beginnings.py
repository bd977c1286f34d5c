"""How flows begin: with a scheduler that comes late, and with dead runs on their job."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import StateType
from prefect.states import Running

from flows.endings import document_of
from flows.nightly import nightly
from flows.rerun import rerun_failed
from flows.score import score_archive
from flows.services.deployments import (
    POOL,
    client_of_server,
    let_nights_take_turns,
    register_flows,
    schedule_job,
)
from flows.services.scheduling import ScheduledJob
from pipeline.jobs.request import UpscaleRequest
from tests.ports import free_port
from tests.services.nights import ROOT

if TYPE_CHECKING:
    from tests.conftest import SavePicture, TakePhoto

pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.usefixtures("api"),
]


@pytest.fixture
def asked(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> dict[str, Any]:
    """What a night on one picture is asked."""
    save(tmp_path / "in" / "a.png", photo(60, 60))
    return {"src": str(tmp_path / "in"), "job_dir": tmp_path / "job", "model": "bicubic-x2"}


def test_a_night_waits_for_a_scheduler_that_comes_up_five_seconds_later(
    asked: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    address = f"tcp://127.0.0.1:{(port := free_port())}"
    cli = [sys.executable, "-m"]
    scheduler = [*cli, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port),
                 "--no-dashboard"]  # fmt: skip
    worker = [*cli, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny",
              "--no-dashboard"]  # fmt: skip
    with ExitStack() as started:
        over = threading.Event()

        def start() -> None:
            while not any("no scheduler answers" in line for line in caplog.messages):
                if over.wait(0.1):
                    return
            time.sleep(5)
            for command in (scheduler, worker):
                process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
                started.callback(process.wait, 120)
                started.callback(process.terminate)

        coming = threading.Thread(target=start)
        started.callback(coming.join)
        started.callback(over.set)
        coming.start()
        with caplog.at_level(logging.INFO, logger="prefect.flow_runs"):
            state = nightly(**asked, cluster=address, return_state=True)
    assert document_of(state)["units"]["done"] == 1
    lines = [line for line in caplog.messages if "no scheduler answers" in line]
    assert lines == [
        f"job job run begins: no scheduler answers at {address} yet, waiting up to 60 s"
    ]


def test_a_rerun_and_a_scoring_mark_the_dead_runs_of_their_job_and_no_others(
    asked: dict[str, Any], cluster: tuple[str, str], tmp_path: Path
) -> None:
    assert nightly(**asked, cluster=cluster[1], return_state=True).is_completed()
    ended_process = subprocess.Popen([sys.executable, "-c", ""])
    ended_process.wait()
    with client_of_server() as client:
        register_flows(client)
        deployment = client.read_deployment_by_name("nightly/upres")

        def dead(job_dir: Path) -> Any:
            parameters = {"src": asked["src"], "job_dir": str(job_dir)}
            run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
            client.update_flow_run(
                run.id, infrastructure_pid=f"{socket.gethostname()}:{ended_process.pid}"
            )
            client.set_flow_run_state(run.id, Running(), force=True)
            return run.id

        other = dead(tmp_path / "other")
        for flow in (rerun_failed, score_archive):
            run = dead(asked["job_dir"])
            ended = flow(job_dir=asked["job_dir"], cluster=cluster[1], return_state=True)
            assert ended.is_completed(), ended.message
            assert client.read_flow_run(run).state_type == StateType.CRASHED, flow.name
        assert client.read_flow_run(other).state_type == StateType.RUNNING


def test_flows_compute_where_the_variable_says_unless_a_run_says_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with client_of_server() as client:
        for address in ("tcp://10.0.0.1:8786", ""):
            monkeypatch.setenv("UPRES_CLUSTER", address)
            register_flows(client)
            for name in ("upscale-archive", "nightly", "rerun-failed", "score-archive",
                         "prepare-dataset"):  # fmt: skip
                asked = client.read_deployment_by_name(f"{name}/upres").parameters
                assert asked == ({"cluster": address} if address else {}), name
            assert client.read_deployment_by_name("train-model/upres").parameters == {}


def test_jobs_that_were_scheduled_without_a_queue_come_into_that_of_the_nights() -> None:
    request = UpscaleRequest(src="/photos", job_dir=Path("/old/job"))
    with client_of_server() as client:
        name = schedule_job(client, ScheduledJob(request=request, at="02:00", timezone="UTC"))
        old = client.read_deployment_by_name(f"nightly/{name}")
        assert old.work_queue_name == "nights"
        client.update_deployment(old.id, DeploymentUpdate(work_pool_name=POOL))
        assert client.read_deployment_by_name(f"nightly/{name}").work_queue_name == "default"
        for at_once, limit in ((None, 1), (3, 3), (None, 3), (1, 1)):
            let_nights_take_turns(client, at_once)
            queue = client.read_work_queue_by_name("nights", work_pool_name=POOL)
            assert queue.concurrency_limit == limit
        moved = client.read_deployment_by_name(f"nightly/{name}")
        assert moved.work_queue_name == "nights"
        assert (moved.parameters, moved.tags, len(moved.schedules)) == (
            old.parameters,
            old.tags,
            1,
        )
        register_flows(client)
        by_hand = client.read_deployment_by_name("nightly/upres")
        assert by_hand.work_queue_name == "default"
