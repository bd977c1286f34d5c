"""A file of jobs to schedule: TOML, with a table for each job.

A table holds the fields of the request of `upres upscale`, by their names, and `at`. Relative paths
are below the folder that the file is in.
"""

from __future__ import annotations

import datetime
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from flows.services.scheduling import ScheduledJob, check_job, check_writable, scheduled
from pipeline.errors import ModelError, NoSourceError, UsageError
from pipeline.jobs.request import UpscaleRequest
from pipeline.storage.store import BucketPlace, place_of
from pipeline.tables import read_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_AT = "at"
_KINDS: dict[type, tuple[type, ...]] = {float: (int, float), Path: (str,)}
_WORDS = {
    str: "a text",
    Path: "a path",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def read_jobs(file: Path, *, warn: Callable[[str], None]) -> list[ScheduledJob]:
    """Return the jobs of a file; `warn` hears of places that are not there or closed at the moment.

    Raises:
        UsageError: if the file is not TOML, or a table asks for what cannot be; in one line.
    """
    jobs = [_job(file, name, table, warn) for name, table in read_toml(file).items()]
    places = [job.request.job_dir.resolve() for job in jobs]
    for n, place in enumerate(places):
        if place in places[:n]:
            names = [jobs[places.index(place)].name, jobs[n].name]
            raise UsageError(
                f"{file}: [{names[0]}] and [{names[1]}] have the same job_dir, {place}"
            )
    return jobs


def _job(file: Path, name: str, table: Any, warn: Callable[[str], None]) -> ScheduledJob:
    where = f"{file}: [{name}]"
    if not isinstance(table, dict):
        raise UsageError(f"{file}: {name} is not in a table; begin each job with its [NAME]")
    types = {**get_type_hints(UpscaleRequest), _AT: str}
    for key in table:
        if key not in types:
            raise UsageError(f"{where} has the key {key!r}, expected one of {', '.join(types)}")
    needed = [_AT, *(one.name for one in fields(UpscaleRequest) if one.name in ("src", "job_dir"))]
    for key in needed:
        if key not in table:
            raise UsageError(f"{where} has no {key}, which every job needs")
    asked = {key: _value(f"{where} {key}", value, types[key]) for key, value in table.items()}
    try:
        return _checked(name, asked, file.absolute().parent, lambda line: warn(f"{where} {line}"))
    except (UsageError, ModelError) as error:
        raise UsageError(f"{where}: {error}") from error


def _checked(
    name: str, asked: dict[str, Any], folder: Path, warn: Callable[[str], None]
) -> ScheduledJob:
    at, timezone = asked.pop(_AT), asked.pop("timezone", "")
    job = scheduled(UpscaleRequest(**asked), at=at, timezone=timezone, folder=folder, name=name)
    with _warned_of(NoSourceError, warn):
        check_job(job.request, job.at)
    with _warned_of(UsageError, warn):
        check_writable(job.request)
    return job


@contextmanager
def _warned_of(error: type[Exception], warn: Callable[[str], None]) -> Iterator[None]:
    """Make a warning of an error that may be gone by the time the job runs."""
    try:
        yield
    except error as passing:
        warn(f"is scheduled, but at the moment {passing}")


def _value(where: str, value: Any, kind: Any) -> Any:
    """Return a value of TOML as one of a request."""
    if isinstance(value, datetime.time):
        value = f"{value:%H:%M}"
    kinds = [one for one in get_args(kind) if one is not NoneType] if _is_union(kind) else [kind]
    for one in kinds:
        if one is Path and isinstance(value, str):
            return place_of(value)
        accepted = _KINDS.get(one, (one,))
        if isinstance(value, accepted) and (one is bool or not isinstance(value, bool)):
            return one(value)
    wanted = " or ".join(_WORDS.get(one, one.__name__) for one in kinds if one is not BucketPlace)
    raise UsageError(f"{where} is {value!r}, expected {wanted}")


def _is_union(kind: Any) -> bool:
    return isinstance(kind, UnionType) or len(get_args(kind)) > 1
