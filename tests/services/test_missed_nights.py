"""Nights that pass while nobody carries them out: one run makes up for all of them, and no more."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.services.nights import Night, words_of
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]

NIGHTS = 3


def let_pass(night: Night, runs: list[str]) -> None:
    """Let runs have been due a night after the other, the last an hour ago.

    So the server finds its database where the clock went on without it. All of them are due at
    once: a server that looks meanwhile must not find some of them alone.
    """
    file = night.home / "prefect" / "prefect.db"
    with closing(sqlite3.connect(file, timeout=PATIENCE_S, isolation_level=None)) as opened:
        opened.execute("BEGIN IMMEDIATE")
        for ago, run in enumerate(reversed(runs)):
            due = datetime.now(UTC) - timedelta(days=ago, hours=1)
            (state,) = opened.execute(
                "SELECT state_id FROM flow_run WHERE id = ?", [run]
            ).fetchone()
            (text,) = opened.execute(
                "SELECT state_details FROM flow_run_state WHERE id = ?", [state]
            ).fetchone()
            details = json.loads(text) | {"scheduled_time": f"{due:%Y-%m-%dT%H:%M:%S}Z"}
            opened.execute(
                "UPDATE flow_run_state SET state_details = ? WHERE id = ?",
                [json.dumps(details), state],
            )
            opened.execute(
                "UPDATE flow_run SET expected_start_time = ?1, next_scheduled_start_time = ?1,"
                " idempotency_key = NULL WHERE id = ?2",
                [f"{due:%Y-%m-%d %H:%M:%S.%f}", run],
            )
        opened.execute("COMMIT")


def test_of_several_nights_that_were_missed_one_run_does_the_work(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, named_cluster: dict[str, str]
) -> None:
    night = Night(tmp_path)
    save(tmp_path / "photos" / "a.png", photo(60, 60))

    def states(runs: list[str]) -> list[tuple[str, str]]:
        found = {run["id"]: run["state"] for run in night.runs(id={"any_": runs})}
        return [(found[run]["name"], found[run]["message"] or "") for run in runs]

    def is_over(run: str) -> bool:
        return night.run(run)["state_type"] in ("COMPLETED", "CANCELLED", "FAILED", "CRASHED")

    def coming() -> list[str]:
        return [run["id"] for run in night.coming(NIGHTS)]

    with night.served() as serving:
        serving.ready()
        at = f"{datetime.now(UTC) - timedelta(hours=2):%H:%M}"
        words = ("schedule", "photos", "my photos", "--at", at, "--timezone", "Asia/Kathmandu")
        words += ("--model", "bicubic-x2", *words_of(named_cluster))
        assert night.typed(*words).returncode == 0
        until(lambda: len(coming()) == NIGHTS)
        # The machine slept, and wakes: the server and what carries runs out go on.
        slept = coming()
        let_pass(night, slept)
        until(lambda: all(is_over(run) for run in slept), serving.log)
        *missed, last = states(slept)
        assert last[0] == "Completed", serving.said
        assert [name for name, _ in missed] == ["Cancelled"] * (NIGHTS - 1), serving.said
        assert all("missed; the run that was due at 2" in message for _, message in missed)
        until(lambda: len(coming()) == NIGHTS)
        off = coming()
        run = night.run(slept[-1])
        assert re.fullmatch(r"nightly my photos \d{4}-\d\d-\d\d \d\d:\d\d", run["name"])
        # As clocks in the time zone of the schedule show it.
        due = datetime.fromisoformat(run["expected_start_time"]) + timedelta(hours=5, minutes=45)
        assert run["name"].endswith(f"{due:%Y-%m-%d %H:%M}")
    lines = [line for line in serving.said.splitlines() if " | " in line]
    ours = [line for line in lines if ": ingest begins" in line]
    assert len(ours) == 1
    assert re.fullmatch(rf"[-0-9]{{10}} [:0-9]{{8}} \| INFO    \| {run['name']} - "
                        r"job my photos run [0-9a-f]{12}: ingest begins", ours[0])  # fmt: skip
    assert "Downloading flow code" not in serving.said
    assert "Task run" not in serving.said
    assert "Traceback" not in serving.said
    # The machine was off.
    let_pass(night, off)
    with night.served() as serving:
        serving.ready()
        assert (
            f"{NIGHTS - 1} runs missed meanwhile; the last of each job begins now" in serving.said
        )
        until(lambda: states(off)[-1][0] == "Completed", serving.log)
        assert [name for name, _ in states(off)] == ["Cancelled"] * (NIGHTS - 1) + ["Completed"]
        assert all(
            "missed: `upres serve` did not run" in message for _, message in states(off)[:-1]
        )
        finished = [run for run in night.started() if run["state_name"] == "Completed"]
        assert len(finished) == 2
