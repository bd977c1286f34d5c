"""How `upres demo` ends; that it does what it says is tried where the README types it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from flows.demo import demo
from flows.demo.demo import DemoResult

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command

COMPLETE: dict[str, Any] = {
    "items": {"done": 8, "failed": 0, "pending": 0, "rejected": 0},
    "scores": {"items": [], "failures": [], "psnr_y": 31.0, "bicubic_psnr_y": 29.5},
    "export": {"failures": []},
    "computed_units": 122,
    "seconds": 1.0,
    "report": "job/report.html",
}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 0),
        ({"items": {"done": 7, "failed": 1, "pending": 0, "rejected": 0}}, 3),
        ({"items": {"done": 7, "failed": 0, "pending": 1, "rejected": 0}}, 3),
        ({"items": {"done": 7, "failed": 0, "pending": 0, "rejected": 1}}, 3),
        ({"scores": {**COMPLETE["scores"], "failures": [{"item": "a"}]}}, 3),
        ({"export": {"failures": [{"item": "a"}]}}, 3),
    ],
)
def test_what_was_not_done_is_in_the_exit_code_and_the_document_is_printed(
    upres: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any],
    code: int,
) -> None:  # fmt: skip
    document = COMPLETE | change
    monkeypatch.setattr(demo, "run_demo", lambda folder, *_, **__: DemoResult(folder, document))
    said = upres("demo", tmp_path / "demo", "--json")
    assert said.code == code
    assert json.loads(said.out) == document
