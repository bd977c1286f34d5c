"""Runs without a process are found and marked, and those that live are left alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Pending, Running

from flows.services import dead_runs, heartbeat
from flows.services.dead_runs import Watch, mark_dead_runs, mark_dead_runs_of
from flows.services.deployments import (
    client_of_server,
    forget_ended_jobs,
    register_flows,
    remove_job,
    schedule_job,
    scheduled_jobs,
)
from flows.services.heartbeat import beating, place_of
from flows.services.scheduling import ScheduledJob
from pipeline.errors import UsageError
from pipeline.jobs.request import UpscaleRequest
from pipeline.storage.locks import hold
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.orchestration import SyncPrefectClient

pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.usefixtures("api"),
]


def job(folder: str, at: str = "02:00", name: str = "") -> ScheduledJob:
    request = UpscaleRequest(src="/photos", job_dir=Path(folder))
    return ScheduledJob(request=request, at=at, timezone="UTC", name=name)


HERE = socket.gethostname()


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def begun(client: SyncPrefectClient, what: str, pid: str | None, **asked: str) -> UUID:
    """Let Prefect believe that a nightly run goes on in a process; return its identifier."""
    deployment = client.read_deployment_by_name("nightly/upres")
    parameters = {"src": "/photos", "job_dir": "/job"} | asked
    run = client.create_flow_run_from_deployment(
        deployment.id, name=what, parameters=parameters, idempotency_key=str(uuid4())
    )
    client.update_flow_run(run.id, infrastructure_pid=pid)
    client.set_flow_run_state(run.id, Running(), force=True)
    return run.id


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with client_of_server() as opened:
        register_flows(opened)
        _end_all(opened)  # Tests of other modules leave some.
        yield opened
        _end_all(opened)


def _end_all(client: SyncPrefectClient) -> None:
    for run in dead_runs._under_way(client):
        client.delete_flow_run(run.id)


def test_a_run_is_dead_if_its_process_was_here_and_is_gone(
    client: SyncPrefectClient, gone: int
) -> None:
    pids = {
        "gone": f"{HERE}:{gone}",
        "gone, and no machine named": str(gone),
        "living": f"{HERE}:{os.getpid()}",
        "elsewhere": f"another-{HERE}:{gone}",
        "without": None,
    }
    runs = {what: begun(client, what, pid) for what, pid in pids.items()}
    assert mark_dead_runs(client, alone=False) == ["gone"]
    dead = mark_dead_runs(client, alone=True)
    assert sorted(dead) == ["gone, and no machine named", "without"]
    for what, identifier in runs.items():
        state = client.read_flow_run(identifier).state_type
        alive = what in ("living", "elsewhere")
        assert state == (StateType.RUNNING if alive else StateType.CRASHED), what
    assert mark_dead_runs(client, alone=True) == []


def test_a_run_of_another_machine_is_dead_once_it_is_silent_and_nobody_holds_its_job(
    client: SyncPrefectClient, gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = f"another-{HERE}:{gone}"
    silent = begun(client, "silent", there, job_dir=str(tmp_path / "a"))
    held = begun(client, "held", there, job_dir=str(tmp_path / "b"))
    living = begun(client, "living", f"{HERE}:{os.getpid()}", job_dir=str(tmp_path / "c"))
    beats = begun(client, "beats", there, job_dir=str(tmp_path / "d"))
    (tmp_path / "b").mkdir()
    watch = Watch()
    assert watch.look(client) == watch.look(client) == []
    # The clock shows a time at which the last sign of all is too long ago, but not one that comes
    # a second later; so it does not matter how long the looks take.
    signs = [client.read_flow_run(run).updated for run in (silent, held, living, beats)]
    late = max(filter(None, signs)) + timedelta(seconds=dead_runs.SILENT_S + 0.5)
    monkeypatch.setattr(dead_runs, "_now", lambda _client: late)
    time.sleep(1)
    client.update_flow_run_labels(beats, {"upres.beats": 2})
    with hold(tmp_path / "b" / "lock", tmp_path / "b", "nightly flow"):
        assert watch.look(client) == []
        client.update_flow_run_labels(beats, {"upres.beats": 3})
        assert watch.look(client) == ["silent"]
    assert client.read_flow_run(silent).state_type == StateType.CRASHED
    for run in (held, living, beats):
        assert client.read_flow_run(run).state_type == StateType.RUNNING
    # Nobody else takes runs, and the job is free now.
    assert mark_dead_runs(client, alone=True) == ["held"]


@flow(name="holds-a-job")
def holds(job_dir: str) -> list[str]:
    """Return the names of the runs that one marks which holds a job."""
    return mark_dead_runs_of(Path(job_dir))


def test_who_holds_a_job_marks_no_run_on_it_that_may_be_writing_its_report(
    client: SyncPrefectClient, gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"job_dir": str(tmp_path / "job")}
    here = begun(client, "here", f"{HERE}:{os.getpid()}", **asked)
    # A script began it: no worker says its process, but it does.
    script = begun(client, "script", None, **asked)
    client.update_flow_run_labels(
        script, {"upres.host": HERE, "upres.pid": os.getpid(), "upres.process-began": time.time()}
    )
    there = begun(client, "there", f"another-{HERE}:{gone}", **asked)
    begun(client, "gone", f"{HERE}:{gone}", **asked)
    begun(client, "another job", f"{HERE}:{gone}")
    assert holds(**asked) == ["gone"]
    assert holds(**asked) == []
    monkeypatch.setattr(dead_runs, "SILENT_S", 1.0)
    time.sleep(3)
    assert holds(**asked) == ["there"]
    assert client.read_flow_run(there).state_type == StateType.CRASHED
    for run in (here, script):
        assert client.read_flow_run(run).state_type == StateType.RUNNING


def test_another_process_with_the_number_of_one_that_is_gone_does_not_keep_its_run_alive(
    client: SyncPrefectClient,
) -> None:
    old = begun(client, "old", f"{HERE}:{os.getpid()}")
    client.update_flow_run_labels(
        old, {"upres.host": HERE, "upres.pid": os.getpid(), "upres.process-began": 1e9}
    )
    assert mark_dead_runs(client, alone=False) == ["old"]


def beats_of(run: FlowRun) -> int:
    return int(run.labels.get("upres.beats", 0))


def seen_after(client: SyncPrefectClient, own: UUID, beats: int) -> FlowRun:
    """Return a run as it is once it gave so many signs of life; a busy machine may take a while."""
    until(lambda: beats_of(client.read_flow_run(own)) >= beats, "signs of life", every_s=0.2)
    return client.read_flow_run(own)


@flow(name="beats")
def lives() -> tuple[FlowRun, FlowRun]:
    """Return how the server sees a run that lives: early, and some signs of life later."""
    own = FlowRunContext.get().flow_run.id  # type: ignore[union-attr]
    with beating(), client_of_server() as opened:
        first = seen_after(opened, own, 1)
        return first, seen_after(opened, own, beats_of(first) + 4)


def test_a_run_gives_signs_of_life_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.5)
    # Of the last sign, which the flow does not wait for in earnest if the server is slow.
    monkeypatch.setattr(heartbeat, "_PATIENCE_S", PATIENCE_S)
    first, last = lives()
    assert first.updated is not None
    assert last.updated is not None
    assert last.updated - first.updated > timedelta(seconds=1.5)
    place = place_of(last)
    assert place is not None
    assert (place.host, place.pid, place.lives()) == (HERE, os.getpid(), True)
    with client_of_server() as client:
        ended = beats_of(client.read_flow_run(last.id))
        time.sleep(2)
        assert beats_of(client.read_flow_run(last.id)) == ended


def test_a_job_keeps_its_name_and_two_folders_of_one_name_are_two_jobs() -> None:
    with client_of_server() as client:
        first = schedule_job(client, job("/a/scans"))
        second = schedule_job(client, job("/b/scans"))
        assert first == "scans"
        assert second.startswith("scans-")
        assert schedule_job(client, job("/b/../b/scans/", at="03:00")) == second
        assert schedule_job(client, job("/a/upres")) != "upres"
        assert schedule_job(client, job("/a/Übersee Fotos")) == "Übersee-Fotos"
        assert schedule_job(client, job("/a/x", name="50% & <more>/2020")) == "50-more-2020"
        at = {one.name: one.at for one in scheduled_jobs(client)}
        assert (at[first], at[second]) == ("02:00", "03:00")


def test_a_job_that_is_removed_while_it_runs_is_off_the_schedule_and_its_run_can_end() -> None:
    with client_of_server() as client:
        name = schedule_job(client, job("/removed while it runs"))
        deployment = client.read_deployment_by_name(f"nightly/{name}")
        run = client.create_flow_run_from_deployment(deployment.id)
        for state in (Pending(), Running()):
            client.set_flow_run_state(run.id, state)
        remove_job(client, name)
        assert name not in [one.name for one in scheduled_jobs(client)]
        left = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id])
            )
        )
        assert [one.id for one in left] == [run.id]
        with pytest.raises(UsageError, match="no scheduled job is called"):
            remove_job(client, name)
        client.set_flow_run_state(run.id, Completed())
        assert client.read_flow_run(run.id).state_name == "Completed"
        forget_ended_jobs(client)
        with pytest.raises(ObjectNotFound):
            client.read_deployment(deployment.id)


def test_a_job_that_was_removed_while_it_ran_can_be_scheduled_again() -> None:
    with client_of_server() as client:
        name = schedule_job(client, job("/back again"))
        deployment = client.read_deployment_by_name(f"nightly/{name}")
        run = client.create_flow_run_from_deployment(deployment.id)
        for state in (Pending(), Running()):
            client.set_flow_run_state(run.id, state)
        remove_job(client, name)
        assert schedule_job(client, job("/back again", at="03:00")) == name
        forget_ended_jobs(client)
        (found,) = [one for one in scheduled_jobs(client) if one.name == name]
        assert found.at == "03:00"
        client.set_flow_run_state(run.id, Completed())
        remove_job(client, name)
        with pytest.raises(ObjectNotFound):
            client.read_deployment(deployment.id)


def test_a_dead_run_that_the_server_refuses_to_mark_does_not_hold_back_the_others(
    client: SyncPrefectClient, gone: int, caplog: pytest.LogCaptureFixture
) -> None:
    name = schedule_job(client, job("/deleted on the pages"))
    deployment = client.read_deployment_by_name(f"nightly/{name}")
    stuck = client.create_flow_run_from_deployment(deployment.id, name="stuck").id
    for state in (Pending(), Running()):
        client.set_flow_run_state(stuck, state)
    client.update_flow_run(stuck, infrastructure_pid=f"{HERE}:{gone}")
    client.delete_deployment(deployment.id)
    other = begun(client, "other", f"{HERE}:{gone}")
    assert "other" in mark_dead_runs(client, alone=True)
    assert client.read_flow_run(other).state_name == "Crashed"
    assert "run stuck is dead, but cannot be marked so at the moment: 500" in caplog.text
    client.delete_flow_run(stuck)
