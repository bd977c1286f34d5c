"""Every night for real: the server of one's own, its schedule, and who hears how runs end."""

from __future__ import annotations

import json
import socket
import socketserver
from concurrent.futures import ThreadPoolExecutor
from email import message_from_string
from http.server import HTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from pipeline.compute.status import read_status
from pipeline.jobs.job import open_job
from tests.services.nights import Night
from tests.services.receivers import MailServer, Webhook, heard_by
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto
    from tests.services.nights import Serving

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


NOBODY = "smtp://me:s3cret@127.0.0.1:9/?from=a@b.org&to=c@d.org"
NOBODY_SAYS = "smtp://127.0.0.1 does not accept mail: it cannot be reached (Connection refused)"
LAST = "upres: nothing runs until `upres serve` is started (docs/schedule.md)"


def test_jobs_are_scheduled_before_serve_runs_and_meanwhile_run_and_are_changed_and_removed(
    night: Night, photo: TakePhoto, save: SavePicture, named_cluster: dict[str, str]
) -> None:
    """And webhooks and mails tell how runs end, and their secrets stay secret."""
    for n in range(2):
        save(night.folder / "photos" / f"{n}.png", photo(60, 60, at=n))
    save(night.folder / "broken" / "a.png", photo(40, 40))
    (night.folder / "broken" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    schedule_before_serve_runs(night, far := night.far_off())
    with (
        heard_by(HTTPServer(("127.0.0.1", 0), Webhook)) as web,
        heard_by(socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer)) as mail,
        night.served() as serving,
        night.typing_much(serving),
    ):
        assert f"early: {far} UTC" in serving.said
        assert "serving 1 scheduled job" in serving.said
        until(lambda: any(f"T{far}:00" in run["expected_start_time"] for run in night.coming()))
        (early,) = json.loads(night.typed("schedule", "--list", "--json").stdout)["jobs"]
        assert early["next"].endswith(f"T{far}:00+00:00")
        before = night.typed("notify", "--list").stdout
        assert before.count("failed") == 1
        assert night.typed("notify", "--remove", before.split(":")[0]).returncode == 0
        unknown = night.typed("schedule", "--remove", "another")
        assert unknown.returncode == 2
        assert "no scheduled job is called 'another'; there are: early" in unknown.stderr
        notify = set_up_notifications(night, web, mail)
        assert (night.home / "password").stat().st_mode & 0o777 == 0o600
        assert httpx.get(
            f"http://127.0.0.1:{night.port}/api/flows/count", trust_env=False, timeout=PATIENCE_S
        ).status_code in (401, 405)
        names = {flow["name"] for flow in night.api("flows/filter")}
        assert names == {
            "upscale-archive", "nightly", "rerun-failed", "score-archive", "prepare-dataset",
            "train-model",
        }  # fmt: skip
        asked = {"src": str(night.folder / "broken"), "job_dir": str(night.folder / "by hand"),
                 "model": "bicubic-x2"}  # fmt: skip
        by_hand = night.begin(parameters=asked | named_cluster)
        at = schedule_and_change(night, far)
        second = night.typed("serve")
        assert second.returncode == 1
        assert "one `upres serve` is enough" in second.stderr
        until(lambda: any(run["state_type"] == "COMPLETED" for run in night.started()), serving.log)
        (run,) = [one for one in night.started() if one["id"] != by_hand]
        assert run["state_name"] == "Completed"
        # At once, although it ended within minutes of its scheduling.
        all_are_told(night, serving, web, mail, notify)
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


