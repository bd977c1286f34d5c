"""Runs without a process are found and marked, and those that live are left alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Running
from prefect.testing.utilities import prefect_test_harness

from flows.services.dead_runs import mark_dead_runs
from flows.services.deployments import (
    client_of_server,
    register_flows,
    schedule_job,
    scheduled_jobs,
)
from flows.services.scheduling import ScheduledJob
from pipeline.jobs.request import UpscaleRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    # Of the connections of Prefect's server and client, which the harness leaves to Python.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def job(folder: str, at: str = "02:00", name: str = "") -> ScheduledJob:
    request = UpscaleRequest(src="/photos", job_dir=Path(folder))
    return ScheduledJob(request=request, at=at, timezone="UTC", name=name)


def test_a_run_is_dead_if_its_process_was_here_and_is_gone() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = socket.gethostname()
    pids = {
        "gone": f"{here}:{ended.pid}",
        "gone, and no machine named": str(ended.pid),
        "living": str(os.getpid()),
        "elsewhere": f"another-{here}:{ended.pid}",
        "without": None,
    }
    with client_of_server() as client:
        register_flows(client)
        name = schedule_job(client, job("/dead/job"))
        deployment = client.read_deployment_by_name(f"nightly/{name}")
        runs = {}
        for what, pid in pids.items():
            run = client.create_flow_run_from_deployment(deployment.id, name=what)
            client.update_flow_run(run.id, infrastructure_pid=pid)
            client.set_flow_run_state(run.id, Running(), force=True)
            runs[what] = run.id
        assert mark_dead_runs(client, alone=False) == ["gone"]
        dead = mark_dead_runs(client, alone=True)
        assert sorted(dead) == ["gone, and no machine named", "without"]
        for what, identifier in runs.items():
            state = client.read_flow_run(identifier).state_type
            alive = what in ("living", "elsewhere")
            assert state == (StateType.RUNNING if alive else StateType.CRASHED), what
        assert mark_dead_runs(client, alone=True) == []


def test_a_job_keeps_its_name_and_two_folders_of_one_name_are_two_jobs() -> None:
    with client_of_server() as client:
        first = schedule_job(client, job("/a/scans"))
        second = schedule_job(client, job("/b/scans"))
        assert first == "scans"
        assert second.startswith("scans-")
        assert schedule_job(client, job("/b/../b/scans/", at="03:00")) == second
        assert schedule_job(client, job("/a/upres")) != "upres"
        assert schedule_job(client, job("/a/x", name="50% & <more>/2020")) == "50-more-2020"
        at = {one.name: one.at for one in scheduled_jobs(client)}
        assert (at[first], at[second]) == ("02:00", "03:00")
