"""Scheduled jobs take turns, also after a kill: each uses the whole machine while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pipeline.compute.status import read_status
from pipeline.jobs.job import open_job
from tests.services.nights import Night, paused, words_of
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto
    from tests.services.nights import Serving

pytestmark = [pytest.mark.services, pytest.mark.slow]

PICTURES = 4


@pytest.fixture
def night(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Night:
    """A user with a job that takes long, one that does not, and pictures one of which is broken."""
    for n in range(PICTURES):
        save(tmp_path / "large" / f"{n:02}.png", photo(300, 300, at=n))
    save(tmp_path / "small" / "a.png", photo(60, 60))
    save(tmp_path / "broken" / "a.png", photo(60, 60))
    (tmp_path / "broken" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return Night(tmp_path)


LONG = ("schedule", "large", "long", "--model", "span-x4")
SHORT = ("schedule", "small", "short", "--model", "bicubic-x2")


def ended(night: Night) -> list[dict[str, Any]]:
    """Return the runs that began and ended, by their beginning."""
    runs = [run for run in night.started() if run["end_time"]]
    return sorted(runs, key=lambda run: str(run["start_time"]))


def test_jobs_take_turns_unless_several_may_run_at_once_and_a_run_that_died_holds_no_turn(
    night: Night, named_cluster: dict[str, str]
) -> None:
    with night.served("--nights", 2) as serving:
        dead, beside = two_at_once_until_it_is_killed(
            night, serving.ready(), words_of(named_cluster)
        )
    with night.served() as serving:
        serving.ready()
        assert "1 run without a living process, marked as crashed" in serving.said
        states = {run["id"]: run for run in night.started()}
        assert set(states) == {dead, beside}
        assert states[dead]["state_type"] == "CRASHED"
        assert "its process is gone" in states[dead]["state"]["message"]
        one_after_the_other_and_one_by_hand_beside_them(night, serving, named_cluster)
        assert len(night.started()) == 5
    # What failed is said in a line, and not by where in the program it was noticed.
    assert "Traceback" not in serving.said
    assert "unexpected exception" not in serving.said
    assert serving.said.count("Finished in state CompletedWithFailures('1 of 2 files was ") == 1
    # The next run of the job that was killed went on with it.
    job = open_job(night.folder / "long")
    ledger = job.open_ledger_to_read()
    assert read_status(job.folder, ledger).items["done"] == PICTURES
    ledger.close()


def two_at_once_until_it_is_killed(
    night: Night, serving: Serving, there: list[str]
) -> tuple[str, str]:
    """Kill what serves two nights at once in the longer one; return the runs of both."""
    far = ("--at", night.far_off(), "--timezone", "UTC")
    assert night.typed(*LONG, *far, "--workers", 1).returncode == 0
    assert night.typed(*SHORT, *far, *there).returncode == 0
    long = night.begin("long")
    until(lambda: "upscale begins" in serving.said, serving.log, every_s=0.1)
    with paused(killed := night.process_of(long)):
        short = night.begin("short")
        until(lambda: ended(night), serving.log)
        one, other = night.run(short), night.run(long)
        assert (one["state_name"], other["state_name"]) == ("Completed", "Running")
        family = serving.family()
        serving.process.kill()
        serving.process.wait()
        # It would still say that it was told to end, if the server lives for a moment longer.
        killed.kill()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    return long, short


def one_after_the_other_and_one_by_hand_beside_them(
    night: Night, serving: Serving, there: dict[str, str]
) -> None:
    before = [run["id"] for run in night.started()]

    def begun() -> list[dict[str, Any]]:
        return [run for run in night.started() if run["id"] not in before]

    at = night.soon(commands=2)
    for job in (LONG, SHORT):
        assert night.typed(*job, "--at", at, *words_of(there)).returncode == 0
    until(begun, serving.log)
    asked = {"src": str(night.folder / "broken"), "job_dir": str(night.folder / "by hand"),
             "model": "bicubic-x2", **there}  # fmt: skip
    with paused(night.process_of(begun()[0]["id"])):
        by_hand = night.begin(parameters=asked)
        until(lambda: night.run(by_hand)["start_time"], serving.log)
    until(lambda: len([run for run in begun() if run["end_time"]]) == 3, serving.log)
    first, second = [run for run in ended(night) if run["id"] not in (*before, by_hand)]
    beside = night.run(by_hand)
    assert [run["state_name"] for run in (first, second)] == ["Completed", "Completed"]
    assert {run["expected_start_time"][11:16] for run in (first, second)} == {at}
    assert first["end_time"] <= second["start_time"]
    assert beside["start_time"] < second["start_time"]
    assert (beside["state_type"], beside["state_name"]) == ("FAILED", "CompletedWithFailures")
    assert beside["state"]["message"].startswith("1 of 2 files was rejected; ")
