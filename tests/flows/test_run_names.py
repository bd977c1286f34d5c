"""Runs have names that a list of them can be read by."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from flows.nightly import nightly
from flows.prepare import prepare_dataset
from flows.rerun import rerun_failed
from flows.run_names import name_of, name_of_run
from flows.score import score_archive
from flows.train import train_model
from flows.upscale import upscale_archive

DUE = datetime(2026, 11, 28, 1, 0, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("flow", "parameters", "zone", "name"),
    [
        ("nightly", {"job_dir": "/j/photos"}, "Europe/Berlin", "nightly photos 2026-11-28 02:00"),
        (
            "nightly",
            {"job_dir": "/jobs/photos", "timezone": "America/New_York"},
            "Europe/Berlin",
            "nightly photos 2026-11-27 20:00",
        ),
        (
            "rerun-failed",
            {"job_dir": Path("Übersee 50%")},
            "UTC",
            "rerun-failed Übersee 50% 2026-11-28 01:00",
        ),
        ("score-archive", {"job_dir": "a\nb"}, "UTC", "score-archive a\\nb 2026-11-28 01:00"),
        ("prepare-dataset", {"dataset_dir": "/d/faces"}, "UTC",
         "prepare-dataset faces 2026-11-28 01:00"),
        ("train-model", {"out_dir": "/d/span"}, "UTC", "train-model span 2026-11-28 01:00"),
        ("nightly", {"job_dir": "/"}, "UTC", "nightly 2026-11-28 01:00"),
        ("nightly", {"job_dir": 3, "timezone": "Mars/North"}, "UTC", "nightly 3 2026-11-28 01:00"),
    ],
)  # fmt: skip
def test_a_run_is_called_by_flow_folder_and_the_time_it_was_due(
    flow: str, parameters: dict[str, Any], zone: str, name: str
) -> None:
    assert name_of(flow, parameters, DUE, lambda: zone) == name


@pytest.mark.parametrize(
    ("before", "auto", "after"),
    [
        ("second try after the disk was full", False, "second try after the disk was full"),
        ("Übersee-2", False, "Übersee-2"),
        ("singing-dove", False, "nightly photos 2026-11-28 01:00"),
        ("alpha2-yoshida-g", False, "nightly photos 2026-11-28 01:00"),
        ("iota221-paraagan", False, "nightly photos 2026-11-28 01:00"),
        ("Practical-Pug", False, "nightly photos 2026-11-28 01:00"),
        ("", False, "nightly photos 2026-11-28 01:00"),
        ("second try", True, "nightly photos 2026-11-28 01:00"),
    ],
)
def test_a_name_that_a_person_typed_stays(
    before: str, auto: bool, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FlowRun(flow_id=uuid4(), name=before, expected_start_time=DUE, auto_scheduled=auto)
    asked = {"job_dir": "/j/photos", "timezone": "UTC"}
    context = SimpleNamespace(flow=nightly, flow_run=run, parameters=asked)
    monkeypatch.setattr(FlowRunContext, "get", lambda: context)
    assert name_of_run() == after


def test_every_flow_names_its_runs_so() -> None:
    for flow in (
        nightly, prepare_dataset, rerun_failed, score_archive, train_model, upscale_archive,
    ):  # fmt: skip
        assert flow.flow_run_name is name_of_run
