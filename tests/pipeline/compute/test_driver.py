"""What goes out to the workers comes back part by part, whatever happens to a task."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from pipeline.compute.driver import work_through
from pipeline.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.compute.cluster import Client


@dataclass(frozen=True)
class Numbers:
    numbers: tuple[int, ...]

    def one_by_one(self) -> Iterator[Numbers]:
        for number in self.numbers:
            yield replace(self, numbers=(number,))

    def failed(self, error: BaseException) -> list[str]:
        return [f"{number}: {type(error).__name__}" for number in self.numbers]


def halve(task: Numbers) -> list[str]:
    if 13 in task.numbers:
        os.kill(os.getpid(), 9)
    if 7 in task.numbers:
        raise ArithmeticError
    return [f"{number / 2}" for number in task.numbers]


def test_a_task_that_fails_whole_has_a_result_for_each_of_its_parts(client: Client) -> None:
    tasks = [Numbers((2, 4)), Numbers((6, 7))]
    worked = {task.numbers: results for task, results in work_through(client, halve, tasks)}
    assert worked == {(2, 4): ["1.0", "2.0"], (6, 7): ["6: ArithmeticError", "7: ArithmeticError"]}


@pytest.mark.slow
def test_the_part_that_kills_its_worker_takes_no_other_with_it(client: Client) -> None:
    worked = {
        task.numbers: results
        for task, results in work_through(client, halve, [Numbers((2, 13)), Numbers((8,))])
    }
    assert worked == {(2,): ["1.0"], (13,): [f"13: {WorkerError.__name__}"], (8,): ["4.0"]}
