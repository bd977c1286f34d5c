"""Workers: every task comes back once, whatever becomes of the process that ran it."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections import Counter
from functools import partial
from multiprocessing import active_children
from typing import TYPE_CHECKING, Any

import dask
import distributed
import pytest

from pipeline.compute.cluster import (
    MAX_DEATHS,
    ClusterSettings,
    Stop,
    connect,
    on_every_worker,
    submit_windowed,
    worker_state,
    workers_of,
)
from pipeline.errors import ClusterError, UsageError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.compute.cluster import Client


def square(number: int) -> int:
    return number * number


def square_but_seven(number: int) -> int:
    if number == 7:
        raise ArithmeticError("seven is not squared here")
    return number * number


def slow_if_even(number: int) -> int:
    time.sleep(0.05 * (number % 2 == 0))
    return number


def die_on_four(number: int, *, log: Path) -> int:
    with log.open("a") as file:
        file.write(f"{number}\n")
    if number == 4:
        os.kill(os.getpid(), 9)
    return number


def die_once(number: int, *, log: Path) -> int:
    if number == 1 and not log.exists():
        log.touch()
        os.kill(os.getpid(), 9)
    return number


def test_every_task_is_yielded_exactly_once(client: Client) -> None:
    outcomes = list(submit_windowed(client, square, range(1, 101)))
    assert Counter(o.task for o in outcomes) == Counter(range(1, 101))
    assert all(o.error is None and o.result == o.task**2 for o in outcomes)


def test_no_task_yields_nothing(client: Client) -> None:
    assert list(submit_windowed(client, square, [])) == []


def test_a_slow_task_does_not_hold_up_the_others(client: Client) -> None:
    outcomes = list(submit_windowed(client, slow_if_even, range(1, 13)))
    assert sorted(o.task for o in outcomes) == list(range(1, 13))
    assert all(o.result == o.task for o in outcomes)


def test_tasks_are_drawn_only_as_others_finish(client: Client) -> None:
    drawn = 0

    def draw() -> Iterator[int]:
        nonlocal drawn
        for number in range(1, 201):
            drawn += 1
            yield number

    ahead = []
    for finished, _ in enumerate(submit_windowed(client, square, draw()), 1):
        ahead.append(drawn - finished)
    assert drawn == 200
    assert max(ahead) <= 8 * workers_of(client)


def test_an_exception_in_a_task_is_its_outcome_and_stops_no_other(client: Client) -> None:
    outcomes = {o.task: o for o in submit_windowed(client, square_but_seven, range(1, 21))}
    assert isinstance(outcomes[7].error, ArithmeticError)
    assert str(outcomes[7].error) == "seven is not squared here"
    assert outcomes[7].result is None
    assert [t for t, o in outcomes.items() if o.error is not None] == [7]
    assert set(outcomes) == set(range(1, 21))


def test_a_requested_stop_leaves_the_rest_unsubmitted(client: Client) -> None:
    stop = Stop()
    drawn = []

    def draw() -> Iterator[int]:
        for number in range(1, 1001):
            drawn.append(number)
            yield number

    finished = []
    for outcome in submit_windowed(client, square, draw(), stop=stop):
        finished.append(outcome.task)
        if len(finished) == 5:
            stop.request()
    # What was in flight is finished: nothing that was submitted is lost.
    assert sorted(finished) == sorted(drawn)
    assert len(drawn) <= 5 + 8 * workers_of(client)


def test_a_stop_requested_before_the_start_submits_nothing(client: Client) -> None:
    stop = Stop()
    stop.request()
    assert list(submit_windowed(client, square, range(1, 9), stop=stop)) == []


@pytest.mark.slow
def test_a_task_that_kills_its_worker_is_given_up_and_its_neighbours_succeed(
    client: Client, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    work = partial(die_on_four, log=log)
    outcomes = list(submit_windowed(client, work, range(1, 17)))
    assert Counter(o.task for o in outcomes) == Counter(range(1, 17))
    errors = {o.task: o.error for o in outcomes if o.error is not None}
    assert list(errors) == [4]
    assert isinstance(errors[4], WorkerError)
    # Once among the others, then alone.
    assert log.read_text().split().count("4") == 1 + MAX_DEATHS


@pytest.mark.slow
def test_a_task_whose_worker_died_once_is_done_in_the_end(client: Client, tmp_path: Path) -> None:
    work = partial(die_once, log=tmp_path / "died")
    outcomes = list(submit_windowed(client, work, range(1, 9)))
    assert {o.task: o.result for o in outcomes} == {n: n for n in range(1, 9)}
    assert all(o.error is None for o in outcomes)


@pytest.mark.slow
def test_a_worker_that_replaces_a_dead_one_has_the_state_too(
    client: Client, tmp_path: Path
) -> None:
    on_every_worker(client, "answer", lambda: 42)
    died = tmp_path / "died"

    def answer(number: int) -> int:
        die_once(number, log=died)
        return int(worker_state("answer")) + number

    outcomes = list(submit_windowed(client, answer, range(1, 9)))
    assert {o.task: o.result for o in outcomes} == {n: 42 + n for n in range(1, 9)}


@pytest.mark.slow
def test_a_worker_that_takes_long_to_come_back_does_come_back() -> None:
    """Dask's own clusters close the nanny of a worker that is gone for 15 s."""
    others = {child.pid for child in active_children()}
    with connect(ClusterSettings(workers=1)) as client:
        first = next_child(others)
        os.kill(first, signal.SIGKILL)
        second = next_child(others | {first})
        os.kill(second, signal.SIGSTOP)
        time.sleep(17)
        os.kill(second, signal.SIGCONT)
        tasks = submit_windowed(client, square, range(8))
        assert sorted(o.result or 0 for o in tasks) == [n * n for n in range(8)]


