"""How many more nights a job takes, by what one night did."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.compute.status import JobStatus
from pipeline.jobs.ingest.stage import Ingestion
from pipeline.jobs.results import JobResult
from pipeline.reports.night import Speed, nights_left
from pipeline.storage.ledger import INGESTED, ItemCount


def result_of(*, done: int, pending: int, unread: int = 0, new: int = 0) -> JobResult:
    """Return what a night left behind whose time was up."""
    count = ItemCount(item="a", state=INGESTED, units=done + pending, done=done, failed=0)
    ingestion = Ingestion([], new=new, unread=unread)
    status = JobStatus(Path("job"), (count,), ())
    return JobResult(status=status, ingestion=ingestion, time_is_up=True)


@pytest.mark.parametrize(
    ("result", "computed", "nights"),
    [
        (result_of(done=10, pending=20), 10, 2),
        (result_of(done=10, pending=21), 10, 3),
        (result_of(done=10, pending=21), 0, None),
        (result_of(done=10, pending=0), 10, 0),
        (result_of(done=10, pending=0, unread=7, new=3), 10, 3),
        (result_of(done=10, pending=0, unread=7), 10, None),
    ],
)
def test_what_is_left_is_divided_by_what_a_night_does(
    result: JobResult, computed: int, nights: int | None
) -> None:
    assert nights_left(result, Speed(units=computed)) == nights


def test_speed_is_unknown_where_nothing_was_computed() -> None:
    assert Speed().megapixels_per_s is None
    assert Speed(units=4, megapixels=6.0, seconds=3.0).megapixels_per_s == 2.0


def test_attempts_add_up() -> None:
    both = Speed(units=4, megapixels=6.0, seconds=3.0) + Speed(units=1, megapixels=2.0, seconds=1.0)
    assert both == Speed(units=5, megapixels=8.0, seconds=4.0)
