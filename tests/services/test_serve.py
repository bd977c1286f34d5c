"""Every night for real: the server of one's own, its schedule, and what is left by a kill."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from http.server import HTTPServer
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from pipeline.compute.status import read_status
from pipeline.jobs.job import open_job
from tests.services.nights import Night
from tests.services.receivers import Webhook, heard_by
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def test_a_scheduled_job_runs_at_its_time_and_its_schedule_can_be_listed_changed_and_removed(
    night: Night, photo: TakePhoto, save: SavePicture
) -> None:
    for n in range(2):
        save(night.folder / "photos" / f"{n}.png", photo(60, 60, at=n))
    with (
        heard_by(HTTPServer(("127.0.0.1", 0), Webhook)) as web,
        night.served() as serving,
    ):
        serving.ready()
        hook = f"http://127.0.0.1:{web.server_port}/"
        assert night.typed("notify", "--on", "finished", "--to", hook).returncode == 0
        assert (night.home / "password").stat().st_mode & 0o777 == 0o600
        assert httpx.get(
            f"http://127.0.0.1:{night.port}/api/flows/count", trust_env=False, timeout=PATIENCE_S
        ).status_code in (401, 405)
        names = {flow["name"] for flow in night.api("flows/filter")}
        assert names == {
            "upscale-archive", "nightly", "rerun-failed", "score-archive", "prepare-dataset",
            "train-model",
        }  # fmt: skip
        words = (
            "schedule",
            "photos",
            "job",
            "--model",
            "bicubic-x2",
            "--timezone",
            "Europe/Berlin",
        )
        first = night.typed(*words, "--at", "02:00", "--until", "06:30")
        assert first.returncode == 0, first.stderr
        assert first.stdout.startswith("job: 02:00 until 06:30 Europe/Berlin, ")
        # The command ends once it is known when the first run begins.
        first_run = night.coming()[0]["expected_start_time"][:16].replace("T", " ")
        assert first_run[11:] in ("00:00", "01:00")
        assert f"next: {first_run} UTC" in first.stdout
        at = night.soon()
        changed = night.typed("schedule", night.folder / "photos", "./job/", "--at", at,
                              "--timezone", "UTC", "--model", "bicubic-x2", "--json")  # fmt: skip
        assert json.loads(changed.stdout)["name"] == "job"
        replaced = "upres: job was scheduled at 02:00 Europe/Berlin, which this replaces"
        assert changed.stderr.splitlines() == [replaced]
        listed = json.loads(night.typed("schedule", "--list", "--json").stdout)["jobs"]
        assert [
            (job["name"], job["at"], job["timezone"], job["until"], job["job"]) for job in listed
        ] == [("job", at, "UTC", "", str(night.folder / "job"))]
        second = night.typed("serve")
        assert second.returncode == 1
        assert "one `upres serve` is enough" in second.stderr
        until(lambda: any(run["state_type"] == "COMPLETED" for run in night.started()), serving.log)
        (run,) = night.started()
        assert run["state_name"] == "Completed"
        # At once, although it ended within minutes of its scheduling.
        until(lambda: web.heard, serving.log)
        assert web.heard[0][1]["text"] == "job: nightly ended Completed"
        assert run["parameters"]["src"] == str(night.folder / "photos")
        assert f"T{at}:00" in run["expected_start_time"]
        job = open_job(night.folder / "job")
        ledger = job.open_ledger_to_read()
        assert read_status(job.folder, ledger).items["done"] == 2
        ledger.close()
        # Of the time before the change, nothing is left.
        assert {run["expected_start_time"][11:16] for run in night.runs()} == {at}
        removed = night.typed("schedule", "--remove", "job")
        assert (removed.returncode, removed.stdout) == (0, "no job is scheduled\n")
        assert night.typed("schedule", "--remove", "job").returncode == 2
        until(lambda: night.coming() == [])
        assert serving.end() == 0
    assert "Traceback" not in serving.said


def test_a_job_can_be_scheduled_listed_and_removed_before_serve_runs(
    night: Night, photo: TakePhoto, save: SavePicture
) -> None:
    save(night.folder / "photos" / "a.png", photo(60, 60))
    last = "upres: nothing runs until `upres serve` is started (docs/schedule.md)"
    # The folder is named from the working folder, and two commands come at once.
    home = {"UPRES_HOME": "home"}
    word = ("notify", "--on", "failed", "--to", "https://example.org/T0KEN")
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(night.typed, *word, **home)
        made = night.typed("schedule", "photos", "job", "--at", "02:00", "--timezone", "UTC",
                           "--model", "bicubic-x2", **home)  # fmt: skip
        assert beside.result().returncode == 0, beside.result().stderr
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("job: 02:00 UTC, ")
    assert made.stderr.splitlines() == [last]
    assert beside.result().stderr.splitlines() == [last]
    listed = night.typed("schedule", "--list", "--json")
    assert [job["name"] for job in json.loads(listed.stdout)["jobs"]] == ["job"]
    assert listed.stderr.splitlines() == [last]
    assert night.typed("notify", "--list").stdout.count("failed") == 1
    assert night.typed("schedule", "--remove", "another").returncode == 2
    with night.served() as serving:
        serving.ready()
        assert "job: 02:00 UTC" in serving.said
        assert "serving 1 scheduled job" in serving.said
        until(lambda: any("T02:00:00" in run["expected_start_time"] for run in night.coming()))
        (job,) = json.loads(night.typed("schedule", "--list", "--json").stdout)["jobs"]
        assert job["next"].endswith("T02:00:00+00:00")
        assert serving.end() == 0
    removed = night.typed("schedule", "--remove", "job")
    assert (removed.returncode, removed.stdout) == (0, "no job is scheduled\n")
    assert not (night.folder / "job").exists()


def test_after_a_kill_in_a_night_the_dead_run_is_marked_and_the_next_one_goes_on(
    night: Night, photo: TakePhoto, save: SavePicture
) -> None:
    for n in range(6):
        save(night.folder / "photos" / f"{n:02}.png", photo(300, 300, at=n))
    with night.served() as serving:
        serving.ready()
        night.typed(
            "schedule", "photos", "job", "--at", "02:00", "--model", "span-x4", "--workers", 1
        )
        (deployment,) = night.api(
            "deployments/filter", {"deployments": {"tags": {"all_": ["upres-job"]}}}
        )
        begin = f"deployments/{deployment['id']}/create_flow_run"
        dead = night.api(begin, {"state": {"type": "SCHEDULED"}})
        until(lambda: "upscale begins" in serving.said, serving.log)
        family = serving.family()
        serving.process.kill()
        serving.process.wait()
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
        assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    with night.served() as again:
        again.ready()
        assert "1 run without a living process, marked as crashed" in again.said
        states = {run["id"]: run for run in night.started()}
        assert states[dead["id"]]["state_type"] == "CRASHED"
        assert "its process is gone" in states[dead["id"]]["state"]["message"]
        night.typed(
            "schedule", "photos", "job", "--at", night.soon(), "--model", "span-x4", "--workers", 1
        )
        until(lambda: any(r["state_type"] == "COMPLETED" for r in night.started()), again.log)
        assert len(night.started()) == 2
    job = open_job(night.folder / "job")
    ledger = job.open_ledger_to_read()
    assert read_status(job.folder, ledger).items["done"] == 6
    ledger.close()


def test_a_port_that_is_taken_is_said_in_one_line(night: Night) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", night.port))
        taken.listen()
        said = night.typed("serve", "--port", night.port)
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1].startswith(f"upres: port {night.port} of 127.0.0.1 cannot")
    assert "--port" in said.stderr
