"""Runs have names that a list of them can be read by."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

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


def test_every_flow_names_its_runs_so() -> None:
    for flow in (
        nightly, prepare_dataset, rerun_failed, score_archive, train_model, upscale_archive,
    ):  # fmt: skip
        assert flow.flow_run_name is name_of_run
