"""Scheduled jobs take turns: each uses the whole machine, so another waits until it ended."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.services.nights import Night
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
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


@contextmanager
def paused(night: Night, run: str) -> Iterator[None]:
    """Let the process of a run go on only after the block: it must not end meanwhile."""
    until(lambda: night.run(run)["infrastructure_pid"])
    process = psutil.Process(int(night.run(run)["infrastructure_pid"].rpartition(":")[2]))
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def test_two_jobs_of_the_same_minute_run_one_after_the_other_and_one_by_hand_beside_them(
    night: Night, photo: TakePhoto, save: SavePicture
) -> None:
    save(night.folder / "photos" / "a.png", photo(60, 60))
    save(night.folder / "broken" / "a.png", photo(60, 60))
    (night.folder / "broken" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with night.served() as serving:
        serving.ready()
        at = night.soon(commands=2)
        for job in ("first", "second"):
            words = ("schedule", "photos", job, "--at", at, "--model", "bicubic-x2")
            assert night.typed(*words, "--workers", 1).returncode == 0
        until(night.started, serving.log)
        asked = {"src": str(night.folder / "broken"), "job_dir": str(night.folder / "by hand"),
                 "model": "bicubic-x2", "workers": 1}  # fmt: skip
        with paused(night, night.started()[0]["id"]):
            by_hand = begin(night, "upres", parameters=asked)
            until(lambda: night.run(by_hand)["start_time"], serving.log)
        until(lambda: len(ended(night)) == 3, serving.log)
        before, after = [run for run in ended(night) if run["id"] != by_hand]
        (beside,) = [run for run in ended(night) if run["id"] == by_hand]
        assert [run["state_name"] for run in (before, after)] == ["Completed", "Completed"]
        assert {run["expected_start_time"][11:16] for run in (before, after)} == {at}
        assert before["end_time"] <= after["start_time"]
        assert beside["start_time"] < after["start_time"]
        assert (beside["state_type"], beside["state_name"]) == ("FAILED", "CompletedWithFailures")
        assert beside["state"]["message"].startswith("1 of 2 files was rejected; ")
    # What failed is said in a line, and not by where in the program it was noticed.
    assert "Traceback" not in serving.said
    assert "unexpected exception" not in serving.said
    assert serving.said.count("Finished in state CompletedWithFailures('1 of 2 files was ") == 1
    with night.served("--nights", 2) as serving:
        serving.ready()
        with paused(night, first := begin(night, "first")):
            second = begin(night, "second")
            until(lambda: night.run(second)["start_time"], serving.log)
        until(lambda: len(ended(night)) == 5, serving.log)
        one, other = [run for run in ended(night) if run["id"] in (first, second)]
        assert [run["state_name"] for run in (one, other)] == ["Completed", "Completed"]
        assert other["start_time"] < one["end_time"]


def test_a_run_that_died_holds_the_turn_of_no_other(
    night: Night, photo: TakePhoto, save: SavePicture
) -> None:
    for n in range(6):
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
        psutil.wait_procs(family, timeout=PATIENCE_S)
    with night.served() as serving:
        serving.ready()
        assert "1 run without a living process, marked as crashed" in serving.said
        begin(night, "short")
        until(
            lambda: [run for run in night.started() if run["state_name"] == "Completed"],
            serving.log,
        )


def begin(night: Night, name: str, **asked: Any) -> str:
    """Begin a run of the deployment of `nightly` that is called so; return its identifier."""
    (found,) = night.api(
        "deployments/filter",
        {"deployments": {"name": {"any_": [name]}}, "flows": {"name": {"any_": ["nightly"]}}},
    )
    path = f"deployments/{found['id']}/create_flow_run"
    return str(night.api(path, {"state": {"type": "SCHEDULED"}, **asked})["id"])
