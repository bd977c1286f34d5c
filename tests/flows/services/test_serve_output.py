"""What `upres serve` prints leaves out what is about Prefect alone, and nothing else."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.services.serve_output import SETTINGS, is_noise, told_in_a_line

SCRIPT = """
import logging
import prefect.main
about = {"flow_run_name": "nightly photos 2026-11-28 02:00", "flow_run_id": "1", "flow_name": "f",
         "send_to_api": False}
log = logging.getLogger("prefect.flow_runs")
log.info("Downloading flow code from storage at '.'", extra=about)
log.warning("Downloading flow code from storage at '.'", extra=about)
task = about | {"task_run_name": "upscale_tiles-1", "task_run_id": "2", "task_name": "t"}
log = logging.getLogger("prefect.task_runs")
log.info("job photos run 1: upscale begins", extra=task)
log.info("Finished in state Completed()", extra=task)
log.error("Finished in state Failed('x')", extra=task)
"""


@pytest.mark.parametrize(
    ("name", "level", "line", "noise"),
    [
        ("prefect.flow_runs", logging.INFO, "Downloading flow code from storage at '.'", True),
        ("prefect.flow_runs", logging.WARNING, "Downloading flow code from storage at '.'", False),
        ("prefect.flow_runs", logging.INFO, "Running hook 'tell' in response to", True),
        ("prefect.flow_runs", logging.INFO, "Hook 'tell' finished running successfully", True),
        ("prefect.flow_runs", logging.ERROR, "Hook 'tell' failed: OSError", False),
        ("prefect.task_runs", logging.INFO, "Finished in state Completed()", True),
        ("prefect.task_runs", logging.ERROR, "Finished in state Failed('no')", False),
        ("prefect.task_runs", logging.INFO, "Finished in state Cancelled()", False),
        ("prefect.flow_runs", logging.INFO, "Finished in state Completed()", False),
        ("prefect.flow_runs", logging.INFO, "job photos run 1: ingest begins", False),
        ("upres", logging.INFO, "Finished in state Completed()", False),
    ],
)
def test_only_lines_about_prefect_itself_are_noise(
    name: str, level: int, line: str, noise: bool
) -> None:
    record = logging.LogRecord(name, level, "", 0, "%s", (line,), None)
    assert is_noise(record) is noise


@pytest.mark.parametrize(("level", "shown"), [(logging.WARNING, False), (logging.ERROR, True)])
def test_a_warning_says_its_reason_in_a_line_and_an_error_where_it_was_noticed(
    level: int, shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("prefect.FlowRunCancellingObserver")
    logger.addFilter(told_in_a_line)
    try:
        raise ConnectionError("no close frame received")  # noqa: TRY301
    except ConnectionError as error:
        logger.log(level, "The %s websocket failed", "observer's", exc_info=error)
    finally:
        logger.removeFilter(told_in_a_line)
    assert ("Traceback" in caplog.text) is shown
    assert "no close frame received" in caplog.text
    assert len(caplog.text.splitlines()) == 1 or shown


@pytest.mark.slow
def test_a_process_of_a_run_prints_lines_that_name_the_run(tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    root = Path(__file__).parents[3]
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=environ | SETTINGS | {"PYTHONPATH": str(root), "PREFECT_HOME": str(tmp_path)},
    ).stderr  # fmt: skip
    shown = [line.split(" | ", 1) for line in said.splitlines() if " | " in line]
    run = "nightly photos 2026-11-28 02:00"
    assert [line for _, line in shown] == [
        f"WARNING | {run} - Downloading flow code from storage at '.'",
        f"INFO    | {run} - job photos run 1: upscale begins",
        f"ERROR   | {run} - Finished in state Failed('x')",
    ]
    assert all(len(time) == len("2026-11-28 02:00:00") for time, _ in shown)
