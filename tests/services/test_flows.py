"""The flows on a real Prefect server: how they end there, what they show, and what stops them."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from flows import artifacts
from flows.endings import document_of
from flows.nightly import nightly
from flows.prepare import prepare_dataset
from flows.rerun import rerun_failed
from flows.score import score_archive
from flows.train import train_model
from flows.upscale import upscale_archive
from pipeline.jobs import stages
from pipeline.jobs.budget import TimedStop
from pipeline.jobs.job import hold_job, open_job
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs wait for their last figures to be shown, however slow the server is."""
    monkeypatch.setattr(artifacts, "_PATIENCE_S", PATIENCE_S)


@pytest.fixture
def asked(
    api: str, tmp_path: Path, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str]
) -> dict[str, Any]:
    """What a night on three pictures of nine tiles each is asked."""
    assert api
    for n in range(3):
        save(tmp_path / "in" / f"{n}.png", photo(80 + n, 80, at=n))
        save(tmp_path / "hr" / f"{n}.png", photo(160 + 2 * n, 160, at=n))
    return {
        "src": str(tmp_path / "in"), "job_dir": tmp_path / "job", "model": "bicubic-x2",
        "tile_px": 32, "device": "cpu", "precision": "fp32", "cluster": cluster[1],
    }  # fmt: skip


def told_by_server(api: str, state: Any) -> tuple[str, str, str]:
    """Return type, name and message of the state that the server has of a run."""
    run = httpx.get(
        f"{api}/flow_runs/{state.state_details.flow_run_id}", trust_env=False, timeout=PATIENCE_S
    ).json()
    return run["state_type"], run["state_name"], run["state"]["message"]


def artifacts_of(api: str, state: Any) -> dict[str, Any]:
    """Return the data of the artifacts of a run by what follows the job in their keys."""
    asked = {"artifacts": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
    found = httpx.post(
        f"{api}/artifacts/filter", json=asked, trust_env=False, timeout=PATIENCE_S
    ).json()
    return {one["key"].split("-", 2)[2]: one["data"] for one in found}


def test_every_flow_runs_to_its_end_and_shows_what_it_came_to(
    api: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    state = upscale_archive(**asked, reference=str(tmp_path / "hr"), return_state=True)
    assert told_by_server(api, state)[:2] == ("COMPLETED", "Completed")
    document = document_of(state)
    assert document["units"] == {"done": 27, "failed": 0, "pending": 0}
    shown = artifacts_of(api, state)
    assert {shown[f"{stage}-progress"] for stage in ("ingest", "upscale", "score")} == {100}
    assert "| Source, since the last run | 3 new, 0 changed, 0 vanished |" in shown["summary"]
    assert "| Tiles | 27 done, 0 failed, 0 pending |" in shown["summary"]
    assert "| Gain over bicubic | +0.00 dB" in shown["summary"]
    assert "| Time left in the budget | no budget |" in shown["summary"]
    assert shown["pictures"].count("(data:image/") == 6
    assert len(shown["pictures"]) < 1_100_000
    assert len(json.loads(shown["tiles"])) == 25
    assert "report.html" in shown["links"]
    job = {"job_dir": asked["job_dir"], "cluster": asked["cluster"]}
    for flow in (score_archive, rerun_failed):
        again = flow(**job, return_state=True)
        assert told_by_server(api, again)[:2] == ("COMPLETED", "Completed")
    made = prepare_dataset(
        src=str(tmp_path / "hr"), dataset_dir=tmp_path / "dataset", recipe="span-x2",
        settings=("patch_hr_px=64",), cluster=asked["cluster"], return_state=True,
    )  # fmt: skip
    assert told_by_server(api, made)[0] == "COMPLETED", made.message
    trained = train_model(
        src=str(tmp_path / "dataset"), out_dir=tmp_path / "out", recipe="span-x2",
        settings=("steps=2",), device="cpu", readers=0, return_state=True,
    )  # fmt: skip
    assert told_by_server(api, trained)[0] == "COMPLETED", trained.message


def test_a_night_with_failed_tiles_is_red_and_says_how_many_until_a_rerun_mends_them(
    api: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    nightly(**asked, return_state=True)
    shard = next(p for p in (tmp_path / "job" / "source.zarr" / "2.png" / "0" / "c").rglob("*")
                 if p.is_file())  # fmt: skip
    kept = shard.read_bytes()
    shard.unlink()
    state = nightly(**asked | {"model": "lanczos-x2"}, return_state=True)
    kind, name, message = told_by_server(api, state)
    assert (kind, name) == ("FAILED", "CompletedWithFailures")
    assert message == (
        "9 of 27 tiles failed, 1 of 4 files was rejected; start rerun-failed with "
        f"job_dir={tmp_path / 'job'}"
    )
    assert document_of(state)["units"] == {"done": 18, "failed": 9, "pending": 0}
    rows = json.loads(artifacts_of(api, state)["tiles"])
    assert [row["item"] for row in rows if row["reason"]] == ["2.png"] * 9 + ["broken.png"]
    shard.write_bytes(kept)
    (tmp_path / "in" / "broken.png").unlink()
    mended = rerun_failed(job_dir=asked["job_dir"], cluster=asked["cluster"], return_state=True)
    assert document_of(mended)["computed_units"] == 9
    kind, name, message = told_by_server(api, nightly(**asked | {"model": "lanczos-x2"},
                                                      return_state=True))  # fmt: skip
    assert (kind, name) == ("COMPLETED", "Completed"), message


def test_a_night_whose_time_is_up_says_what_is_left_and_the_next_one_goes_on(
    api: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = partial(TimedStop, now=lambda: time.time() + 2e5)
    monkeypatch.setattr(stages, "TimedStop", late)
    state = nightly(**asked, budget="1h", return_state=True)
    assert told_by_server(api, state) == (
        "COMPLETED", "OutOfTime",
        "time was up, left: 3 files of the source; the next run goes on",
    )  # fmt: skip
    assert "| Time left in the budget | none |" in artifacts_of(api, state)["summary"]
    monkeypatch.setattr(stages, "TimedStop", TimedStop)
    state = nightly(**asked, budget="1h", return_state=True)
    assert told_by_server(api, state)[:2] == ("COMPLETED", "Completed")
    assert document_of(state)["computed_units"] == 27


def test_a_job_that_another_run_holds_is_refused_in_one_line_that_says_who(
    api: str, asked: dict[str, Any]
) -> None:
    nightly(**asked, return_state=True)
    with hold_job(open_job(asked["job_dir"]), "nightly flow"):
        state = nightly(**asked, return_state=True)
    kind, name, message = told_by_server(api, state)
    assert (kind, name) == ("FAILED", "Skipped")
    assert f"is held by nightly flow (pid {os.getpid()} on " in message
    assert "\n" not in message
