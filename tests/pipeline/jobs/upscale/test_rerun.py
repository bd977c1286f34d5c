"""A rerun does again what was asked for, whichever kind of unit a plan is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import ArchiveError
from pipeline.geometry import TileGrid
from pipeline.jobs.choice import Chosen
from pipeline.jobs.spec import UpscaleSpec
from pipeline.jobs.upscale.chunks import ChunkPlan
from pipeline.jobs.upscale.plan import Plan
from pipeline.jobs.upscale.rerun import Rerun
from pipeline.jobs.upscale.tiles import TilePlan
from pipeline.jobs.upscale.units import UnitKeys, UnitPlan, failed_units
from pipeline.storage.ledger import DONE, FAILED, INGESTED, ItemRow, Ledger, UnitRow

A = ItemRow(item="a.png", state=INGESTED, fingerprint="now", units=4)
STACK = "stacks/3x22x18-uint8/"
CHOSEN = Chosen(
    UpscaleSpec(
        model="bicubic-x2",
        weights_sha256="0" * 64,
        scale=2,
        tile_px=32,
        halo_px=0,
        precision="fp32",
        backend="torch",
    )
)
TILES = TilePlan(
    A, TileGrid(64, 64, 32, 0), (0, 1, 2, 3), fresh=False, declared=True, chosen=CHOSEN
)
CHUNK = ChunkPlan(
    stack=STACK,
    chunk=2,
    rows=tuple(replace(A, item=f"faces/{n}.png", stack=STACK, chunk=2, place=n) for n in (0, 1)),
    content="c",
    computes=True,
    fresh=False,
    wipes=False,
    replaces=False,
    declared=True,
    chosen=CHOSEN,
)


class Given:
    """A planner of plans that are there already."""

    def __init__(self, *plans: UnitPlan) -> None:
        self.plans = plans

    def every(self) -> Any:
        return iter(self.plans)

    def again(self, keys: Any) -> Any:
        asked = list(keys)
        return (plan for plan in self.plans if plan.key in asked)


def rerun(*, failed: dict[str, dict[int, str]], stale: bool = False, name: str = "") -> Rerun:
    return Rerun(lambda found: not name or found == name, failed, stale)


def narrowed(by: Rerun, *plans: UnitPlan) -> list[UnitPlan]:
    return list(by.narrow(Plan([Given(*plans)])))


def test_of_an_image_the_failed_tiles_alone_are_done_again() -> None:
    by = rerun(failed={"a.png": {1: "now", 3: "now"}, "b.png": {0: "now"}})
    assert narrowed(by, TILES) == [replace(TILES, numbers=(1, 3))]
    assert narrowed(rerun(failed={}), TILES) == []


def test_tiles_that_fail_are_left_where_another_item_is_asked_for() -> None:
    failed = {"a.png": {1: "now"}}
    assert narrowed(rerun(failed=failed, name="b.png"), TILES) == []
    assert narrowed(rerun(failed=failed, name="a.png"), TILES) == [replace(TILES, numbers=(1,))]


@pytest.mark.parametrize(
    ("failed", "stale", "redone"),
    [({}, False, False), ({1: "before"}, False, False), ({1: "now"}, False, True),
     ({}, True, True)],
)  # fmt: skip
def test_an_image_without_pixels_is_made_whole_if_it_failed_so_or_is_stale(
    failed: dict[int, str], stale: bool, redone: bool
) -> None:
    fresh = replace(TILES, fresh=True)
    assert narrowed(rerun(failed={"a.png": failed}, stale=stale), fresh) == [fresh] * redone


@pytest.mark.parametrize(
    ("failed", "stale", "redone"),
    [({2: "before"}, False, False), ({1: "now"}, False, False), ({2: "now"}, False, True),
     ({}, True, True)],
)  # fmt: skip
def test_a_chunk_is_done_again_if_it_failed_as_it_is_now_or_is_stale(
    failed: dict[int, str], stale: bool, redone: bool
) -> None:
    assert narrowed(rerun(failed={STACK: failed}, stale=stale), CHUNK) == [CHUNK] * redone


@pytest.mark.parametrize("name", [STACK, "faces/1.png"])
def test_a_chunk_is_asked_for_by_its_stack_or_by_any_of_its_images(name: str) -> None:
    assert narrowed(rerun(failed={}, stale=True, name=name), CHUNK) == [CHUNK]
    assert narrowed(rerun(failed={}, stale=True, name="faces/9.png"), CHUNK) == []


def test_an_array_of_another_size_takes_all_chunks_of_its_stack_along_and_no_other() -> None:
    first = replace(CHUNK, wipes=True)
    rows = tuple(replace(row, item=f"more/{row.place}.png", chunk=3) for row in CHUNK.rows)
    second = replace(first, chunk=3, rows=rows)
    other = replace(second, stack="stacks/1x22x18-uint8/")
    by = rerun(failed={}, stale=True, name="faces/1.png")
    assert narrowed(by, first, second, other) == [first, second]
    assert narrowed(replace(by, stale=False), first, second, other) == []


def test_a_chunk_that_only_loses_images_is_kept_by_any_rerun_that_names_it() -> None:
    kept = replace(CHUNK, computes=False, kept=(0,))
    assert narrowed(rerun(failed={}), kept) == [kept]
    assert narrowed(rerun(failed={}, name="a.png"), kept) == []


def test_the_size_of_a_plan_counts_units_and_items_of_both_kinds() -> None:
    done = replace(TILES, numbers=())
    assert Plan([Given(TILES, CHUNK)]).size == (4 + 1, 1 + 2)
    assert Plan([Given(done)]).size == (0, 0)


def test_failures_are_chosen_by_their_error_in_whatever_case() -> None:
    ledger = Ledger.open("sqlite://", job="j")
    ledger.put_items([A, *CHUNK.rows])
    rows = [
        UnitRow(item="a.png", number=n, fingerprint="now", state=FAILED, error=e, message=m)
        for n, e, m in [(0, "OSError", "Disk full"), (1, "ValueError", "odd")]
    ]
    of_chunk = UnitRow(item=STACK, number=2, fingerprint="now", state=FAILED, message="disk FULL")
    ledger.put_items([replace(row, fingerprint="now") for row in CHUNK.rows])
    ledger.put_units([*rows, of_chunk])
    by = Rerun.of(ledger, item="*", error="disk full", stale=False)
    assert {name: dict(found) for name, found in by.failed.items()} == {
        "a.png": {0: "now"},
        STACK: {2: "now"},
    }
    assert by.failed_under("never/heard/of.png") == {}
    ledger.close()


def test_tiles_of_an_image_of_a_stack_are_the_one_unit_of_its_chunk() -> None:
    row = CHUNK.rows[0]
    assert UnitKeys.of_tiles(A, [0, 2]) == UnitKeys("a.png", (0, 2), "now")
    assert UnitKeys.of_tiles(row, [0]) == UnitKeys(STACK, (2,), "now")
    assert UnitKeys.of_tiles(row, []) == UnitKeys(STACK, (), "now")
    (failed,) = failed_units(UnitKeys.of_tiles(row, [0]), ArchiveError("gone"))
    assert (failed.item, failed.number, failed.state) == (STACK, 2, FAILED)
    assert (failed.error, failed.message) == ("ArchiveError", "gone")
    assert failed.state != DONE