def set_up_notifications(night: Night, web: Any, mail: Any) -> str:
    """Set up five notifications, and return how they are listed."""
    hook = f"http://127.0.0.1:{web.server_port}"
    smtp = f"smtp://me:s3cret@127.0.0.1:{mail.server_address[1]}/?from=a@b.org&to=c@d.org"
    for on, to, *more in (
        ("finished", f"{hook}/"),
        ("failed", f"{hook}/T0KEN-failed"),
        ("failed,finished", f"{hook}/T0KEN-slack", "--body", "slack"),
        ("failed", smtp),
    ):
        said = night.typed("notify", "--on", on, "--to", to, *more)
        assert (said.returncode, said.stderr) == (0, "")
    assert len(mail.logins) == 1  # It was tried whether the server takes mails.
    said = night.typed("notify", "--on", "failed", "--to", NOBODY)
    assert said.returncode == 0
    assert said.stderr == f"upres: it is set up, but at the moment {NOBODY_SAYS}\n"
    listed = night.typed("notify", "--list").stdout
    assert len(listed.splitlines()) == 5
    assert "failed: smtp://127.0.0.1" in listed
    assert "failed, finished: http://127.0.0.1" in listed
    assert "s3cret" not in listed
    assert "T0KEN" not in listed
    assert {one["name"] for one in night.api("deployments/filter")} == {"upres", "early"}
    return listed


def all_are_told(night: Night, serving: Serving, web: Any, mail: Any, listed: str) -> None:
    """Wait until everybody heard how the scheduled run and that of broken pictures ended."""
    not_notified = f"not notified: {NOBODY_SAYS}\n"
    until(lambda: len(web.heard) == 4 and mail.heard, serving.log)
    until(lambda: not_notified in serving.said, serving.log)
    (finished,) = [body["text"] for path, body in web.heard if path == "/"]
    assert finished == "job: nightly ended Completed"
    slack = [body["text"] for path, body in web.heard if path == "/T0KEN-slack"]
    assert sorted(text.split(":")[1] for text in slack) == [
        " nightly ended Completed", " nightly ended CompletedWithFailures"
    ]  # fmt: skip
    (plain,) = [body for path, body in web.heard if path == "/T0KEN-failed"]
    assert plain["state"] == "CompletedWithFailures"
    assert plain["message"].startswith("1 of 2 files was rejected")
    assert plain["job"] == str(night.folder / "by hand")
    assert plain["page"].startswith(f"http://127.0.0.1:{night.port}/runs/flow-run/")
    (text,) = mail.heard
    message = message_from_string(text)
    assert (message["From"], message["To"]) == ("a@b.org", "c@d.org")
    assert message["Subject"] == "upres: nightly ended CompletedWithFailures"
    assert "1 of 2 files was rejected" in text
    assert "Run: nightly by hand 20" in text
    assert len(mail.logins) == 2
    assert serving.said.count(not_notified) == 1
    for secret in ("s3cret", "T0KEN"):
        assert secret not in serving.said
        assert secret not in (night.home / "server.log").read_text()
    document = json.loads(night.typed("notify", "--list", "--json").stdout)
    assert [one["to"] for one in document["notifications"]].count("smtp://127.0.0.1") == 2
    name = listed.splitlines()[0].split(":")[0]
    assert len(night.typed("notify", "--remove", name).stdout.splitlines()) == 4
    assert night.typed("notify", "--remove", name).returncode == 2


def schedule_before_serve_runs(night: Night, at: str) -> None:
    """Schedule the job `early`, and set up a notification; each starts the server for a moment."""
    # The folder is named from the working folder, and two commands come at once.
    home = {"UPRES_HOME": "home"}
    word = ("notify", "--on", "failed", "--to", "https://example.org/T0KEN")
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(night.typed, *word, **home)
        made = night.typed("schedule", "photos", "early", "--at", at, "--timezone", "UTC", **home)
        assert beside.result().returncode == 0, beside.result().stderr
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(f"early: {at} UTC, ")
    assert made.stderr.splitlines() == [LAST]
    assert beside.result().stderr.splitlines() == [LAST]
    # What one such server wrote, the next one knows.
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(night.typed, "notify", "--list")
        listed = night.typed("schedule", "--list", "--json")
        assert "failed: https://example.org" in beside.result().stdout
    assert [job["name"] for job in json.loads(listed.stdout)["jobs"]] == ["early"]
    assert listed.stderr.splitlines() == [LAST]


def schedule_and_change(night: Night, early: str) -> str:
    """Schedule the job `job` in another time zone, and then for a minute that comes soon."""
    words = ("schedule", "photos", "job", "--timezone", "Europe/Berlin")
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
