"""In how many threads torch computes in this process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pipeline.compute.machine import cores

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def in_threads(count: int) -> Iterator[None]:
    """Let torch compute in `count` threads within the block.

    Small pictures take one: on a busy machine threads wait for each other thirty times longer than
    one of them computes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_no_more_threads_than_cores() -> None:
    """Let torch compute in one thread for each core that this process may use, at most.

    torch counts the cores of the machine, also where a container has fewer.
    """
    torch.set_num_threads(min(torch.get_num_threads(), cores()))
