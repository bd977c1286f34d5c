"""What is shown in the UI of Prefect never stops a run, whatever becomes of Prefect."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.client.schemas.actions import ArtifactCreate

from flows import artifacts
from flows.artifacts import key_of, moving, show_looks
from pipeline.reports.night import Look
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    import pytest


class Context:
    """Stands where a flow run would be."""

    @staticmethod
    def get() -> Context:
        return Context()


def gone(*_words: Any, **_options: Any) -> None:
    raise ConnectionError("all attempts failed\nagain")


def test_a_server_that_is_gone_costs_a_warning_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(artifacts, "FlowRunContext", Context)
    for name in ("create_progress_artifact", "create_table_artifact"):
        monkeypatch.setattr(artifacts, name, gone)
    with caplog.at_level(logging.WARNING):
        with moving(Path("job"), "upscale") as show:
            show(1, 2)
        show_looks(Path("job"), [Look("a.png", 3, "MemoryError: none")])
    lines = [record.getMessage() for record in caplog.records if "artifact" in record.getMessage()]
    assert len(lines) == 2
    assert all(line.endswith("ConnectionError: all attempts failed again") for line in lines)


def test_progress_is_shown_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[float] = []
    monkeypatch.setattr(artifacts, "FlowRunContext", Context)
    monkeypatch.setattr(artifacts, "PROGRESS_EVERY_S", 0.1)
    monkeypatch.setattr(
        artifacts, "create_progress_artifact", lambda percent, **_: shown.append(percent) or "id"
    )
    monkeypatch.setattr(
        artifacts, "update_progress_artifact", lambda _, percent, **__: shown.append(percent)
    )
    began = time.monotonic()
    with moving(Path("job"), "upscale") as show:
        for n in range(1, 538):
            show(n, 537)
            time.sleep(0.001)
    assert shown[-1] == 100
    assert all(percent == round(percent, 1) for percent in shown)
    assert shown == sorted(shown)
    assert 2 <= len(shown) <= 3 + (time.monotonic() - began) / 0.1


def test_the_progress_of_every_stage_has_a_key_that_prefect_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys: list[str] = []
    monkeypatch.setattr(artifacts, "FlowRunContext", Context)
    monkeypatch.setattr(
        artifacts, "create_progress_artifact", lambda _, key, **__: keys.append(key) or "id"
    )
    monkeypatch.setattr(artifacts, "update_progress_artifact", lambda *_, **__: None)
    for stage in ("ingest", "upscale", "score", "export", "let go"):
        with moving(Path("A job"), stage) as show:
            show(1, 1)
    assert len(set(keys)) == 5
    for key in keys:
        assert ArtifactCreate(key=key).key == key


def test_a_server_that_hangs_does_not_hold_up_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "FlowRunContext", Context)
    before = threading.enumerate()
    monkeypatch.setattr(artifacts, "_PATIENCE_S", 0.1)
    answers = threading.Event()
    monkeypatch.setattr(
        artifacts, "create_progress_artifact", lambda *_, **__: answers.wait(PATIENCE_S)
    )
    monkeypatch.setattr(artifacts, "update_progress_artifact", lambda *_, **__: None)
    try:
        with moving(Path("job"), "upscale") as show:
            show(1, 2)
        hanging = [one for one in threading.enumerate() if one not in before]
        assert hanging, "it still hangs"
    finally:
        answers.set()
    for one in hanging:
        one.join(PATIENCE_S)  # It would speak to a real server once the test has ended.


def test_the_keys_of_two_jobs_differ_and_are_ones_that_prefect_takes() -> None:
    keys = {key_of(Path(name), "summary") for name in ("a/Job", "b/Job", "a/job", "a/Ünü 日本")}
    assert len(keys) == 4
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for key in keys)


def test_a_table_says_what_its_figures_are_against_and_has_no_empty_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables: list[list[dict[str, Any]]] = []
    monkeypatch.setattr(artifacts, "FlowRunContext", Context)
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, **_: tables.append(rows))
    show_looks(Path("job"), [Look("a.png", 3, gain=-0.5, psnr=30.0)])
    show_looks(Path("job"), [Look("b.png", None, "OSError: x"), Look("a.png", 0, psnr=48.0)])
    small_again = "PSNR-Y of SR made small again, to its LR, dB"
    assert tables == [
        [{"item": "a.png", "tile": 3, "state": "done", "gain over bicubic, dB": "-0.50",
          "PSNR-Y, dB": "30.00"}],
        [{"item": "b.png", "tile": "", "state": "failed", "reason": "OSError: x", small_again: ""},
         {"item": "a.png", "tile": 0, "state": "done", "reason": "", small_again: "48.00"}],
    ]  # fmt: skip
