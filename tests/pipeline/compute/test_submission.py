"""Tasks: every one comes back once, whatever becomes of the process that ran it."""

from __future__ import annotations

import os
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import distributed
import pytest

from pipeline.compute.cluster import workers_of
from pipeline.compute.stop import Stop
from pipeline.compute.submission import MAX_DEATHS, gpu_resources, submit_windowed
from pipeline.compute.worker import on_every_worker, worker_number
from pipeline.errors import ClusterError, WorkerError
from tests.waiting import PATIENCE_S

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


@pytest.mark.slow
def test_tasks_for_a_gpu_run_on_workers_that_have_one_and_on_no_other() -> None:
    resources = [{"GPU": 1}, {}]
    workers = {
        n: {"cls": distributed.Worker, "options": {"nthreads": 2, "resources": r}}
        for n, r in enumerate(resources)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"dashboard_address": "127.0.0.1:0", "port": 0},
    }
    with (
        distributed.SpecCluster(scheduler=scheduler, workers=workers) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=PATIENCE_S)
        asked = gpu_resources(client)
        on_every_worker(client, "of-gpus", dict, resources=asked)
        ran_on = {o.result for o in submit_windowed(client, own_number, range(40), resources=asked)}
        assert ran_on == {0}
        assert {o.result for o in submit_windowed(client, own_number, range(40))} == {0, 1}
        # Where no worker says that it has one, none is asked for: that would wait for ever.
        client.retire_workers(names=[0])
        assert gpu_resources(client) == {}


def own_number(_task: int) -> int:
    time.sleep(0.02)
    return worker_number()


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


def test_tasks_that_a_scheduler_lost_are_not_taken_for_deaths_of_workers(client: Client) -> None:
    # As it is when a scheduler is back before anybody asked: all that was in flight is cancelled,
    # and the workers that come know no plugin of ours.
    outcomes = submit_windowed(client, slow_if_even, range(1, 200))
    next(outcomes)
    for future in list(client.futures.values()):
        future.cancel(reason="scheduler-connection-lost", msg="")
    with pytest.raises(ClusterError, match="the Dask scheduler is gone"):
        list(outcomes)
