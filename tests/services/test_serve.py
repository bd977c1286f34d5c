"""Every night for real: the server of one's own and its schedule."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from http.server import HTTPServer
from typing import TYPE_CHECKING

import httpx
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


LAST = "upres: nothing runs until `upres serve` is started (docs/schedule.md)"


def test_jobs_are_scheduled_before_serve_runs_and_meanwhile_run_and_are_changed_and_removed(
    night: Night, photo: TakePhoto, save: SavePicture
) -> None:
    for n in range(2):
        save(night.folder / "photos" / f"{n}.png", photo(60, 60, at=n))
    schedule_before_serve_runs(night, far := night.far_off())
    with (
        heard_by(HTTPServer(("127.0.0.1", 0), Webhook)) as web,
        night.served() as serving,
    ):
        serving.ready()
        assert f"early: {far} UTC" in serving.said
        assert "serving 1 scheduled job" in serving.said
        until(lambda: any(f"T{far}:00" in run["expected_start_time"] for run in night.coming()))
        (early,) = json.loads(night.typed("schedule", "--list", "--json").stdout)["jobs"]
        assert early["next"].endswith(f"T{far}:00+00:00")
        assert night.typed("notify", "--list").stdout.count("failed") == 1
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
        at = schedule_and_change(night, far)
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
        of_job = {"deployment_id": {"any_": [night.deployment("job")]}}
        assert {run["expected_start_time"][11:16] for run in night.runs(**of_job)} == {at}
        removed = night.typed("schedule", "--remove", "job")
        assert removed.returncode == 0
        (left,) = removed.stdout.splitlines()
        assert left.startswith(f"early: {far} UTC, ")
        assert night.typed("schedule", "--remove", "job").returncode == 2
        until(lambda: night.coming(**of_job) == [])
        assert serving.end() == 0
    assert "Traceback" not in serving.said
    removed = night.typed("schedule", "--remove", "early")
    assert (removed.returncode, removed.stdout) == (0, "no job is scheduled\n")
    assert removed.stderr.splitlines() == [LAST]
    assert not (night.folder / "early").exists()


def schedule_before_serve_runs(night: Night, at: str) -> None:
    """Schedule the job `early`, and set up a notification; each starts the server for a moment."""
    # The folder is named from the working folder, and two commands come at once.
    home = {"UPRES_HOME": "home"}
    word = ("notify", "--on", "failed", "--to", "https://example.org/T0KEN")
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(night.typed, *word, **home)
        made = night.typed("schedule", "photos", "early", "--at", at, "--timezone", "UTC",
                           "--model", "bicubic-x2", **home)  # fmt: skip
        assert beside.result().returncode == 0, beside.result().stderr
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(f"early: {at} UTC, ")
    assert made.stderr.splitlines() == [LAST]
    assert beside.result().stderr.splitlines() == [LAST]
    # What one such server wrote, the next one knows.
    listed = night.typed("schedule", "--list", "--json")
    assert [job["name"] for job in json.loads(listed.stdout)["jobs"]] == ["early"]
    assert listed.stderr.splitlines() == [LAST]
    assert night.typed("notify", "--list").stdout.count("failed") == 1
    unknown = night.typed("schedule", "--remove", "another")
    assert unknown.returncode == 2
    assert "no scheduled job is called 'another'; there are: early" in unknown.stderr


def schedule_and_change(night: Night, early: str) -> str:
    """Schedule the job `job` in another time zone, and then for a minute that comes soon."""
    words = ("schedule", "photos", "job", "--model", "bicubic-x2", "--timezone", "Europe/Berlin")
    first = night.typed(*words, "--at", "02:00", "--until", "06:30")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("job: 02:00 until 06:30 Europe/Berlin, ")
    # The command ends once it is known when the first run begins.
    (coming,) = night.coming(deployment_id={"any_": [night.deployment("job")]})
    first_run = coming["expected_start_time"][:16].replace("T", " ")
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
    ] == [
        ("early", early, "UTC", "", str(night.folder / "early")),
        ("job", at, "UTC", "", str(night.folder / "job")),
    ]
    return at


def test_a_port_that_is_taken_is_said_in_one_line(night: Night) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", night.port))
        taken.listen()
        said = night.typed("serve", "--port", night.port)
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1].startswith(f"upres: port {night.port} of 127.0.0.1 cannot")
    assert "--port" in said.stderr
