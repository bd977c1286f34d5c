"""A run ends at its time, whatever the clocks did that night."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.jobs.budget import Budget, TimedStop, next_time

BERLIN = "Europe/Berlin"


def berlin(text: str, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN), fold=fold)


@pytest.mark.parametrize(
    ("begins", "until", "ends"),
    [
        ("2026-11-28T02:00", "06:30", "2026-11-28T05:30Z"),
        ("2026-11-28T22:00", "06:30", "2026-11-29T05:30Z"),
        ("2026-11-28T06:30", "06:30", "2026-11-29T05:30Z"),
        # Clocks go from 2:00 to 3:00: the night is an hour shorter, its end is what clocks show.
        ("2026-03-28T22:00", "06:30", "2026-03-29T04:30Z"),
        ("2026-03-29T01:00", "02:30", "2026-03-29T01:30Z"),
        # Clocks go from 3:00 back to 2:00.
        ("2026-10-24T22:00", "06:30", "2026-10-25T05:30Z"),
        ("2026-10-25T01:00", "02:30", "2026-10-25T00:30Z"),
    ],
)
def test_until_is_the_next_time_that_clocks_in_the_zone_show(
    begins: str, until: str, ends: str
) -> None:
    budget = Budget(until=until, timezone=BERLIN)
    assert budget.ends(berlin(begins)) == datetime.fromisoformat(ends)


def test_of_a_time_that_clocks_show_twice_a_run_between_them_ends_at_the_second() -> None:
    between = berlin("2026-10-25T02:10", fold=1)
    ends = Budget(until="02:30", timezone=BERLIN).ends(between)
    assert ends == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 23),
    st.integers(0, 59),
    st.sampled_from([BERLIN, "UTC", "America/New_York", "Asia/Kolkata", "Pacific/Apia"]),
)
def test_the_next_time_comes_within_a_day_and_what_a_clock_was_put_back(
    after: datetime, hour: int, minute: int, zone: str
) -> None:
    found = next_time(f"{hour}:{minute:02}", after, zone)
    assert after < found <= after + timedelta(hours=26)
    shown = found.astimezone(ZoneInfo(zone))
    if (shown.hour, shown.minute) != (hour, minute):
        # Skipped: an hour later than it says, as clocks were put forward before it.
        assert (shown - timedelta(hours=1)).strftime("%H:%M") == f"{hour:02}:{minute:02}"


@pytest.mark.parametrize(
    ("budget", "seconds"), [("5h", 18_000), ("90m", 5_400), ("1h30m", 5_400), ("45s", 45)]
)
def test_a_budget_is_as_long_as_it_says_over_a_change_of_the_clocks_too(
    budget: str, seconds: int
) -> None:
    begins = berlin("2026-03-29T00:00")
    ends = Budget(budget=budget, timezone=BERLIN).ends(begins)
    assert ends is not None
    assert (ends - begins.astimezone(UTC)).total_seconds() == seconds


def test_of_both_the_one_that_ends_first_counts_and_none_is_for_ever() -> None:
    begins = berlin("2026-11-28T02:00")
    both = Budget(until="06:30", budget="5h", timezone=BERLIN)
    assert both.ends(begins) == datetime(2026, 11, 28, 5, 30, tzinfo=UTC)
    both = Budget(until="06:30", budget="2h", timezone=BERLIN)
    assert both.ends(begins) == datetime(2026, 11, 28, 3, 0, tzinfo=UTC)
    assert Budget().ends(begins) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"until": "25:00"}, "until is '25:00', expected a time of the day such as 06:30"),
        ({"until": "6.30"}, "until is '6.30'"),
        ({"budget": "tomorrow"}, "budget is 'tomorrow', expected a duration such as 5h"),
        ({"budget": "0h"}, "budget is '0h'"),
        ({"timezone": "Europe/Atlantis"}, "expected an IANA name such as Europe/Berlin"),
        ({"timezone": "../etc/passwd"}, "expected an IANA name"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(values: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(**values)


def test_a_stop_requests_itself_when_the_time_is_up_and_not_before() -> None:
    clock = [1000.0]
    stop = TimedStop(datetime.fromtimestamp(1010, tz=UTC), now=lambda: clock[0])
    assert (stop.requested, stop.left_s) == (False, 10.0)
    clock[0] = 1010.0
    assert (stop.requested, stop.out_of_time, stop.left_s) == (True, True, 0.0)


def test_a_stop_that_somebody_requested_is_not_one_for_lack_of_time() -> None:
    stop = TimedStop(None)
    assert (stop.requested, stop.left_s) == (False, None)
    stop.request()
    assert (stop.requested, stop.out_of_time) == (True, False)


def test_a_run_that_is_late_still_ends_at_the_time_it_was_to_end() -> None:
    budget = Budget(until="06:30", timezone=BERLIN)
    due, begins = berlin("2026-11-28T02:00"), berlin("2026-11-28T07:10")
    assert budget.ends(begins, due=due) == datetime.fromisoformat("2026-11-28T05:30Z")
    assert budget.ends(begins) == datetime.fromisoformat("2026-11-29T05:30Z")
    for_long = Budget(budget="5h")
    assert for_long.ends(begins, due=due) == for_long.ends(begins)


@pytest.mark.parametrize(
    ("zone", "begins", "until", "minutes"),
    [
        # Due at 2:30, which clocks skip: they show 3:30 then. Only an end before that is past.
        ("Europe/Berlin", "2027-03-28T01:30", "03:00", -30),
        ("Europe/Berlin", "2027-03-28T01:30", "02:45", 15),
        ("Europe/Berlin", "2027-03-28T01:30", "06:30", 180),
        ("Europe/Berlin", "2027-03-28T02:00", "03:30", 23 * 60 + 30),
        ("Europe/Berlin", "2027-03-29T01:30", "03:00", 23 * 60 + 30),
        # Due at 2:30 of the night in which clocks show that twice: Prefect begins at the first.
        ("Europe/Berlin", "2027-10-31T00:30", "06:30", 300),
        ("America/New_York", "2027-03-14T07:30", "03:00", -30),
        ("America/New_York", "2027-11-07T05:30", "06:30", 360),
        # Clocks are put forward by half an hour: 2:15 is 2:45.
        ("Australia/Lord_Howe", "2027-10-02T15:45", "02:30", -15),
        ("Australia/Lord_Howe", "2027-10-02T15:45", "06:30", 225),
        ("Australia/Lord_Howe", "2027-04-03T14:45", "06:30", 285 + 30),
    ],
)
def test_a_scheduled_run_ends_in_its_own_night_when_clocks_change(
    zone: str, begins: str, until: str, minutes: int
) -> None:
    due = datetime.fromisoformat(begins).replace(tzinfo=UTC)
    ends = Budget(until=until, timezone=zone).ends(due, due=due)
    assert ends is not None
    assert ends - due == timedelta(minutes=minutes)


def test_a_run_by_hand_goes_on_to_the_next_time_whatever_clocks_did_before() -> None:
    begins = datetime(2027, 3, 28, 1, 30, tzinfo=UTC)
    ends = Budget(until="03:00", timezone="Europe/Berlin").ends(begins)
    assert ends == begins + timedelta(hours=23, minutes=30)


def test_a_later_stop_ends_later_and_is_asked_for_with_the_first() -> None:
    ends = datetime(2026, 11, 28, 6, 30, tzinfo=UTC)
    stop = TimedStop(ends, now=lambda: ends.timestamp() + 10)
    later = stop.later(60)
    assert (stop.requested, later.requested) == (True, False)
    stop.request()
    assert later.requested
    assert not later.out_of_time
    assert not TimedStop(None).later(60).requested
