"""What the log of a run keeps of errors: ours are one line, others keep their traceback."""

from __future__ import annotations

import logging

import pytest

from flows.endings import Ending, IncompleteError, ended


@pytest.mark.parametrize(
    ("error", "said", "kept"),
    [
        (IncompleteError("9 of 27 tiles failed", {}), "Engine execution exited with ...", False),
        (ArithmeticError("a bug"), "Engine execution exited with ...", True),
        (IncompleteError("9 of 27 tiles failed", {}), "something else", True),
    ],
    ids=["ours", "a bug", "another line"],
)
def test_only_a_bug_leaves_a_traceback_where_a_worker_carries_a_flow_out(
    error: Exception, said: str, kept: bool
) -> None:
    assert ended(lambda: Ending(document={})).is_completed()
    log = logging.getLogger("prefect.flow_runs")
    cause = (type(error), error, None)
    record = log.makeRecord(log.name, logging.ERROR, "engine.py", 1, said, (), cause)
    assert bool(log.filter(record)) is kept
