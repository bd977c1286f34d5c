"""From what a person types to a job that runs every night: times, zones, and places.

A run has another working folder than the person who schedules it, so places are made absolute.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from flows.services.server import configured
from models.shipped import shipped
from pipeline.errors import UsageError
from pipeline.jobs.budget import zone_of
from pipeline.jobs.job import check_folder
from pipeline.sources.listing import EMPTY_SOURCE
from pipeline.storage.ledger.connections import check_place, parse_url
from pipeline.storage.places import lineage
from pipeline.storage.store import Place, place_of

if TYPE_CHECKING:
    from pipeline.jobs.request import UpscaleRequest

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_LOGIN = re.compile(r"(?:^|/)[a-z][a-z0-9+.-]*:/{1,2}[^/@:]*:[^/@]+@", re.IGNORECASE)
"""A user and a password in an address; of a path, one of both slashes is gone."""
_ZONES = "zoneinfo/"
_OF_MODEL = {"model", "restore", "tile_px", "halo", "precision", "backend", "device"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledJob:
    """A job that runs every night."""

    request: UpscaleRequest
    at: str
    """When it begins, such as 02:00, by the clocks of `timezone`."""
    timezone: str
    name: str = ""
    """What to call it; "" is for the name of its folder."""

    @property
    def cron(self) -> str:
        """Return when it begins in cron's words."""
        hour, minute = self.at.split(":")
        return f"{int(minute)} {int(hour)} * * *"

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what the flow is to be asked for: what is not a default."""
        return {
            name: str(value) if isinstance(value, Place) else value
            for name, value in _not_default(self.request).items()
        }


def _not_default(request: UpscaleRequest) -> dict[str, Any]:
    """Return the fields of a request that are asked for, by name."""
    asked = ((one.name, getattr(request, one.name), one.default) for one in fields(request))
    return {name: value for name, value, default in asked if value != default}


def check_at(at: str) -> str:
    """Return a time of the day as 02:00.

    Raises:
        UsageError: if it is not one.
    """
    match = _TIME.fullmatch(at)
    if match is None:
        raise UsageError(f"--at is {at!r}, expected a time of the day such as 02:00")
    return f"{int(match[1]):02}:{match[2]}"


def check_job(request: UpscaleRequest, at: str) -> None:
    """Refuse a job that would fail every night; `at` is when it begins, such as 02:00.

    Raises:
        UsageError: if the request cannot be, or its folder holds other things, or it would end at
            the minute at which it begins, or a place is not UTF-8 or holds a password.
        ModelError: if the model cannot be loaded. What another machine has is not known here.
        NoSourceError: if there is nothing at the source at the moment; all else is right then.
    """
    if not request.src:
        raise UsageError(EMPTY_SOURCE)
    for place in (request.src, request.job_dir, request.reference or "", request.export_dir or ""):
        _check_text(str(place))
    for name, value in _not_default(request).items():
        _check_secret(name, _LOGIN.search(str(value)))
    check_folder(request.job_dir)
    _check_ledger(request.ledger)
    if not configured():
        _check_here(request)
    if request.until.zfill(len(at)) == at:
        raise UsageError(
            f"--until {request.until} is when the run begins; name another time, or leave it out "
            "for a run until everything is done"
        )
    request.check()


def _check_here(request: UpscaleRequest) -> None:
    """Refuse what this machine, which is to carry the job out, lacks.

    Raises:
        UsageError: if there is no such file of clusters, or the upscaling cannot be.
        ModelError: if the model cannot be loaded.
    """
    asked = _OF_MODEL & _not_default(request).keys()
    # A model that comes with upres can be loaded: to try it would take torch, and so two seconds.
    if asked and not (asked == {"model"} and request.model in shipped()):
        request.upscaling()
    if request.clusters is not None and not request.clusters.is_file():
        raise UsageError(f"--clusters {request.clusters} is not a file; check the path")


def check_writable(request: UpscaleRequest) -> None:
    """Refuse a job or an export on this machine that this user may not write at the moment.

    Raises:
        UsageError: then. Its disk may not be mounted yet.
    """
    for place in (request.job_dir, request.export_dir):
        if configured() or not isinstance(place, Path):
            continue
        nearest = lineage(place)[0].path
        if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
            raise UsageError(
                f"{place} cannot be written, as {nearest} is read-only or closed to this user; "
                "open it, or name another folder"
            )


def _check_ledger(ledger: str | None) -> None:
    """Refuse a ledger whose URL cannot be, or shows its password.

    Raises:
        UsageError: then.
    """
    if ledger is None:
        return
    url = parse_url(ledger)
    _check_secret("ledger", url.password or [key for key in url.query if "password" in key])
    if not configured():
        check_place(url)


def _check_secret(name: str, secret: object) -> None:
    """Refuse a password in what everybody can read who can open Prefect's pages.

    Raises:
        UsageError: then.
    """
    if secret:
        raise UsageError(
            f"{name} holds a password, which the pages would show with the schedule; leave it "
            "out, and supply it on the machine of the job, for PostgreSQL in PGPASSFILE"
        )


def zone_name(timezone: str) -> str:
    """Return the name of a time zone; for "" that of this machine.

    Raises:
        UsageError: if there is none of that name, or this machine does not say its own.
    """
    if timezone:
        zone_of(timezone)
        return timezone
    own = os.environ.get("TZ", "").removeprefix(":") or _zone_of_machine()
    try:
        ZoneInfo(own)
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError.
        raise UsageError(_unknown(own)) from error
    except KeyError as error:
        raise UsageError(_unknown(own)) from error
    return own


def scheduled(
    request: UpscaleRequest, *, at: str, timezone: str, folder: Path, name: str = ""
) -> ScheduledJob:
    """Return the job that a request asks for; its relative places are below `folder`.

    Raises:
        UsageError: if `at` is not a time of the day, or there is no such time zone.
    """
    at, zone = check_at(at), zone_name(timezone)
    request = replace(placed(request, folder), timezone=zone if request.until else "")
    return ScheduledJob(request=request, at=at, timezone=zone, name=name)


def placed(request: UpscaleRequest, folder: Path) -> UpscaleRequest:
    """Return a request whose places are absolute; relative ones are below `folder`."""
    ledger = request.ledger
    if ledger and re.match("sqlite:///[^/]", ledger):
        ledger = f"sqlite:///{_absolute(folder, ledger.removeprefix('sqlite:///'))}"
    return replace(
        request,
        src=request.src and _absolute(folder, request.src),
        job_dir=place_of(_absolute(folder, request.job_dir)),
        reference=request.reference and _absolute(folder, request.reference),
        export_dir=request.export_dir and place_of(_absolute(folder, request.export_dir)),
        model=_model(folder, request.model),
        clusters=request.clusters and Path(_absolute(folder, request.clusters)),
        ledger=ledger,
    )


def _model(folder: Path, model: str) -> str:
    """Return what names the same model in any folder. A name goes before a file, as in `load`."""
    if not (folder / model).is_file():
        return model
    from models.checkpoint import is_name
    from pipeline.jobs.choice import is_auto

    return model if is_auto(model) or is_name(model) else _absolute(folder, model)


def _check_text(place: str) -> None:
    """Refuse a place that the server, which keeps everything as text, could not keep.

    Raises:
        UsageError: then.
    """
    try:
        place.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{place!r} has bytes that are not UTF-8, which no schedule can keep; rename it"
        ) from error


def _absolute(folder: Path, place: str | Place) -> str:
    if "://" in str(place):
        return str(place)
    return os.path.abspath(folder / Path(str(place)).expanduser())  # noqa: PTH100 - links stay.


def _zone_of_machine() -> str:
    link = os.path.realpath("/etc/localtime")
    return link.split(_ZONES, 1)[1] if _ZONES in link else "UTC"


def _unknown(own: str) -> str:
    return f"the time zone of this machine is {own!r}, which has no name; add --timezone ZONE"
