"""Small pictures of sizes of their own share stacks, and nobody who uses a job can tell."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobs.job import open_job
from pipeline.jobs.keep.leaving import read_preview
from pipeline.jobs.spec import make_spec
from pipeline.jobs.upscale.chunk_task import ChunkTask, upscale_chunk
from pipeline.jobs.upscale.worker import ModelAddress, Workbench, open_workbench
from pipeline.pictures.files import read_picture
from pipeline.storage.archive import Archive
from pipeline.storage.stack_kind import LEAST_MEMBERS, Kind
from pipeline.storage.stacked_image import StackedImage
from pipeline.storage.waiting_room import clear
from tests.examples import examples
from tests.flows.test_interrupt import content, gone, started
from tests.pipeline.jobs.upscale.test_stacks import (
    damage,
    enlarged,
    interrupted,
    scores_of,
    whole,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.jobs.ingest.stage import _Ingest
    from tests.conftest import Begun, Command, Digest, SavePicture, TakePhoto, Upscale

    Pixels: TypeAlias = NDArray[Any]

COUNT, CHUNK = 20, 8
STACK = "stacks/3x64x64-uint8-mixed/"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.stack_kind._CHUNK_MEMBERS", CHUNK)


@pytest.fixture
def place(
    begun: Begun, small_chunks: None, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> Path:
    """Return a folder with `source`, and with the job that upscaled it."""

    def make(folder: Path) -> None:
        for n in range(COUNT):
            save(folder / "source" / item(n), scrap(photo, n))
        upscale(folder / "source", folder / "job")

    return begun.as_made_by(make)


@pytest.fixture
def source(place: Path) -> Path:
    """Pictures of twenty sizes, some with a side of a pixel or two."""
    return place / "source"


@pytest.fixture
def done(place: Path) -> Path:
    """The folder of a job that upscaled `source`."""
    return place / "job"


def size_of(n: int) -> tuple[int, int]:
    return 1 + 3 * n, 64 - 2 * n


def scrap(photo: TakePhoto, n: int) -> Pixels:
    return photo(*size_of(n), at=7 * n)


def item(n: int) -> str:
    return f"{n // 10}/{n:02}.png"


def members_file(archive_dir: Path, chunk: int) -> Path:
    return archive_dir / "@stacks" / STACK.split("/")[1] / "members" / f"{chunk}.json"


def pixels_file(archive_dir: Path, chunk: int) -> Path:
    return members_file(archive_dir, chunk).parents[1] / "0" / "c" / str(chunk) / "0/0/0"


def test_pictures_of_all_sizes_share_chunks_and_each_is_enlarged_as_it_is(
    source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    job = open_job(done)
    for archive in (job.open_source(), job.open_sr()):
        assert archive.stacks() == [STACK]
        assert archive.stack(STACK).numbers() == [0, 1, 2]
        assert list(archive.items()) == [item(n) for n in range(COUNT)]
        assert not list(archive.damaged())
    for n in range(COUNT):
        lr, sr = (a.image(item(n)) for a in (job.open_source(), job.open_sr()))
        assert isinstance(sr, StackedImage)
        assert lr.size == size_of(n)
        assert np.array_equal(whole(lr), scrap(photo, n))
        assert np.array_equal(whole(sr), enlarged(scrap(photo, n)))
    assert upscale(source, done).computed == 0


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{"model": "span-x2"}, {"model": "auto-x2"}], ids=str)
def test_alone_in_a_stack_of_one_size_and_in_a_mixed_one_the_bytes_are_the_same(
    asked: dict[str, Any], source: Path, tmp_path: Path, photo: TakePhoto, save: SavePicture,
    upscale: Upscale, upres: Command, cluster: tuple[str, str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for n in range(LEAST_MEMBERS):  # Of one size: the first of them is a picture of `source` too.
        save(tmp_path / "equal" / f"{n:02}.png", photo(*size_of(10), at=70 + n))
    files: list[dict[str, bytes]] = []
    for name, folder, least in (
        ("mixed", source, LEAST_MEMBERS),
        ("equal", tmp_path / "equal", LEAST_MEMBERS),
        ("alone", source, 1_000),
    ):
        monkeypatch.setattr("pipeline.jobs.ingest.stacking.LEAST_MEMBERS", least)
        job = upscale(folder, tmp_path / name / "job", **asked).job
        assert len(job.open_sr().stacks()) == (name != "alone")
        images = tmp_path / "images" / name
        assert upres("export", job.folder, images, *cluster).code == 0
        found = sorted(images.rglob("*.png"))
        files.append({p.relative_to(images).as_posix(): p.read_bytes() for p in found})
    mixed, equal, alone = files
    assert mixed == alone
    assert mixed[item(10)] == equal["00.png"]


@pytest.fixture(scope="module")
def bench() -> Workbench:
    spec = make_spec("span-x2", tile_px=256, halo="auto", precision="fp32", device="cpu")
    return open_workbench(ModelAddress(name_or_file="span-x2", device="cpu"), spec)


SIZES = st.tuples(st.integers(1, 64), st.integers(1, 64))


@pytest.mark.slow
@examples(30, few=3)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=6),
    channels=st.sampled_from([1, 3, 4]),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
)
def test_no_network_sees_a_pixel_of_the_box_around_a_picture(
    sizes: list[tuple[int, int]], channels: int, dtype: str, bench: Workbench, photo: TakePhoto,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("boxes")
    kind = Kind(channels, 64, 64, dtype, mixed=True)
    lr, sr = (Archive.open_or_create(folder / name) for name in ("lr", "sr"))
    pictures = [photo(*size, channels, dtype, at=20 * n) for n, size in enumerate(sizes)]
    members = {n: {"item": f"{n}.png", "sha256": str(n)} for n in range(len(sizes))}
    for archive, scale in ((lr, 1), (sr, 2)):
        box = Kind(channels, 64 * scale, 64 * scale, dtype, mixed=True)
        archive.create_stack(kind.stack, box, chunk_members=8, chunks=1)
    lr.stack(kind.stack).write(0, pictures, members, {})
    chunk = lr.stack(kind.stack).chunk(0)
    assert chunk is not None
    task = ChunkTask(
        stack=kind.stack, chunk=0, fingerprint="f", lr_pixels=1, halo_px=21, source_dir=lr.path,
        sr_dir=sr.path, source_sha256=chunk.sha256, facts={}, limit_s=60.0,
    )  # fmt: skip
    upscale_chunk(task, bench)
    for n, picture in enumerate(pictures):
        image = sr.image(f"{n}.png")
        assert image.size == (2 * picture.shape[1], 2 * picture.shape[2])
        assert np.array_equal(whole(image), bench.inference.enlarge(picture))


@pytest.mark.slow
def test_few_pictures_of_each_box_share_a_larger_one(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    for n in range(LEAST_MEMBERS):
        save(tmp_path / "in" / f"{n:02}.png", photo(20 + 12 * n, 200 - 12 * n, at=n))
    save(tmp_path / "in" / "narrow.png", photo(2, 300).repeat(60, axis=2))
    job = upscale(tmp_path / "in", tmp_path / "job")
    assert job.job.open_sr().stacks() == ["stacks/3x256x256-uint8-mixed/"]
    assert not job.job.open_sr().image("narrow.png").in_stack
    assert job.status.complete


def test_pictures_that_are_many_of_one_size_keep_a_stack_of_their_own(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    for n in range(LEAST_MEMBERS):
        save(tmp_path / "in" / f"equal{n:02}.png", photo(30, 40, at=n))
        save(tmp_path / "in" / f"mixed{n:02}.png", photo(30, 41 + n, at=n))
    sr = upscale(tmp_path / "in", tmp_path / "job").job.open_sr()
    assert sr.stacks() == ["stacks/3x30x40-uint8/", STACK]


@pytest.mark.slow
def test_a_job_of_before_keeps_its_images_and_only_new_pictures_share(
    source: Path, tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale,
    monkeypatch: pytest.MonkeyPatch, digest: Digest,
) -> None:  # fmt: skip
    job = tmp_path / "job"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.jobs.ingest.stacking.BOX_STEPS_PX", (1,))
        assert upscale(source, job).job.open_sr().stacks() == []
    before = {name: digest(job / name) for name in ("source.zarr", "sr.zarr")}
    assert upscale(source, job).computed == 0
    assert {name: digest(job / name) for name in before} == before
    for n in range(LEAST_MEMBERS):
        save(source / "new" / f"{n:02}.png", scrap(photo, n))
    again = upscale(source, job)
    assert (again.computed, again.status.complete) == (LEAST_MEMBERS // CHUNK, True)
    now = digest(job / "sr.zarr")
    assert {name: now[name] for name in before["sr.zarr"]} == before["sr.zarr"]


def test_a_picture_that_changes_its_size_moves_and_the_others_stay(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    before = pixels_file(done / "sr.zarr", 0).read_bytes()
    save(source / item(3), photo(63, 17, at=300))
    save(source / item(4), photo(90, 120, at=300))  # For no box that is there: alone from now on.
    job = upscale(source, done)
    assert (job.status.complete, job.status.items["done"]) == (True, COUNT)
    assert pixels_file(done / "sr.zarr", 0).read_bytes() == before
    sr = job.job.open_sr()
    assert np.array_equal(whole(sr.image(item(3))), enlarged(photo(63, 17, at=300)))
    assert np.array_equal(whole(sr.image(item(4))), enlarged(photo(90, 120, at=300)))
    assert np.array_equal(whole(sr.image(item(5))), enlarged(scrap(photo, 5)))
    assert (sr.image(item(3)).in_stack, sr.image(item(4)).in_stack) == (True, False)
    save(source / item(4), scrap(photo, 4))
    back = upscale(source, done)
    assert (back.computed, back.status.complete) == (1, True)
    assert np.array_equal(whole(sr.image(item(4))), enlarged(scrap(photo, 4)))
    assert upscale(source, done).computed == 0


def test_a_picture_that_vanished_between_nights_costs_nothing_and_stays(
    source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    (source / item(5)).unlink()
    job = upscale(source, done)
    assert (job.computed, job.status.items["vanished"]) == (0, 1)
    assert np.array_equal(whole(job.job.open_sr().image(item(5))), enlarged(scrap(photo, 5)))


@pytest.mark.parametrize("size", [(63, 17), (90, 120)], ids=["in a stack", "alone"])
def test_a_picture_that_changes_leaves_its_chunk_also_where_all_others_in_it_vanished(
    size: tuple[int, int], source: Path, done: Path, photo: TakePhoto, save: SavePicture,
    upscale: Upscale,
) -> None:  # fmt: skip
    for n in {*range(CHUNK)} - {3}:
        (source / item(n)).unlink()
    save(source / item(3), photo(*size, at=300))
    job = upscale(source, done).job
    for archive in (job.open_source(), job.open_sr()):
        chunk = archive.stack(STACK).chunk(0)
        assert chunk is not None
        assert set(chunk.members) == {*range(CHUNK)} - {3}
        assert not archive.index().outdated
    assert np.array_equal(whole(job.open_sr().image(item(3))), enlarged(photo(*size, at=300)))
    assert np.array_equal(whole(job.open_sr().image(item(2))), enlarged(scrap(photo, 2)))
    assert upscale(source, done).computed == 0


def test_a_picture_that_outgrows_its_box_while_it_is_read_is_rejected_and_leaves_a_hole(
    source: Path, tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from pipeline.jobs.ingest.stage import _Ingest

    pack = _Ingest.pack

    def after_a_change(self: _Ingest, *arguments: Any) -> None:
        save(source / item(2), photo(70, 20))
        clear(self._found.archive.path)  # As if these files had been lost.
        pack(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_Ingest, "pack", after_a_change)
        job = upscale(source, tmp_path / "job")
    (failure,) = job.status.failures
    assert (failure.item, failure.tile) == (item(2), None)
    assert "was changed while it was read" in failure.message
    assert job.status.items == {"done": COUNT - 1, "rejected": 1}
    again = upscale(source, tmp_path / "job")
    assert again.status.complete
    assert np.array_equal(whole(again.job.open_sr().image(item(2))), enlarged(photo(70, 20)))


def test_a_picture_that_changes_while_it_waits_is_stored_as_it_was_read_and_then_read_again(
    source: Path, tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from pipeline.jobs.ingest.stage import _Ingest

    pack, before = _Ingest.pack, scrap(photo, 2)

    def after_a_change(self: _Ingest, *arguments: Any) -> None:
        save(source / item(2), photo(70, 20))
        (source / item(3)).unlink(missing_ok=True)
        pack(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_Ingest, "pack", after_a_change)
        job = upscale(source, tmp_path / "job")
    assert job.status.items == {"done": COUNT}
    sr = job.job.open_sr()
    assert np.array_equal(whole(sr.image(item(2))), enlarged(before))
    assert np.array_equal(whole(sr.image(item(3))), enlarged(scrap(photo, 3)))
    assert not (tmp_path / "job/source.zarr/@stacks/waiting").exists()
    again = upscale(source, tmp_path / "job")
    assert again.status.items == {"done": COUNT - 1, "vanished": 1}
    assert np.array_equal(whole(again.job.open_sr().image(item(2))), enlarged(photo(70, 20)))


def test_a_failed_chunk_is_computed_again_by_the_name_of_a_picture(
    source: Path, done: Path, upscale: Upscale, upres: Command, cluster: tuple[str, str],
    digest: Digest,
) -> None:  # fmt: skip
    whole_job = digest(done / "sr.zarr")
    damage(pixels_file(done / "sr.zarr", 1))
    assert upres("score", done, *cluster).code == 3
    status = upres("status", done, "--json").document
    assert [(f["item"], f["tile"]) for f in status["failures"]] == [(STACK, 1)]
    assert status["units"] == {"done": 2, "failed": 1, "pending": 0}
    assert status["items"]["failed"] == CHUNK
    other = upres("rerun", done, "--item", item(3), *cluster, "--json")
    assert other.document["computed_units"] == 0
    again = upres("rerun", done, "--item", item(9), *cluster, "--json")
    assert (again.code, again.document["computed_units"]) == (0, 1)
    assert digest(done / "sr.zarr") == whole_job


@pytest.mark.slow
def test_scores_report_and_status_are_those_of_the_same_pictures_alone(
    source: Path, done: Path, tmp_path: Path, upscale: Upscale, upres: Command,
    cluster: tuple[str, str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("pipeline.jobs.ingest.stacking.LEAST_MEMBERS", 1_000)
    # One tile a picture, as in a stack.
    upscale(source, tmp_path / "alone", tile_px=64)
    documents = []
    for job in (done, tmp_path / "alone"):
        documents.append(upres("score", job, *cluster, "--json").document["items"])
        assert upres("report", job).code == 0
        page = (job / "report.html").read_text()
        assert all(item(n) in page for n in range(COUNT))
        assert upres("status", job, "--json").document["items"]["done"] == COUNT
    assert documents[0] == documents[1]
    assert any(one["consistency_psnr_y"] for one in documents[0])


def test_a_lost_ledger_is_rebuilt_with_the_size_of_each_picture(
    source: Path, done: Path, tmp_path: Path, photo: TakePhoto, upscale: Upscale, upres: Command,
    cluster: tuple[str, str],
) -> None:  # fmt: skip
    for path in done.glob("ledger.sqlite*"):
        path.unlink()
    job = upscale(source, done)
    assert (job.computed, job.status.complete) == (0, True)
    with closing(job.job.open_ledger()) as ledger:
        sizes = {row.item: (row.height, row.width) for row in ledger.items()}
    assert sizes == {item(n): size_of(n) for n in range(COUNT)}
    assert upres("export", done, tmp_path / "images", *cluster).code == 0
    for n in range(COUNT):
        data = (tmp_path / "images" / item(n)).read_bytes()
        assert np.array_equal(read_picture(data, name=item(n)).pixels, enlarged(scrap(photo, n)))


def test_an_archive_with_a_mixed_stack_is_a_source(
    done: Path, tmp_path: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    job = upscale(done / "source.zarr", tmp_path / "other", model="nearest-x3")
    assert (job.computed, job.status.complete) == (3, True)
    for n in range(COUNT):
        expected = scrap(photo, n).repeat(3, axis=1).repeat(3, axis=2)
        assert np.array_equal(whole(job.job.open_sr().image(item(n))), expected)


@pytest.mark.parametrize("size", [None, [0, 5], [5], ["a", "b"]], ids=str)
def test_a_member_without_a_size_is_read_again_from_its_file(
    size: Any, source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    file = members_file(done / "source.zarr", 1)
    content = json.loads(file.read_text())
    content["members"]["2"]["size"] = size
    file.write_text(json.dumps(content))
    job = upscale(source, done)
    assert job.status.complete
    for n in range(COUNT):
        assert np.array_equal(whole(job.job.open_source().image(item(n))), scrap(photo, n))
        assert np.array_equal(whole(job.job.open_sr().image(item(n))), enlarged(scrap(photo, n)))


def test_scores_outlive_a_picture_that_leaves_its_chunk(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale,
    upres: Command, cluster: tuple[str, str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert upres("score", done, *cluster).code == 0
    before = scores_of(open_job(done))
    save(source / item(3), photo(33, 44, at=280))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.storage.stack.Stack.retain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            upscale(source, done)
    assert upscale(source, done).computed == 1
    after = scores_of(open_job(done))
    assert after == {name: scores for name, scores in before.items() if name != item(3)}


def test_pictures_whose_pixels_are_let_go_keep_previews_of_their_own_sizes(
    source: Path, tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command,
    cluster: tuple[str, str], digest: Digest,
) -> None:  # fmt: skip
    job, out = tmp_path / "job", tmp_path / "out"
    words = ("upscale", source, job, "--model", "bicubic-x2", "--export", out, "--keep", "export",
             *cluster, "--json")  # fmt: skip
    assert upres(*words).code == 0
    assert not list((job / "sr.zarr").rglob("c/*/0/0/0"))
    with closing(open_job(job).open_ledger()) as ledger:
        rows = list(ledger.items())
    for n, row in enumerate(rows):
        preview = read_preview(job / "previews", row)
        assert preview is not None
        small = read_picture(preview, name=item(n)).pixels
        assert small.shape == (3, *size_of(n))
        assert np.abs(small.astype(int) - scrap(photo, n)).mean() < 12
    before = digest(out)
    save(source / item(3), photo(33, 44, at=280))
    again = upres(*words)
    assert (again.code, again.document["computed_units"]) == (0, 1)
    now = digest(out)
    assert {name for name in now if now[name] != before[name]} == {item(3)}
    changed = read_picture((out / item(3)).read_bytes(), name=item(3)).pixels
    assert np.array_equal(changed, enlarged(photo(33, 44, at=280)))


@pytest.mark.slow
def test_a_run_that_is_killed_between_two_chunks_continues_with_the_same_bytes(
    source: Path, done: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job = tmp_path / "job"
    words = ["upscale", str(source), str(job), "--model", "bicubic-x2"]
    words += ["--tile", "32", "--precision", "fp32", "--device", "cpu"]
    chunks = f"import pipeline.storage.stack_kind as k; k._CHUNK_MEMBERS = {CHUNK}"
    with started(words, job, free=2, first=chunks) as driver:
        driver.wait_until(lambda: done_chunks(job))
        workers = driver.workers()
        driver.process.kill()
        driver.process.wait(timeout=600)
        assert gone(workers, within_s=600)
    recorded = done_chunks(job)
    assert 0 < recorded < 3
    said = upres(*words, *cluster, "--json")
    assert (said.code, said.document["computed_units"]) == (0, 3 - recorded)
    assert content(job) == content(done)


def done_chunks(job: Path) -> int:
    if not (job / "sr.zarr").exists():
        return 0
    with closing(open_job(job).open_ledger()) as ledger:
        return len(ledger.done_units())
