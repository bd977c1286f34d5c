"""Upscaling: tiles equal the whole, and a run computes exactly what is not done."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compute.backends import resolve_backend
from pipeline.compute.inference import Inference, load_model, resolve_precision
from pipeline.errors import ArchiveError, JobBusyError, UsageError
from pipeline.geometry import Rect, Span, TileGrid
from pipeline.jobs.choice import Chosen
from pipeline.jobs.job import create_job
from pipeline.jobs.run import run_on
from pipeline.jobs.spec import UpscaleSpec, make_spec
from pipeline.jobs.upscale.tiles import plan_tiles
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import DONE, INGESTED, ItemRow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import SavePicture, TakePhoto, Upscale

    Pixels: TypeAlias = NDArray[Any]

SPEC = UpscaleSpec(
    model="bicubic-x2",
    weights_sha256="0" * 64,
    scale=2,
    tile_px=32,
    halo_px=2,
    precision="fp32",
    backend="torch",
)

needs_bf16 = pytest.mark.skipif(
    resolve_precision("auto", device="cpu") != "bf16", reason="this CPU does not compute in bf16"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "job"


def whole(archive: Archive, item: str) -> Pixels:
    image = archive.image(item)
    return image.read(Rect(Span(0, image.size[0]), Span(0, image.size[1])))


def untiled(pixels: Pixels, model: str, *, precision: str = "fp32") -> Pixels:
    found = load_model(model)
    inference = Inference.of(
        found.network,
        scale=found.spec.scale,
        channels=found.spec.channels,
        precision=precision,
        device="cpu",
        backend=resolve_backend("auto", device="cpu", model=model),
    )
    return inference.enlarge(pixels)


def written_at(archive_dir: Path) -> dict[Path, int]:
    return {
        p.relative_to(archive_dir): p.stat().st_mtime_ns
        for p in archive_dir.rglob("*")
        if p.is_file() and p.name != "zarr.json"
    }


def shards(archive_dir: Path, item: str) -> list[Path]:
    return sorted(p for p in (archive_dir / item / "0" / "c").rglob("*") if p.is_file())


def flip_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(40, 60):
        data[at] ^= 0xFF
    path.write_bytes(data)


# The pixels


KINDS = [
    (3, "uint8"), (1, "uint8"), (2, "uint8"), (4, "uint8"), (3, "uint16"), (4, "uint16"),
    (1, "float32"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("bicubic-x2", KINDS),
        ("span-x4", [(3, "uint8"), (2, "uint16")]),
        pytest.param("span-x4", KINDS, marks=pytest.mark.slow),
    ],
    ids=["bicubic-x2", "span-x4", "span-x4-every-kind"],
)
def test_the_archive_holds_bit_for_bit_what_the_untiled_picture_gives(
    model: str,
    kinds: list[tuple[int, str]],
    source: Path,
    folder: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
) -> None:
    pictures = {f"{c}-{dtype}.tif": photo(70, 83, c, dtype) for c, dtype in kinds}
    for name, lr in pictures.items():
        save(source / name, lr)
    done = upscale(source, folder, model=model)
    assert done.status.complete
    assert len(TileGrid(70, 83, 32, 0)) == 9
    assert done.computed == 9 * len(kinds)
    for name, lr in pictures.items():
        sr = whole(done.job.open_sr(), name)
        assert sr.dtype == lr.dtype, name
        np.testing.assert_array_equal(sr, untiled(lr, model), err_msg=name)


@needs_bf16
def test_bf16_tiles_too_equal_the_untiled_picture(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    lr = photo(70, 83)
    save(source / "a.png", lr)
    done = upscale(source, folder, model="span-x4", precision="bf16")
    sr = whole(done.job.open_sr(), "a.png")
    np.testing.assert_array_equal(sr, untiled(lr, "span-x4", precision="bf16"))


def test_pictures_of_any_size_are_upscaled(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    sizes = [(1, 1), (1, 90), (31, 5), (32, 32), (33, 64)]
    pictures = {f"{height}x{width}.png": photo(height, width) for height, width in sizes}
    for name, lr in pictures.items():
        save(source / name, lr)
    sr = upscale(source, folder).job.open_sr()
    for name, lr in pictures.items():
        np.testing.assert_array_equal(whole(sr, name), untiled(lr, "bicubic-x2"), err_msg=name)


def test_black_tiles_are_stored_like_any_other(
    source: Path, folder: Path, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "black.png", np.zeros((3, 64, 64), np.uint8))
    done = upscale(source, folder)
    assert len(shards(done.job.sr_dir, "black.png")) == 4


@pytest.mark.parametrize(
    ("model", "word"), [("bicubic-x2", "interpolated"), ("span-x4", "synthesised")]
)
def test_each_item_says_how_its_pixels_came_to_be(
    model: str, word: str, source: Path, folder: Path, photo: TakePhoto, save: SavePicture,
    upscale: Upscale,
) -> None:  # fmt: skip
    save(source / "a.png", photo(40, 40))
    done = upscale(source, folder, model=model)
    told = done.job.open_sr().image("a.png").provenance
    assert word in told["statement"]
    assert told["spec"]["model"] == model
    assert told["spec"]["weights_sha256"] == load_model(model).sha256
    assert told["sha256"] == done.job.open_source().image("a.png").provenance["sha256"]
    assert told["upres_version"]


# What a run computes


def test_a_second_run_computes_nothing_and_writes_nothing(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(70, 83))
    save(source / "b/c.png", photo(40, 40))
    first = upscale(source, folder)
    before = written_at(first.job.sr_dir)
    second = upscale(source, folder)
    assert (first.computed, second.computed) == (9 + 4, 0)
    assert second.status.complete
    assert written_at(first.job.sr_dir) == before


def test_units_that_the_ledger_forgot_are_computed_and_no_others(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(70, 83))
    save(source / "b.png", photo(40, 40))
    job = upscale(source, folder).job
    before = written_at(job.sr_dir)
    ledger = job.open_ledger()
    ledger.forget_units(["a.png"])
    ledger.close()
    assert upscale(source, folder).computed == 9
    after = written_at(job.sr_dir)
    assert {p.parts[0] for p in after if after[p] != before[p]} == {"a.png"}


def test_a_new_picture_costs_its_own_units(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(70, 83))
    before = written_at(upscale(source, folder).job.sr_dir)
    save(source / "new.png", photo(33, 20))
    second = upscale(source, folder)
    assert second.computed == 2
    after = written_at(second.job.sr_dir)
    assert {p: at for p, at in after.items() if p in before} == before


def test_a_changed_picture_costs_its_own_units_and_gets_its_new_pixels(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(70, 83))
    save(source / "b.png", photo(40, 40))
    upscale(source, folder)
    changed = photo(40, 83, at=200)
    save(source / "a.png", changed)
    second = upscale(source, folder)
    assert second.computed == 6
    assert second.status.complete
    sr = second.job.open_sr()
    np.testing.assert_array_equal(whole(sr, "a.png"), untiled(changed, "bicubic-x2"))


def test_a_vanished_picture_keeps_its_upscaled_pixels(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(40, 40))
    gone = save(source / "b.png", photo(40, 40))
    job = upscale(source, folder).job
    before = whole(job.open_sr(), "b.png")
    gone.unlink()
    second = upscale(source, folder)
    assert second.computed == 0
    assert second.status.items == {"done": 1, "vanished": 1}
    np.testing.assert_array_equal(whole(job.open_sr(), "b.png"), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "units"),
    [({"model": "nearest-x2"}, 9), ({"model": "bicubic-x3"}, 9), ({"tile_px": 48}, 4)],
)
def test_another_spec_makes_all_units_stale_and_redoes_them(
    change: dict[str, Any],
    units: int,
    source: Path,
    folder: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
) -> None:
    lr = photo(70, 83)
    save(source / "a.png", lr)
    upscale(source, folder)
    second = upscale(source, folder, **change)
    assert second.computed == units
    assert second.status.units == {"done": units, "failed": 0, "pending": 0}
    expected = untiled(lr, change.get("model", "bicubic-x2"))
    np.testing.assert_array_equal(whole(second.job.open_sr(), "a.png"), expected)


def test_a_lost_sr_archive_is_made_anew(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    lr = photo(70, 83)
    save(source / "a.png", lr)
    job = upscale(source, folder).job
    shutil.rmtree(job.sr_dir)
    second = upscale(source, folder)
    assert second.computed == 9
    np.testing.assert_array_equal(whole(job.open_sr(), "a.png"), untiled(lr, "bicubic-x2"))


def test_workers_that_stay_write_a_job_that_is_made_again_by_its_new_codec(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    pictures = {f"{n}.png": photo(40, 50, at=9 * n) for n in range(6)}
    for name, pixels in pictures.items():
        save(source / name, pixels)
    upscale(source, folder)
    shutil.rmtree(folder)
    job = upscale(source, folder, codec="jpegxl").job
    for name, lr in pictures.items():
        np.testing.assert_array_equal(whole(job.open_sr(), name), untiled(lr, "bicubic-x2"))


def test_a_lost_item_of_the_sr_archive_is_made_anew(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(70, 83))
    save(source / "b.png", photo(40, 40))
    job = upscale(source, folder).job
    job.open_sr().delete("b.png")
    assert upscale(source, folder).computed == 4


def test_a_lost_ledger_is_rebuilt_from_whole_shards_and_damaged_ones_are_redone(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    lr = photo(70, 83)
    save(source / "a.png", lr)
    job = upscale(source, folder).job
    before = written_at(job.sr_dir)
    for path in folder.glob("ledger.sqlite*"):
        path.unlink()
    damaged = shards(job.sr_dir, "a.png")[3]
    flip_bytes(damaged)
    second = upscale(source, folder)
    assert second.computed == 1
    after = written_at(job.sr_dir)
    changed = {p for p in after if after[p] != before[p]}
    assert changed == {damaged.relative_to(job.sr_dir)}
    np.testing.assert_array_equal(whole(job.open_sr(), "a.png"), untiled(lr, "bicubic-x2"))


def test_an_archive_elsewhere_is_upscaled_where_it_lies(
    source: Path,
    folder: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
) -> None:
    save(source / "a.png", photo(40, 40))
    archive_dir = upscale(source, tmp_path / "first").job.source_dir
    before = written_at(archive_dir)
    second = upscale(archive_dir, folder)
    assert second.computed == 4
    assert second.job.source_dir == archive_dir
    assert not (folder / "source.zarr").exists()
    assert upscale(archive_dir, folder).computed == 0
    assert written_at(archive_dir) == before


def test_a_jobs_own_lr_archive_is_refused_as_its_source(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(40, 40))
    upscale(source, folder)
    with pytest.raises(UsageError, match="own copy"):
        upscale(folder / "source.zarr", folder)


# Failures


def test_a_unit_that_fails_is_recorded_and_the_others_are_done(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    lr = photo(70, 83)
    save(source / "a.png", lr)
    save(source / "b.png", photo(40, 40))
    job = upscale(source, folder).job
    (damaged,) = shards(job.source_dir, "a.png")
    sound = damaged.read_bytes()
    flip_bytes(damaged)
    # Another tile size makes all units stale; reading the damaged picture fails.
    broken = upscale(source, folder, tile_px=48)
    assert broken.computed == 1
    assert broken.status.units == {"done": 1, "failed": 4, "pending": 0}
    assert broken.status.items == {"done": 1, "failed": 1}
    assert [f.tile for f in broken.status.failures] == [0, 1, 2, 3]
    for failure in broken.status.failures:
        assert (failure.item, failure.error) == ("a.png", "ArchiveError")
        assert "a.png" in failure.message
        assert "cannot be read" in failure.message
        assert "ingest" in failure.message
    assert shards(job.sr_dir, "a.png") == [], "a failed unit must not write pixels"

    damaged.write_bytes(sound)
    mended = upscale(source, folder, tile_px=48)
    assert mended.computed == 4
    assert mended.status.complete
    assert mended.status.failures == ()
    np.testing.assert_array_equal(whole(job.open_sr(), "a.png"), untiled(lr, "bicubic-x2"))


def test_ingesting_a_damaged_item_again_mends_the_next_run(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    lr = photo(70, 83)
    save(source / "a.png", lr)
    job = upscale(source, folder).job
    flip_bytes(shards(job.source_dir, "a.png")[0])
    assert upscale(source, folder, tile_px=48).status.units["failed"] == 4
    job.open_source().delete("a.png")
    mended = upscale(source, folder, tile_px=48)
    assert mended.computed == 4
    assert mended.status.complete
    np.testing.assert_array_equal(whole(job.open_sr(), "a.png"), untiled(lr, "bicubic-x2"))


@pytest.mark.parametrize("lost", ["source_dir", "sr_dir"])
def test_a_lost_shard_is_never_taken_for_black_pixels(
    lost: str, source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(70, 83))
    job = upscale(source, folder).job
    archive_dir = getattr(job, lost)
    shards(archive_dir, "a.png")[0].unlink()
    with pytest.raises(ArchiveError):
        whole(Archive.open(archive_dir), "a.png")


# One run at a time


def test_two_runs_on_one_job_exclude_each_other(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(40, 40))
    job = create_job(folder, source=str(source))
    with run_on(job, "the first"), pytest.raises(JobBusyError, match=r"held by the first \(pid"):
        upscale(source, folder)
    assert upscale(source, folder).computed == 4


def test_a_run_is_recorded_with_how_it_ended(folder: Path, source: Path) -> None:
    source.mkdir(exist_ok=True)
    job = create_job(folder, source=str(source))
    with run_on(job, "good"):
        pass
    with pytest.raises(ZeroDivisionError), run_on(job, "bad"):
        raise ZeroDivisionError
    # Runs that began in one second have no order.
    with closing(job.open_ledger()) as ledger:
        outcomes = {r["command"]: r["outcome"] for r in ledger.runs()}
    assert outcomes == {"good": "finished", "bad": "crashed"}


# The plan and the spec


def row(**values: Any) -> ItemRow:
    return ItemRow(
        **{
            "item": "a",
            "state": INGESTED,
            "sha256": "1",
            "channels": 3,
            "height": 70,
            "width": 83,
            **values,
        }
    )


@given(st.sets(st.integers(0, 8)))
def test_the_plan_is_exactly_what_is_not_done(done: set[int]) -> None:
    (plan,) = plan_tiles([(row(), Chosen(SPEC))], done=lambda _: done, holds=lambda _: True)
    assert set(plan.numbers) == set(range(9)) - done
    assert plan.row.units == 9
    assert not plan.fresh


def test_what_the_archive_does_not_hold_is_planned_whole_whatever_the_ledger_says() -> None:
    (plan,) = plan_tiles([(row(), Chosen(SPEC))], done=lambda _: {0, 1, 2}, holds=lambda _: False)
    assert plan.numbers == tuple(range(9))
    assert plan.fresh


@pytest.mark.parametrize("state", ["rejected", "vanished"])
def test_only_ingested_items_are_planned(state: str) -> None:
    rows = [(row(state=state), Chosen(SPEC))]
    plans = plan_tiles(rows, done=lambda _: set(), holds=lambda _: True)
    assert list(plans) == []


CHANGES: dict[str, Callable[[Any], Any]] = {
    "str": lambda value: value + "x",
    "int": lambda value: value + 1,
    "float": lambda value: value + 1.0,
    "bool": lambda value: not value,
}


@pytest.mark.parametrize("name", [f.name for f in fields(UpscaleSpec)])
def test_the_fingerprint_changes_with_every_field(name: str) -> None:
    value = getattr(SPEC, name)
    other = replace(SPEC, **{name: CHANGES[type(value).__name__](value)})
    assert other.fingerprint() != SPEC.fingerprint()
    assert other.item_fingerprint("1") != SPEC.item_fingerprint("1")


def test_the_fingerprint_of_an_item_changes_with_its_content_alone() -> None:
    assert SPEC.item_fingerprint("1") != SPEC.item_fingerprint("2")
    assert SPEC.item_fingerprint("1") == replace(SPEC).item_fingerprint("1")


def test_the_halo_defaults_to_the_reach_of_the_network() -> None:
    spec = make_spec("bicubic-x2", tile_px=64, halo="auto", precision="fp32", device="cpu")
    assert spec.halo_px == 2
    wide = make_spec("bicubic-x2", tile_px=64, halo=7, precision="fp32", device="cpu")
    assert wide.halo_px == 7


@pytest.mark.parametrize(("name", "value"), [("tile_px", 15), ("halo_px", -1)])
def test_a_spec_outside_its_range_is_refused_with_the_value(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"is {value} px, expected at least"):
        replace(SPEC, **{name: value})


def test_too_small_a_halo_leaves_a_seam(
    source: Path, photo: TakePhoto, save: SavePicture, folder: Path
) -> None:
    found = load_model("bicubic-x2")
    inference = Inference.of(found.network, scale=2, channels=3, precision="fp32", device="cpu")
    lr = photo(70, 83)
    exact = inference.enlarge_tiled(lr, tile_px=32, halo_px=2)
    seamed = inference.enlarge_tiled(lr, tile_px=32, halo_px=0)
    np.testing.assert_array_equal(exact, inference.enlarge(lr))
    assert (seamed != exact).any()


def test_the_ledger_holds_a_done_row_for_each_unit(
    source: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / "a.png", photo(70, 83))
    ledger = upscale(source, folder).job.open_ledger()
    rows = ledger.done_units()
    ledger.close()
    assert [r.number for r in rows] == list(range(9))
    assert all(r.state == DONE and r.worker and r.run and r.seconds > 0 for r in rows)
