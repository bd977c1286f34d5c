"""How many examples a test is tried on: few where a person waits, all where a machine does."""

from __future__ import annotations

import os
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _pytest.mark import ParameterSet

FEW = 25
ALL = os.environ.get("UPRES_EXAMPLES") == "all"

settings.register_profile("few", deadline=None, max_examples=FEW)
settings.register_profile("all", deadline=None)
settings.load_profile("all" if ALL else "few")


def examples(most: int = 100, *, few: int = FEW, **more: Any) -> settings:
    """Return settings with at most so many examples, and no time limit for one."""
    return settings(max_examples=most if ALL else min(most, few), deadline=None, **more)


def pairs(first: Iterable[Any], second: Iterable[Any]) -> list[ParameterSet]:
    """Return every pair as parameters; all are slow but a few, in which each value has its turn."""
    rows, columns = list(first), list(second)
    turns = max(len(rows), len(columns))
    quick = {(n % len(rows), n % len(columns)) for n in range(turns)}
    return [
        pytest.param(a, b, marks=[] if (row, column) in quick else pytest.mark.slow)
        for (row, a), (column, b) in product(enumerate(rows), enumerate(columns))
    ]