def next_child(others: set[int | None]) -> int:
    """Wait for the process of a worker that is none of `others`; return its id."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for child in active_children():
            if child.pid is not None and child.pid not in others:
                return child.pid
    raise TimeoutError("no process has taken the place of the worker that was killed")


def test_a_state_that_cannot_be_built_is_an_error_at_once(client: Client) -> None:
    def fail() -> None:
        raise ArithmeticError("no such state")

    with pytest.raises(ArithmeticError, match="no such state"):
        on_every_worker(client, "broken", fail)


@pytest.mark.slow
def test_an_address_without_a_scheduler_is_a_usage_error() -> None:
    with (
        pytest.raises(UsageError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:1'"),
        connect(ClusterSettings(address="tcp://127.0.0.1:1")),
    ):
        pass


def test_an_address_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nonsense"), connect(ClusterSettings(address="nonsense")):
        pass


@pytest.mark.parametrize("workers", [0, -3])
def test_fewer_workers_than_one_are_refused(workers: int) -> None:
    with pytest.raises(UsageError, match=str(workers)):
        ClusterSettings(workers=workers)


def test_a_number_of_workers_beside_an_address_is_refused() -> None:
    with pytest.raises(UsageError, match="has its own"):
        ClusterSettings(address="tcp://127.0.0.1:8786", workers=2)


def test_a_scheduler_that_wants_a_key_is_not_tried_without_one() -> None:
    with (
        pytest.raises(UsageError, match=r"'tls://127\.0\.0\.1:1' can be made .*TLS"),
        connect(ClusterSettings(address="tls://127.0.0.1:1")),
    ):
        pass


def test_what_an_earlier_attempt_left_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread of a new client must not be the one that ends a client which never connected."""
    address = ClusterSettings(address="tls://127.0.0.1:1")
    gc.disable()
    try:
        with pytest.raises(UsageError), connect(address):
            pass
        run = distributed.utils.asyncio_run

        def run_with_garbage(*arguments: Any, **named: Any) -> Any:
            cycles: list[list[int]] = [
                [] for _ in range(200_000)
            ]  # As many as make Python collect by itself.
            return run(*arguments, **named) if cycles else None

        monkeypatch.setattr(distributed.utils, "asyncio_run", run_with_garbage)
        gc.enable()
        began = time.monotonic()
        with pytest.raises(UsageError, match="TLS"), connect(address):
            pass
        # Dask gives up on its thread after 10 s.
        assert time.monotonic() - began < 9
    finally:
        gc.enable()


def test_a_setting_of_dask_that_cannot_be_is_named_where_it_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(dask.config.config["distributed"]["comm"]["tls"], "min-version", "abc")
    with (
        pytest.raises(UsageError, match="min-version='abc'"),
        connect(ClusterSettings(address="tcp://127.0.0.1:1")),
    ):
        pass


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[distributed.LocalCluster]:
    """A scheduler as it is when it was just started again."""
    monkeypatch.setattr("pipeline.compute.cluster._FIRST_WORKER_S", 5.0)
    with distributed.LocalCluster(
        n_workers=0, processes=False, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield cluster


def test_a_scheduler_whose_workers_are_still_coming_is_waited_for(
    without_workers: distributed.LocalCluster,
) -> None:
    coming = threading.Timer(0.5, without_workers.scale, [1])
    coming.start()
    with connect(ClusterSettings(address=without_workers.scheduler_address)) as found:
        assert workers_of(found) == 1
        assert [o.result for o in submit_windowed(found, square, [3])] == [9]
    coming.join()


def test_a_scheduler_without_workers_is_a_usage_error_after_a_while(
    without_workers: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.compute.cluster._FIRST_WORKER_S", 0.5)
    address = without_workers.scheduler_address
    with (
        pytest.raises(UsageError, match=r"has had no workers for .* s; start `dask worker"),
        connect(ClusterSettings(address=address)),
    ):
        pass


def test_tasks_that_a_scheduler_lost_are_not_taken_for_deaths_of_workers(client: Client) -> None:
    # As it is when a scheduler is back before anybody asked: all that was in flight is cancelled,
    # and the workers that come know no plugin of ours.
    outcomes = submit_windowed(client, slow_if_even, range(1, 200))
    next(outcomes)
    for future in list(client.futures.values()):
        future.cancel(reason="scheduler-connection-lost", msg="")
    with pytest.raises(ClusterError, match="the Dask scheduler is gone"):
        list(outcomes)
