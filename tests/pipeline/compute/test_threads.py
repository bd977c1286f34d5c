"""Threads: torch computes in as many as asked for, and afterwards in as many as before."""

from __future__ import annotations

import pytest
import torch

from pipeline.compute.machine import cores
from pipeline.compute.threads import in_threads, use_no_more_threads_than_cores


def test_threads_are_as_many_as_before_even_after_an_error() -> None:
    before = torch.get_num_threads()
    for count in (1, before + 1):
        with pytest.raises(ArithmeticError, match=rf"^{count}$"), in_threads(count):
            raise ArithmeticError(torch.get_num_threads())
        assert torch.get_num_threads() == before


def test_threads_are_never_more_than_the_cores_of_this_process() -> None:
    with in_threads(cores() + 3):
        use_no_more_threads_than_cores()
        assert torch.get_num_threads() == cores()
    with in_threads(1):
        use_no_more_threads_than_cores()
        assert torch.get_num_threads() == 1
