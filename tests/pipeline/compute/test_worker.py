"""Workers: each has the values that were built for its tasks, also one that replaces another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pipeline.compute.submission import submit_windowed
from pipeline.compute.worker import on_every_worker, worker_state

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.compute.cluster import Client


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


def test_a_state_that_cannot_be_built_is_an_error_at_once(client: Client) -> None:
    def fail() -> None:
        raise ArithmeticError("no such state")

    with pytest.raises(ArithmeticError, match="no such state"):
        on_every_worker(client, "broken", fail)
