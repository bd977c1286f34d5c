"""Items of one chunk are worked on together, and each has an outcome of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import Rect, Span
from pipeline.jobs.item_images import sr_image
from pipeline.jobs.job import open_job
from pipeline.jobs.together import _MOST_ITEMS, Together, each, read_ahead, together
from pipeline.storage.ledger import INGESTED, ItemRow
from pipeline.storage.stack import StackedImage
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto, Upscale


@dataclass(frozen=True)
class Named:
    row: ItemRow


def named(n: int, stack: str, chunk: int) -> Named:
    return Named(ItemRow(item=str(n), state=INGESTED, stack=stack, chunk=chunk, place=n))


@examples(50)
@given(st.lists(st.tuples(st.sampled_from(["", "a/", "b/"]), st.integers(0, 2)), max_size=300))
def test_each_item_is_in_one_group_and_a_group_is_of_one_chunk(
    places: list[tuple[str, int]],
) -> None:
    tasks = [named(n, *place) for n, place in enumerate(places)]
    groups = together(reversed(tasks))
    assert sorted(t.row.place for g in groups for t in g.tasks) == list(range(len(tasks)))
    for group in groups:
        rows = [task.row for task in group.tasks]
        assert 1 <= len(rows) <= (_MOST_ITEMS if rows[0].stack else 1)
        assert len({(row.stack, row.chunk) for row in rows}) == 1
        assert [row.place for row in rows] == sorted(row.place for row in rows)


def test_what_one_item_raises_is_its_outcome_and_the_others_have_theirs() -> None:
    tasks = tuple(named(n, "a/", 0) for n in range(4))

    def work(task: Named) -> int:
        if task.row.place == 2:
            raise OSError("no")
        return task.row.place

    outcomes = each(tasks, work)
    assert [done.result for done in outcomes] == [0, 1, None, 3]
    assert [str(done.error) for done in outcomes if done.error] == ["no"]
    group = Together(tasks)
    assert [part.tasks for part in group.one_by_one()] == [(task,) for task in tasks]
    assert len(group.failed(OSError("gone"))) == 4


@pytest.mark.parametrize("is_damaged", [False, True])
def test_images_that_were_read_ahead_are_those_that_are_read_alone(
    is_damaged: bool, tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    for n in range(16):
        save(tmp_path / "in" / f"{n:02}.png", photo(20 + n, 40 - n, at=n))
    upscale(tmp_path / "in", tmp_path / "job")
    job = open_job(tmp_path / "job")
    ledger = job.open_ledger()
    rows = sorted(ledger.items(INGESTED), key=lambda row: row.place)
    ledger.close()
    if is_damaged:  # The first bytes are those of the first image.
        (file,) = job.sr_dir.rglob("c/0/0/0/0")
        data = bytearray(file.read_bytes())
        data[4:40] = bytes(36)
        file.write_bytes(data)
    ahead, alone = job.open_sr(), job.open_sr()
    read_ahead(ahead, rows)
    for row in rows[is_damaged:]:
        image, other = sr_image(ahead, row), sr_image(alone, row)
        rect = Rect(Span(1, image.size[0]), Span(0, image.size[1] - 1))
        assert isinstance(image, StackedImage)
        assert (image.held is None) is is_damaged
        assert (image.read(rect) == other.read(rect)).all()
