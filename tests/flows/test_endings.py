"""What the log of a run keeps of errors: ours are one line, others keep their traceback."""

from __future__ import annotations

import logging

import pytest

from flows.endings import Ending, IncompleteError, ended


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (IncompleteError("9 of 27 tiles failed", {}), False),
        (ArithmeticError("a bug"), True),
    ],
    ids=["ours", "a bug"],
)
def test_only_a_bug_leaves_a_traceback_where_a_worker_carries_a_flow_out(
    error: Exception, kept: bool
) -> None:
    assert ended(lambda: Ending(document={})).is_completed()
    log = logging.getLogger("prefect.flow_runs")
    cause = (type(error), error, None)
    record = log.makeRecord(
        log.name,
        logging.ERROR,
        "engine.py",
        1,
        "Engine execution exited with unexpected exception",
        (),
        cause,
    )
    assert bool(log.filter(record)) is kept
