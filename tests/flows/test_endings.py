"""What the log of a run keeps of errors: ours are one line, others keep their traceback."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows.endings import Ending, IncompleteError, ended, ending_of_job
from pipeline.compute.outcomes import Failure
from pipeline.compute.status import JobStatus
from pipeline.jobs.results import JobResult


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


def test_a_run_that_could_not_export_says_the_first_reason_and_where_the_others_are() -> None:
    failures = tuple(
        Failure(f"{n}.png", None, "DiskError", "out cannot be written; free some space")
        for n in range(2)
    )
    status = JobStatus(Path("job"), (), ())
    for count, says in (
        (1, "1 item could not be scored or exported: 0.png: DiskError: out cannot be written; "
            "free some space"),
        (2, "2 items could not be scored or exported: 0.png: DiskError: out cannot be written; "
            "free some space (and 1 more like this)"),
    ):  # fmt: skip
        result = JobResult(status=status, unscored=failures[:count])
        said = ending_of_job(result, {}, job_dir=Path("job")).trouble
        assert said == f"{says}; the log says which"
