"""Workers: each has the values that were built for its tasks, also one that replaces another."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
from distributed.comm.core import CommClosedError

from pipeline.compute import worker
from pipeline.compute.cluster import Client, ClusterSettings, connect
from pipeline.compute.submission import submit_windowed
from pipeline.compute.worker import on_every_worker, worker_state
from pipeline.errors import ClusterError
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.slow
def test_a_worker_that_replaces_a_dead_one_has_the_state_too(
    client: Client, tmp_path: Path
) -> None:
    on_every_worker(client, "answer", lambda: 42)
    died = tmp_path / "died"

    def answer(number: int) -> int:
        if number == 1 and not died.exists():
            died.touch()
            os.kill(os.getpid(), 9)
        return int(worker_state("answer")) + number

    outcomes = list(submit_windowed(client, answer, range(1, 9)))
    assert {o.task: o.result for o in outcomes} == {n: 42 + n for n in range(1, 9)}


@pytest.fixture
def lonely() -> Iterator[Client]:
    """Workers that a test may kill, and whose tasks of before nobody awaits."""
    with connect(ClusterSettings(workers=2)) as client:
        yield client


@pytest.mark.slow
def test_a_worker_that_dies_while_it_builds_a_state_leaves_the_others_and_its_successor_to_it(
    lonely: Client, tmp_path: Path
) -> None:
    died = tmp_path / "died"

    def build() -> int:
        try:
            died.touch(exist_ok=False)
        except FileExistsError:
            return 42
        os.kill(os.getpid(), 9)
        return 0

    on_every_worker(lonely, "mortal", build)
    lonely.wait_for_workers(2, timeout=PATIENCE_S)
    assert died.exists()
    answers = lonely.run(partial(worker_state, "mortal"))
    assert list(answers.values()) == [42, 42]


def test_workers_that_go_on_dying_are_one_line_and_a_reason_to_try_again_later(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_asked: object) -> None:
        raise CommClosedError("in <TLS (closed) ...>: Stream is closed")

    monkeypatch.setattr(worker, "_PAUSE_S", 0.0)
    monkeypatch.setattr(client, "register_plugin", closed)
    with pytest.raises(ClusterError, match="workers died 5 times while they loaded the model"):
        on_every_worker(client, "hopeless", lambda: 1)


def test_a_state_that_cannot_be_built_is_an_error_at_once(client: Client) -> None:
    def fail() -> None:
        raise ArithmeticError("no such state")

    with pytest.raises(ArithmeticError, match="no such state"):
        on_every_worker(client, "broken", fail)
