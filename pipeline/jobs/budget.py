"""How long a run may go on: until a time of the day, for a duration, or until the first of both.

A run whose time is up finishes the units in work and submits no more. The next run continues.
Everything here is arithmetic on instants in UTC. A change of the clocks in the night changes the
length of a budget, never its end.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.compute.stop import Stop
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_DURATION = re.compile(r"(?:(\d+)h)? ?(?:(\d+)m(?:in)?)? ?(?:(\d+)s)?", re.IGNORECASE)
_UNIT_S = (3600, 60, 1)
_MOST_S = 366 * 86_400
_MOST_SHIFT = timedelta(hours=2)
"""No clock is put forward by more."""

SCORE_GRACE_S = 300.0
EXPORT_GRACE_S = 900.0
"""Seconds by which stages may pass the end that only look at what is finished. Export has more of
them than score, which comes first, so that a night's pictures are there in the morning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The limits asked for: ``until`` a time such as 06:30, or a ``budget`` such as 5h30m."""

    until: str = ""
    budget: str = ""
    timezone: str = ""
    """IANA name, of the times in `until`; "" is that of this machine."""

    def __post_init__(self) -> None:
        if self.until and _TIME.fullmatch(self.until) is None:
            raise UsageError(f"until is {self.until!r}, expected a time of the day such as 06:30")
        if self.budget and not 0 < _seconds(self.budget) <= _MOST_S:
            raise UsageError(
                f"budget is {self.budget!r}, expected a duration such as 5h or 90m, at most a year"
            )
        zone_of(self.timezone)

    def ends(self, begins: datetime, *, due: datetime | None = None) -> datetime | None:
        """Return the instant (UTC) at which a run that begins then is to end; None for never.

        `due` is when it should have begun. A run due at 2:00 that is late, because the machine was
        off, still ends at 6:30 of that day, even if that time is past. So does a run due at 2:30
        that is to end at 3:00, in the night in which clocks go from 2:00 to 3:00.
        """
        begins = begins.astimezone(UTC)  # In a zone, adding hours would add what clocks show.
        due = begins if due is None else min(begins, _unshifted(due, self.timezone))
        ends = [
            *([next_time(self.until, due, self.timezone)] if self.until else []),
            *([begins + timedelta(seconds=_seconds(self.budget))] if self.budget else []),
        ]
        return min(ends) if ends else None


class TimedStop(Stop):
    """A stop that requests itself once an instant is reached, or when `asked` is requested."""

    def __init__(
        self,
        ends: datetime | None,
        *,
        asked: Stop | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.ends = ends
        self.asked = asked or Stop()
        """What asks for a stop before the time is up."""
        self._ends_s = None if ends is None else ends.timestamp()
        # The wall clock: a machine that slept through the night must not go on by day.
        self._now = now

    def request(self) -> None:
        """Ask for the stop."""
        self.asked.request()

    @property
    def requested(self) -> bool:
        """Return whether a stop was asked for, or the time is up."""
        return self.asked.requested or self.out_of_time

    def later(self, grace_s: float) -> TimedStop:
        """Return the same stop with more seconds; a request to one is a request to both."""
        ends = None if self.ends is None else self.ends + timedelta(seconds=grace_s)
        return TimedStop(ends, asked=self.asked, now=self._now)

    @property
    def out_of_time(self) -> bool:
        """Return whether the time is up."""
        return self._ends_s is not None and self._now() >= self._ends_s

    @property
    def left_s(self) -> float | None:
        """Return the seconds that are left, at least 0; None where there is no end."""
        return None if self._ends_s is None else max(0.0, self._ends_s - self._now())


def zone_of(name: str) -> ZoneInfo | None:
    """Return a time zone by its IANA name; None, for "", stands for that of this machine.

    Raises:
        UsageError: if there is none of that name.
    """
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"timezone is {name!r}, expected an IANA name such as Europe/Berlin"
        ) from error


def next_time(clock: str, after: datetime, timezone: str) -> datetime:
    """Return the first instant after `after` at which clocks in the zone show a time.

    For a time that the clocks skip, it is the instant at which they would have shown it. Of a time
    that they show twice, both instants count.
    """
    hour, minute = (int(part) for part in clock.split(":"))
    zone = zone_of(timezone)
    today = after.astimezone(zone).date()
    shown = (
        instant
        for day in (today, today + timedelta(days=1), today + timedelta(days=2))
        for instant in _instants(day, hour, minute, zone)
    )
    return next(instant for instant in shown if instant > after)


def _unshifted(due: datetime, timezone: str) -> datetime:
    """Return when a run was due, in UTC, earlier by what clocks were put forward just before.

    A schedule whose time they skip begins later by that, so its end may be past already.
    """
    due, zone = due.astimezone(UTC), zone_of(timezone)

    def ahead(instant: datetime) -> timedelta:
        return instant.astimezone(zone).utcoffset() or timedelta()

    shift = ahead(due) - ahead(due - _MOST_SHIFT)
    skipped = shift > timedelta() and ahead(due - shift) < ahead(due)
    return due - shift if skipped else due


def _instants(day: date, hour: int, minute: int, zone: ZoneInfo | None) -> Iterator[datetime]:
    """Yield when clocks show a time on a day, in order: once or twice."""
    local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
    # Of a time that is skipped, the later of the two readings is not a time of that day.
    first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    yield first
    if second > first:
        yield second


def _seconds(text: str) -> int:
    """Return the seconds of a duration such as 5h, 90m or 1h30m; 0 where it is none."""
    match = _DURATION.fullmatch(text.strip())
    parts = match.groups() if match else ()
    return sum(int(part) * unit for part, unit in zip(parts, _UNIT_S, strict=False) if part)
