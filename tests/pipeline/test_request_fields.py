"""Fields of requests: each has one default and one help text, wherever it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest

from pipeline.compute.request import LimitedWorkersRequest, WorkersRequest
from pipeline.dataset.request import PrepareRequest
from pipeline.jobs.request import (
    ExportRequest,
    IngestRequest,
    RerunRequest,
    ScoreRequest,
    UpscaleRequest,
)
from pipeline.request_fields import field_of, help_of, is_needed, needed, optional, same_as
from pipeline.sources.request import SourceRequest
from pipeline.training.request import TrainRequest

REQUESTS = (
    ExportRequest, IngestRequest, LimitedWorkersRequest, PrepareRequest, RerunRequest, ScoreRequest,
    SourceRequest, TrainRequest, UpscaleRequest, WorkersRequest,
)  # fmt: skip
SHARED = ("cluster", "workers", "limit_s", "src", "names", "reference", "settings")


@dataclass(frozen=True, kw_only=True)
class First:
    place: str = needed("Where it is.")
    least: int = optional(3, "The fewest.")


@dataclass(frozen=True, kw_only=True)
class Second:
    source: str = same_as(First, "place")
    fewest: int = same_as(First, "least")


def test_a_field_that_is_the_same_has_the_same_default_and_help() -> None:
    assert Second(source="here") == Second(source="here", fewest=3)
    assert help_of(Second, "source") == "Where it is."
    assert help_of(Second, "fewest") == "The fewest."
    assert [is_needed(field_of(Second, name)) for name in ("source", "fewest")] == [True, False]
    with pytest.raises(TypeError, match="source"):
        Second()  # type: ignore[call-arg]


@pytest.mark.parametrize("request_type", REQUESTS)
def test_every_field_of_every_request_says_what_it_means(request_type: type[Any]) -> None:
    for field in fields(request_type):
        assert help_of(request_type, field.name).endswith((".", "]")), field.name


@pytest.mark.parametrize("name", SHARED)
def test_what_several_requests_ask_for_is_the_same_in_all(name: str) -> None:
    having = [
        one
        for one in REQUESTS
        if any(field.name == name for field in fields(one))
        # Of a training it may be a dataset as well.
        and (one, name) != (TrainRequest, "src")
    ]
    assert len(having) > 1
    assert len({(help_of(one, name), str(field_of(one, name).default)) for one in having}) == 1
