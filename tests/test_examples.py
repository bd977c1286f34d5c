"""Pairs of values: all of them are tried, and in the quick ones each value has its turn."""

from __future__ import annotations

from itertools import product

import pytest

from tests.examples import pairs


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (5, 3), (4, 4), (18, 2)])
def test_every_pair_is_there_once_and_each_value_has_a_quick_turn(rows: int, columns: int) -> None:
    found = pairs(range(rows), range(columns))
    assert [pair.values for pair in found] == list(product(range(rows), range(columns)))
    quick = [pair.values for pair in found if not pair.marks]
    assert len(quick) == max(rows, columns)
    assert {row for row, _ in quick} == set(range(rows))
    assert {column for _, column in quick} == set(range(columns))
