"""Scheduled jobs take turns: each uses the whole machine, so another waits until it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.services.nights import Night, soon, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def ended(night: Night) -> list[dict[str, Any]]:
    """Return the runs that began and ended, by their beginning."""
    runs = [run for run in night.started() if run["end_time"]]
    return sorted(runs, key=lambda run: str(run["start_time"]))


def test_two_jobs_of_the_same_minute_run_one_after_the_other_and_one_by_hand_beside_them(
    night: Night, photo: TakePhoto, save: SavePicture
) -> None:
    save(night.folder / "photos" / "a.png", photo(60, 60))
    (night.folder / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with night.served() as serving:
        serving.ready()
        at = soon(seconds=120)
        for job in ("first", "second"):
            words = ("schedule", "photos", job, "--at", at, "--model", "bicubic-x2")
            assert night.typed(*words, "--workers", 1).returncode == 0
        until(lambda: night.started(), serving.log)
        (score,) = night.api(
            "deployments/filter", {"deployments": {"name": {"any_": ["upres"]}},
                                   "flows": {"name": {"any_": ["score-archive"]}}},
        )  # fmt: skip
        asked = {"state": {"type": "SCHEDULED"}, "parameters": {"job_dir": "/nowhere"}}
        by_hand = night.api(f"deployments/{score['id']}/create_flow_run", asked)
        until(lambda: len(ended(night)) == 3, serving.log)
        before, after = [run for run in ended(night) if run["id"] != by_hand["id"]]
        (beside,) = [run for run in ended(night) if run["id"] == by_hand["id"]]
        assert {run["expected_start_time"][11:16] for run in (before, after)} == {at}
        assert before["end_time"] <= after["start_time"]
        assert beside["start_time"] < after["start_time"]
        assert beside["state_name"] == "Failed"
        for run in (before, after):
            assert (run["state_type"], run["state_name"]) == ("FAILED", "CompletedWithFailures")
            assert run["state"]["message"].startswith("1 of 2 files was rejected; ")
        assert serving.end() == 0
    # What failed is said in a line, and not by where in the program it was noticed.
    assert "Traceback" not in serving.said
    assert "unexpected exception" not in serving.said
    assert serving.said.count("Finished in state CompletedWithFailures('1 of 2 files was ") == 2


def test_a_run_that_died_holds_the_turn_of_no_other(
    night: Night, photo: TakePhoto, save: SavePicture
) -> None:
    for n in range(12):
        save(night.folder / "photos" / f"{n:02}.png", photo(300, 300, at=n))
    words = ("schedule", "photos", "--at", "02:00", "--workers", 1)
    night.typed(*words, "long", "--model", "span-x4")
    with night.served() as serving:
        serving.ready()
        night.typed(*words, "short", "--model", "bicubic-x2")
        begin(night, "long")
        until(lambda: "upscale begins" in serving.said, serving.log)
        family = serving.family()
        serving.process.kill()
        serving.process.wait()
        psutil.wait_procs(family, timeout=60)
    with night.served() as serving:
        serving.ready()
        assert "1 run without a living process, marked as crashed" in serving.said
        begin(night, "short")
        until(
            lambda: [run for run in night.started() if run["state_name"] == "Completed"],
            serving.log,
        )


def begin(night: Night, job: str) -> None:
    (found,) = night.api("deployments/filter", {"deployments": {"name": {"any_": [job]}}})
    night.api(f"deployments/{found['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
