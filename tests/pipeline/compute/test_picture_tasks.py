"""Pictures of a source are shared out in small tasks, and each comes to one row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.compute.picture_tasks import (
    PictureTask,
    ingested_row,
    rejected_row,
    small_groups,
    vanished_rows,
)
from pipeline.errors import SourceError
from pipeline.storage.ledger import INGESTED, REJECTED, VANISHED, ItemRow


@dataclass(frozen=True)
class Listed:
    item: str
    address: str
    size_bytes: int


@given(st.lists(st.integers(0, 9 * 2**20), max_size=120))
def test_groups_hold_each_picture_once_in_order_and_are_small(sizes: list[int]) -> None:
    pictures = [Listed(f"{n}", f"/{n}", size) for n, size in enumerate(sizes)]
    groups = list(small_groups(pictures))
    assert [picture for group in groups for picture in group] == pictures
    for group in groups:
        assert 1 <= len(group) <= 32
        assert len(group) == 1 or sum(picture.size_bytes for picture in group) <= 4 * 2**20


@given(st.lists(st.integers(0, 2**20), min_size=2, max_size=120))
def test_no_group_could_have_taken_the_first_picture_of_the_next(sizes: list[int]) -> None:
    groups = list(small_groups(Listed(f"{n}", "", size) for n, size in enumerate(sizes)))
    for group, following in pairwise(groups):
        size = sum(picture.size_bytes for picture in (*group, following[0]))
        assert len(group) == 32 or size > 4 * 2**20


def test_a_task_is_cut_into_one_for_each_picture() -> None:
    pictures = tuple(Listed(f"{n}", "", 1) for n in range(3))
    parts = list(PictureTask(pictures).one_by_one())
    assert [part.pictures for part in parts] == [(picture,) for picture in pictures]


def test_a_picture_comes_to_a_row_that_says_where_it_was_and_why_it_cannot_be_used() -> None:
    row = ingested_row(Listed("a.png", "/in/a.png", 7))
    assert row == ItemRow(item="a.png", state=INGESTED, source="/in/a.png", size_bytes=7)
    rejected = rejected_row(row, SourceError("is gone"))
    assert rejected == replace(row, state=REJECTED, error="SourceError", message="is gone")
    assert rejected_row(row, SourceError("is gone"), "a.png: is gone").message == "a.png: is gone"


def test_what_is_not_listed_any_more_vanishes_once() -> None:
    a, b, c = (ItemRow(item=name, state=INGESTED, source=f"/in/{name}", units=4) for name in "abc")
    c = replace(c, state=VANISHED, message="long ago")
    gone = vanished_rows({row.item: row for row in (a, b, c)}, {"a"}, "is gone")
    assert gone == [replace(b, state=VANISHED, message="/in/b is gone")]
