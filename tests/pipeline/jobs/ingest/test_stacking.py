"""Stacking: every small picture is in one chunk or stays alone, and no chunk is planned twice."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compute.workers import Workers
from pipeline.geometry import Rect, Span
from pipeline.jobs.ingest.stacking import share_out, whole_chunks
from pipeline.jobs.ingest.stage import run_ingest
from pipeline.jobs.ingest.task import Ingested, PackTask
from pipeline.sources.source_file import SourceFile
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import INGESTED, ItemRow, Ledger
from pipeline.storage.stack_kind import LEAST_MEMBERS, Kind
from tests.examples import examples

if TYPE_CHECKING:
    from pipeline.compute.cluster import Client
    from tests.conftest import SavePicture, TakePhoto

# Of these, boxes of 64 px and of 256 px meet: pictures of 200 px fill the same box by both.
SIDES = st.sampled_from([1, 40, 60, 64, 65, 100, 130, 193, 200, 250, 256])


def waiting(sizes: list[tuple[int, int]]) -> list[Ingested]:
    return [
        Ingested(
            SourceFile(item=f"{n:03}.png", address=f"/photos/{n:03}.png", size_bytes=1, mtime_ns=0),
            ItemRow(
                item=f"{n:03}.png",
                state=INGESTED,
                channels=3,
                height=height,
                width=width,
                dtype="uint8",
            ),
            waits=True,
        )
        for n, (height, width) in enumerate(sizes)
        if height * width <= 256 * 256
    ]


def check(tasks: list[PackTask], alone: list[SourceFile], pictures: list[Ingested]) -> None:
    chunks = [(task.stack, task.chunk) for task in tasks]
    assert len(set(chunks)) == len(chunks), "two tasks write one chunk"
    stored = [one.file.item for task in tasks for one in task.waiting]
    items = [one.file.item for one in pictures]
    assert sorted([*stored, *(file.item for file in alone)]) == items
    for task in tasks:
        kind = Kind.of(task.stack)
        assert all(kind.takes(one.kind) for one in task.waiting)
        assert len(task.waiting) <= kind.chunk_members


@pytest.mark.slow
@given(
    sizes=st.lists(st.tuples(SIDES, SIDES, st.integers(1, 18)), min_size=1, max_size=12),
    chunk=st.integers(1, 40),
)
@examples(60)
def test_no_two_tasks_write_one_chunk_and_no_picture_is_left_out(
    sizes: list[tuple[int, int, int]], chunk: int
) -> None:
    pictures = waiting([(height, width) for height, width, count in sizes for _ in range(count)])
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr("pipeline.storage.stack_kind._CHUNK_MEMBERS", chunk)
        archive = Archive.open_or_create(Path(folder))
        left, first = whole_chunks(pictures, archive)
        for task in first:  # Those are written before the others are planned.
            fill(archive, task)
        alone, then = share_out(left, archive)
        check([*first, *then], alone, pictures)


def fill(archive: Archive, task: PackTask) -> None:
    kind = Kind.of(task.stack)
    pixels = [
        np.zeros((kind.channels, one.row.height, one.row.width), "uint8") for one in task.waiting
    ]
    members = {
        place: {"item": one.file.item, "sha256": "0"} for place, one in enumerate(task.waiting)
    }
    archive.stack(task.stack).write(task.chunk, pixels, members, {})


def test_pictures_that_fill_one_box_by_both_steps_are_all_stored(
    tmp_path: Path, client: Client, photo: TakePhoto, save: SavePicture
) -> None:
    sizes = [(193 + n, 250 - n) for n in range(LEAST_MEMBERS)]
    # Too few of each smaller box for a stack, so that they go into the largest.
    sizes += [(50, 40 + n) for n in range(7)] + [(50, 70 + n) for n in range(7)]
    pictures = {f"{n:02}.png": photo(*size, at=n) for n, size in enumerate(sizes)}
    for name, pixels in pictures.items():
        save(tmp_path / "source" / name, pixels)
    with closing(Ledger.open_file(tmp_path / "ledger.sqlite", job="test")) as ledger:
        run_ingest(
            str(tmp_path / "source"),
            archive_dir=tmp_path / "lr.zarr",
            ledger=ledger,
            workers=Workers.of(client),
        )
        assert {row.state for row in ledger.items()} == {INGESTED}
    archive = Archive.open(tmp_path / "lr.zarr")
    assert list(archive.stacks()) == ["stacks/3x256x256-uint8-mixed/"]
    for name, pixels in pictures.items():
        image = archive.image(name)
        height, width = image.size
        assert np.array_equal(image.read(Rect(Span(0, height), Span(0, width))), pixels)
