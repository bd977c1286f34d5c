"""Small pictures of one size lie in stacks, and nobody who uses a job can tell."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
import zarr

from pipeline.compute.inference import Inference, load_model
from pipeline.compute.workers import Workers
from pipeline.geometry import Rect, Span
from pipeline.jobs.ingest.stage import _Ingest, run_ingest
from pipeline.jobs.job import create_job, open_job
from pipeline.jobs.run import run_on
from pipeline.jobs.scores import read_scores
from pipeline.pictures.files import read_picture
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import INGESTED
from pipeline.storage.stack_kind import LEAST_MEMBERS
from pipeline.storage.stacked_image import StackedImage

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from pipeline.jobs.job import Job
    from pipeline.jobs.scores import ItemScores
    from pipeline.storage.image import StoredImage
    from tests.conftest import Begun, Command, Digest, SavePicture, TakePhoto, Upscale

    Pixels: TypeAlias = NDArray[Any]

HEIGHT, WIDTH, CHUNK = 22, 18, 8
COUNT = 3 * CHUNK
STACK = f"stacks/3x{HEIGHT}x{WIDTH}-uint8/"


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
            save(folder / "source" / f"{n // 10}" / f"{n:02}.png", face(photo, n))
        save(folder / "source" / "large.png", photo(50, 70))
        upscale(folder / "source", folder / "job")

    return begun.as_made_by(make)


@pytest.fixture
def source(place: Path) -> Path:
    """Three chunks of faces in two folders, and one picture of another size."""
    return place / "source"


@pytest.fixture
def done(place: Path) -> Path:
    """The folder of a job that upscaled `source`."""
    return place / "job"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a job that is not there yet."""
    return tmp_path / "job"


def face(photo: TakePhoto, n: int) -> Pixels:
    return photo(HEIGHT, WIDTH, at=7 * n)


def item(n: int) -> str:
    return f"{n // 10}/{n:02}.png"


def whole(image: StoredImage) -> Pixels:
    return image.read(Rect(Span(0, image.size[0]), Span(0, image.size[1])))


def enlarged(pixels: Pixels, model: str = "bicubic-x2") -> Pixels:
    found = load_model(model)
    inference = Inference.of(
        found.network,
        scale=found.spec.scale,
        channels=found.spec.channels,
        precision="fp32",
        device="cpu",
    )
    return inference.enlarge(pixels)


def chunks(sr_dir: Path) -> dict[str, int]:
    folder = sr_dir / "@stacks"
    return {p.name: p.stat().st_ino for p in folder.rglob("members/*.json")}


def pixels_file(archive_dir: Path, chunk: int) -> Path:
    return archive_dir / "@stacks" / STACK.split("/")[1] / "0" / "c" / str(chunk) / "0/0/0"


def scores_of(job: Job) -> dict[str, ItemScores]:
    with closing(job.open_ledger()) as ledger:
        return {scores.item: scores for scores in read_scores(ledger)}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20] = bytes(20)
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bicubic-x2", "span-x4"])
def test_an_image_of_a_stack_is_enlarged_as_it_would_be_alone(
    model: str, source: Path, folder: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    job = upscale(source, folder, model=model)
    assert job.computed == COUNT // CHUNK + 3 * 2
    assert job.status.items["done"] == COUNT + 1
    sr = job.job.open_sr()
    scale = load_model(model).spec.scale
    for n in range(COUNT):
        image = sr.image(item(n))
        assert isinstance(image, StackedImage)
        assert (image.channels, *image.size) == (3, scale * HEIGHT, scale * WIDTH)
        assert image.provenance["source"].endswith(item(n))
        if model == "bicubic-x2":
            assert np.array_equal(whole(image), enlarged(face(photo, n)))
    assert not isinstance(sr.image("large.png"), StackedImage)


def test_every_item_is_listed_whether_it_lies_in_a_stack_or_not(
    source: Path, folder: Path, upscale: Upscale
) -> None:
    archive = upscale(source, folder).job.open_source()
    assert list(archive.items()) == sorted([item(n) for n in range(COUNT)] + ["large.png"])
    assert not list(archive.damaged())


def test_a_stack_takes_two_files_a_chunk(source: Path, done: Path, upscale: Upscale) -> None:
    stacks = done / "sr.zarr" / "@stacks"
    assert sum(p.is_file() for p in stacks.rglob("*")) == 2 * COUNT // CHUNK + 3


def test_files_that_are_read_a_few_at_a_time_make_the_same_stack(
    source: Path, done: Path, tmp_path: Path, upscale: Upscale, digest: Digest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("pipeline.jobs.ingest.stage._WINDOW", LEAST_MEMBERS + 3)
    job = upscale(source, tmp_path / "windows")
    assert job.status.complete
    assert digest(job.job.source_dir / "@stacks") == digest(done / "source.zarr/@stacks")


def test_a_run_that_is_killed_between_two_windows_keeps_what_it_stored(
    source: Path, done: Path, folder: Path, upscale: Upscale, digest: Digest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pack, packed = _Ingest.pack, []

    def dies(self: _Ingest, chunks: Any, client: Client) -> None:
        if packed:
            raise Killed
        packed.extend(chunks)
        pack(self, chunks, client)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.jobs.ingest.stage._WINDOW", LEAST_MEMBERS + 3)
        patch.setattr(
            "pipeline.jobs.ingest.stage.clear", lambda _folder: None
        )  # A kill clears not.
        patch.setattr(_Ingest, "pack", dies)
        with pytest.raises(Killed):
            upscale(source, folder)
    job = open_job(folder)
    waiting = job.source_dir / "@stacks" / "waiting"
    assert list(waiting.iterdir())
    with closing(job.open_ledger()) as ledger:
        kept = [row.item for row in ledger.items(INGESTED)]
    stored = chunks(job.source_dir)
    assert len(stored) == len(packed) > 0
    assert kept == [one.file.item for chunk in packed for one in chunk.waiting]
    assert upscale(source, folder).status.complete
    assert not waiting.exists()
    assert stored.items() <= chunks(job.source_dir).items()
    assert digest(job.source_dir / "@stacks") == digest(done / "source.zarr/@stacks")


class Killed(BaseException):
    """As a process that is killed ends: nothing handles it."""


def test_few_small_pictures_stay_images_of_their_own(
    tmp_path: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    for n in range(LEAST_MEMBERS - 1):
        save(tmp_path / "few" / f"{n:02}.png", face(photo, n))
    job = upscale(tmp_path / "few", folder)
    assert job.computed == LEAST_MEMBERS - 1
    assert not (folder / "source.zarr" / "@stacks").exists()


def test_an_unchanged_stack_is_not_touched(source: Path, done: Path, upscale: Upscale) -> None:
    before = chunks(done)
    assert upscale(source, done).computed == 0
    assert chunks(done) == before


def test_a_changed_picture_makes_a_new_chunk_and_leaves_a_hole_in_its_old_one(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    before = pixels_file(done / "sr.zarr", 0).read_bytes()
    save(source / item(3), face(photo, 40))
    job = upscale(source, done)
    assert job.computed == 1
    assert job.status.complete
    assert pixels_file(done / "sr.zarr", 0).read_bytes() == before
    sr = job.job.open_sr()
    assert np.array_equal(whole(sr.image(item(3))), enlarged(face(photo, 40)))
    assert np.array_equal(whole(sr.image(item(4))), enlarged(face(photo, 4)))
    assert upscale(source, done).computed == 0


def test_a_damaged_chunk_that_an_image_leaves_is_computed_and_not_kept(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale,
    upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    damage(pixels_file(done / "sr.zarr", 0))
    assert upres("score", done, *cluster).code == 3
    save(source / item(3), face(photo, 40))
    job = upscale(source, done)
    assert (job.computed, job.status.complete) == (2, True)
    assert np.array_equal(whole(job.job.open_sr().image(item(4))), enlarged(face(photo, 4)))


def test_new_pictures_go_into_new_chunks(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    for n in (50, 51):
        save(source / item(n), face(photo, n))
    job = upscale(source, done)
    assert (job.computed, job.status.items["done"]) == (1, COUNT + 3)
    assert np.array_equal(whole(job.job.open_sr().image(item(51))), enlarged(face(photo, 51)))


def test_a_vanished_picture_costs_nothing_and_stays(
    source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    (source / item(5)).unlink()
    job = upscale(source, done)
    assert (job.computed, job.status.items["vanished"]) == (0, 1)
    assert np.array_equal(whole(job.job.open_sr().image(item(5))), enlarged(face(photo, 5)))


def test_a_picture_that_breaks_leaves_the_good_one_in_the_archive(
    source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    good = (source / item(6)).read_bytes()
    (source / item(6)).write_bytes(b"no picture")
    job = upscale(source, done)
    assert (job.computed, job.status.items["rejected"]) == (0, 1)
    assert np.array_equal(whole(job.job.open_source().image(item(6))), face(photo, 6))
    (source / item(6)).write_bytes(good)
    mended = upscale(source, done)
    assert (mended.computed, mended.status.complete) == (0, True)


def test_a_picture_of_another_size_leaves_the_stack_and_comes_back(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    save(source / item(0), photo(30, 30))
    job = upscale(source, done)
    assert job.computed == 1
    sr = job.job.open_sr()
    assert not isinstance(sr.image(item(0)), StackedImage)
    assert np.array_equal(whole(sr.image(item(0))), enlarged(photo(30, 30)))
    save(source / item(0), face(photo, 33))
    back = upscale(source, done)
    assert (back.computed, back.status.complete) == (1, True)
    assert isinstance(sr.image(item(0)), StackedImage)
    assert np.array_equal(whole(sr.image(item(0))), enlarged(face(photo, 33)))


@pytest.mark.slow
def test_another_model_makes_every_chunk_anew(
    source: Path, folder: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    first = upscale(source, folder)
    other = upscale(source, folder, model="nearest-x2")
    assert other.computed == first.computed
    larger = upscale(source, folder, model="nearest-x3")
    assert (larger.computed, larger.status.complete) == (first.computed, True)
    found = whole(larger.job.open_sr().image(item(9)))
    assert np.array_equal(found, face(photo, 9).repeat(3, axis=1).repeat(3, axis=2))


@pytest.mark.slow
def test_a_damaged_chunk_is_told_and_done_again(
    source: Path, done: Path, upscale: Upscale, upres: Command, cluster: tuple[str, str],
    digest: Digest,
) -> None:  # fmt: skip
    whole_job = digest(done / "sr.zarr")
    damage(pixels_file(done / "sr.zarr", 1))
    said = upres("score", done, *cluster)
    assert said.code == 3
    assert "checksum" in said.err or "corruption" in said.err
    status = upres("status", done, "--json")
    assert status.document["units"] == {"done": 8, "failed": 1, "pending": 0}
    assert [(f["item"], f["tile"]) for f in status.document["failures"]] == [(STACK, 1)]
    assert status.document["items"]["failed"] == CHUNK
    again = upres("rerun", done, *cluster, "--json")
    assert (again.code, again.document["computed_units"]) == (0, 1)
    assert digest(done / "sr.zarr") == whole_job


@pytest.mark.parametrize("part", ["pixels", "members"])
def test_a_lost_chunk_is_done_again(
    part: str, source: Path, done: Path, upscale: Upscale, digest: Digest
) -> None:
    before = digest(done / "sr.zarr")
    file = pixels_file(done / "sr.zarr", 2)
    file = file if part == "pixels" else file.parents[5] / "members" / "2.json"
    file.unlink()
    assert upscale(source, done).computed == 1
    assert digest(done / "sr.zarr") == before


def test_lr_chunks_that_were_lost_are_ingested_again(
    source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    members = pixels_file(done / "source.zarr", 1).parents[5] / "members"
    (members / "1.json").write_bytes(b"{")
    job = upscale(source, done)
    assert job.status.complete
    for n in range(COUNT):
        assert np.array_equal(whole(job.job.open_source().image(item(n))), face(photo, n))
        assert np.array_equal(whole(job.job.open_sr().image(item(n))), enlarged(face(photo, n)))


def test_a_damaged_lr_chunk_fails_its_unit_and_no_other(
    source: Path, done: Path, upscale: Upscale
) -> None:
    damage(pixels_file(done / "source.zarr", 0))
    job = upscale(source, done, model="nearest-x2")
    assert [(f.item, f.tile, f.error) for f in job.status.failures] == [(STACK, 0, "ArchiveError")]
    assert job.status.items["done"] == COUNT + 1 - CHUNK


def test_a_lost_ledger_is_rebuilt_from_the_stacks(
    source: Path, done: Path, upscale: Upscale
) -> None:
    for path in done.glob("ledger.sqlite*"):
        path.unlink()
    job = upscale(source, done)
    assert (job.computed, job.status.complete) == (0, True)


def test_a_rerun_narrows_to_the_chunks_of_matching_items(
    source: Path, done: Path, upscale: Upscale, upres: Command, cluster: tuple[str, str]
) -> None:
    args = ("rerun", done, "--model", "nearest-x2", "--stale", *cluster, "--json")
    said = upres(*args, "--item", item(9))
    assert (said.code, said.document["computed_units"]) == (0, 1)
    rest = upres(*args)
    assert (rest.code, rest.document["computed_units"]) == (0, 8)


@pytest.mark.slow
def test_stacks_are_read_from_an_archive_outside_the_job(
    source: Path, folder: Path, tmp_path: Path, upscale: Upscale, upres: Command,
    cluster: tuple[str, str], digest: Digest,
) -> None:  # fmt: skip
    assert upres("ingest", source, tmp_path / "faces.zarr", *cluster).code == 0
    archive = tmp_path / "faces.zarr"
    said = upres(
        "upscale", archive, folder, "--model", "bicubic-x2", "--tile", 32, "--precision", "fp32",
        *cluster, "--json",
    )  # fmt: skip
    assert (said.code, said.document["items"]["done"]) == (0, COUNT + 1)
    upscale(source, tmp_path / "own")
    pixels = [digest(d / "sr.zarr" / "@stacks") for d in (folder, tmp_path / "own")]
    assert pixels[0] == pixels[1]


def test_pictures_and_order_of_ingestion_decide_the_bytes_of_a_stack(
    source: Path, tmp_path: Path, client: Client, digest: Digest
) -> None:
    """Whatever the workers' number and speed: places are given by name."""
    digests = []
    for name in ("a", "b"):
        job = create_job(tmp_path / name, source=str(source))
        with run_on(job, "test") as run:
            run_ingest(
                str(source),
                archive_dir=job.source_dir,
                ledger=run.ledger,
                workers=Workers.of(client),
            )
        digests.append(digest(job.source_dir / "@stacks"))
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_scores_and_exports_are_those_of_the_same_pictures_alone(
    source: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upscale: Upscale,
    upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    monkeypatch.setattr("pipeline.jobs.ingest.stacking.LEAST_MEMBERS", 1000)
    upscale(source, tmp_path / "alone", tile_px=64)
    assert not (tmp_path / "alone" / "source.zarr" / "@stacks").exists()
    documents = []
    for job in (done, tmp_path / "alone"):
        assert upres("export", job, job / "images", *cluster).code == 0
        documents.append(upres("score", job, *cluster, "--json").document["items"])
    pairs = [[i for i in d if i["item"] != "large.png"] for d in documents]
    assert pairs[0] == pairs[1]
    assert upres("report", done).code == 0
    for n in range(COUNT):
        files = [d / "images" / item(n) for d in (done, tmp_path / "alone")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (HEIGHT + 3, WIDTH)])
def test_the_scores_of_a_chunk_outlive_an_image_that_leaves_it(
    size: tuple[int, int], source: Path, done: Path, photo: TakePhoto, save: SavePicture,
    upscale: Upscale, upres: Command, cluster: tuple[str, str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = open_job(done)
    assert upres("score", done, *cluster).code == 0
    before = scores_of(job)
    assert len(before) == COUNT + 1
    save(source / item(3), photo(*size, at=280))
    with monkeypatch.context() as patch:  # A kill at the worst moment costs no score either.
        patch.setattr("pipeline.storage.stack.Stack.retain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            upscale(source, done)
    assert upscale(source, done).computed == 1
    assert scores_of(job) == {name: s for name, s in before.items() if name != item(3)}
    assert upres("score", done, *cluster).code == 0
    after = scores_of(job)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {item(3)}


@pytest.mark.slow
def test_the_scores_of_a_chunk_that_is_computed_again_are_gone(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale,
    upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    job = open_job(done)
    assert upres("score", done, *cluster).code == 0
    upscale(source, done, model="nearest-x2")
    assert scores_of(job) == {}
    assert upres("score", done, *cluster).code == 0
    pixels_file(done / "sr.zarr", 0).unlink()
    save(source / item(3), face(photo, 40))
    upscale(source, done, model="nearest-x2")
    assert set(scores_of(job)) == {"large.png", *map(item, range(CHUNK, COUNT))}


def test_an_item_that_is_called_as_the_folder_of_stacks_is_an_item(
    tmp_path: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    for n in range(LEAST_MEMBERS):
        save(tmp_path / "odd" / "@stacks" / f"{n:02}.png", face(photo, n))
        save(tmp_path / "odd" / "stacks" / STACK.split("/")[1] / f"{n}.png", face(photo, n))
    save(tmp_path / "odd" / "@stacks" / "large.png", photo(50, 50))
    job = upscale(tmp_path / "odd", folder)
    assert (job.status.complete, job.status.items["done"]) == (True, 2 * LEAST_MEMBERS + 1)
    assert np.array_equal(
        whole(job.job.open_sr().image("@stacks/large.png")), enlarged(photo(50, 50))
    )


def test_a_stack_with_a_name_that_leads_out_of_the_archive_is_not_followed(
    source: Path, done: Path, upscale: Upscale
) -> None:
    job = open_job(done)
    evil = job.source_dir / "@stacks" / "x.." / "members"
    shutil.copytree(pixels_file(job.source_dir, 0).parents[5] / "members", evil)
    content = json.loads((evil / "0.json").read_text())
    content["members"]["0"]["item"] = "../../outside.png"
    (evil / "0.json").write_text(json.dumps(content))
    assert "../../outside.png" not in list(Archive.open(job.source_dir).items())


@pytest.mark.slow
def test_pictures_that_all_leave_their_stack_are_never_taken_from_it_again(
    source: Path, done: Path, tmp_path: Path, photo: TakePhoto, save: SavePicture,
    upscale: Upscale, upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    for n in range(COUNT):
        save(source / item(n), photo(30, 18, at=5 * n))
    job = upscale(source, done)
    assert job.status.complete
    assert upres("export", done, tmp_path / "images", *cluster).code == 0
    sr = job.job.open_sr()
    for n in range(COUNT):
        found = read_picture((tmp_path / "images" / item(n)).read_bytes(), name=item(n)).pixels
        assert np.array_equal(found, enlarged(photo(30, 18, at=5 * n)))
        assert sr.image(item(n)).size == (60, 36)


@pytest.mark.slow
def test_the_newest_of_a_dozen_contents_is_what_is_exported(
    tmp_path: Path, folder: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    for night in range(6):
        for n in range(2 * CHUNK):
            save(tmp_path / "nights" / f"{n:02}.png", face(photo, n + night))
        job = upscale(tmp_path / "nights", folder)
        assert job.status.complete
    sr = job.job.open_sr()
    for n in range(2 * CHUNK):
        assert np.array_equal(whole(sr.image(f"{n:02}.png")), enlarged(face(photo, n + 5)))
    assert len(sr.stack(STACK).numbers()) == 2


def test_a_lost_chunk_is_a_failure_and_never_an_older_one(
    source: Path, done: Path, tmp_path: Path, photo: TakePhoto, save: SavePicture,
    upscale: Upscale, upres: Command, cluster: tuple[str, str],
) -> None:  # fmt: skip
    save(source / item(3), face(photo, 40))
    upscale(source, done)
    newest = pixels_file(done / "sr.zarr", 0).parents[5] / "members" / "3.json"
    newest.unlink()
    said = upres("export", done, tmp_path / "images", *cluster)
    assert said.code == 3
    assert not (tmp_path / "images" / item(3)).exists()
    assert upres("rerun", done, *cluster).code == 0
    assert upres("export", done, tmp_path / "images", *cluster).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["deleted", "truncated", "folder"])
def test_a_stack_without_its_metadata_is_read_again_from_the_files(
    how: str, source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    metadata = pixels_file(done / "source.zarr", 0).parents[4] / "zarr.json"
    metadata.unlink()
    if how == "truncated":
        metadata.write_bytes(b"{")
    elif how == "done":
        metadata.mkdir()
    job = upscale(source, done)
    assert job.status.complete
    for n in range(COUNT):
        assert np.array_equal(whole(job.job.open_source().image(item(n))), face(photo, n))
        assert np.array_equal(whole(job.job.open_sr().image(item(n))), enlarged(face(photo, n)))


@pytest.mark.slow
def test_an_interruption_before_changed_pictures_are_packed_loses_none(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale,
    monkeypatch: pytest.MonkeyPatch, upres: Command,
) -> None:  # fmt: skip
    for n in range(5):
        save(source / item(n), face(photo, n + 50))
    for moment in ("pack", "leave_holes"):
        with monkeypatch.context() as patch:
            owner = (
                "pipeline.jobs.ingest.stage._Ingest"
                if moment == "pack"
                else "pipeline.jobs.ingest.stage"
            )
            patch.setattr(f"{owner}.{moment}", interrupted)
            with pytest.raises(KeyboardInterrupt):
                upscale(source, done)
        held = Archive.open(done / "source.zarr")
        assert list(held.items()) == sorted([item(n) for n in range(COUNT)] + ["large.png"])
    job = upscale(source, done)
    assert job.status.complete
    for n in range(COUNT):
        wanted = face(photo, n + 50 if n < 5 else n)
        assert np.array_equal(whole(job.job.open_source().image(item(n))), wanted)
        assert np.array_equal(whole(job.job.open_sr().image(item(n))), enlarged(wanted))
    assert not job.job.open_source().index().outdated


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_chunk_that_is_not_what_the_ledger_says_fails_instead_of_being_done(
    source: Path, done: Path, upscale: Upscale, upres: Command, cluster: tuple[str, str]
) -> None:
    job = open_job(done)
    job.open_source().stack(STACK).drop(0, [2])
    said = upres("rerun", done, "--stale", "--model", "nearest-x2", *cluster, "--json")
    assert said.code == 3
    (failure,) = said.document["failures"]
    assert (failure["item"], failure["tile"]) == (STACK, 0)
    assert "changed" in failure["message"]
    assert upscale(source, done, model="nearest-x2").status.complete


def test_what_an_interrupted_writer_left_does_not_hide_an_image_of_a_stack(
    source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    job = open_job(done)
    for archive_dir in (job.source_dir, job.sr_dir):
        group = zarr.open_group(archive_dir, mode="r+").create_group(item(3))
        group.create_array("0", shape=(3, 9, 9), dtype="uint8", chunks=(3, 9, 9))
        assert np.array_equal(whole(Archive.open(job.source_dir).image(item(3))), face(photo, 3))
    again = upscale(source, done, model="nearest-x2")
    assert (again.status.complete, again.status.items["done"]) == (True, COUNT + 1)
    assert not (job.source_dir / item(3)).exists()


@pytest.mark.parametrize("archive", ["source.zarr", "sr.zarr"])
def test_a_stack_without_its_folder_of_members_is_made_again(
    archive: str, source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    job = open_job(done)
    shutil.rmtree(pixels_file(done / archive, 0).parents[5] / "members")
    assert upscale(source, done).status.complete
    assert np.array_equal(whole(job.open_sr().image(item(7))), enlarged(face(photo, 7)))


def test_one_item_at_another_scale_takes_its_whole_stack_and_says_so(
    source: Path, done: Path, upscale: Upscale, upres: Command, cluster: tuple[str, str]
) -> None:
    said = upres(
        "rerun", done, "--stale", "--model", "nearest-x3", "--item", item(9), *cluster
    )  # fmt: skip
    assert f"3 tiles of {COUNT} items" in said.err
    assert f"{COUNT} pictures" in said.err
    assert said.code == 0


def test_a_vanished_image_of_a_chunk_that_changes_stays_done(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    (source / item(5)).unlink()
    save(source / item(6), face(photo, 60))
    job = upscale(source, done)
    (gone,) = (count for count in job.status.counts if count.item == item(5))
    assert (gone.state, gone.done, gone.units) == ("vanished", 1, 1)
    assert np.array_equal(whole(job.job.open_sr().image(item(5))), enlarged(face(photo, 5)))


def test_an_interruption_before_a_chunk_is_kept_leaves_nothing_pending(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save(source / item(3), face(photo, 40))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.jobs.upscale.chunks.ChunkPlan.keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            upscale(source, done)
    again = upscale(source, done)
    assert (again.computed, again.status.complete) == (1, True)


def test_a_vanished_image_that_a_fault_took_from_the_archive_does_not_block_its_chunk(
    source: Path, done: Path, upscale: Upscale
) -> None:
    (source / item(17)).unlink()
    upscale(source, done)
    (pixels_file(done / "source.zarr", 2).parents[5] / "members" / "2.json").unlink()
    assert upscale(source, done).status.complete
    assert upscale(source, done).computed == 0


def test_a_stack_that_is_made_anew_with_other_places_loses_none(
    source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    (pixels_file(done / "source.zarr", 0).parents[4] / "zarr.json").unlink()
    save(source / "0" / "000.png", face(photo, 44))
    job = upscale(source, done)
    assert job.status.complete
    assert np.array_equal(whole(job.job.open_sr().image(item(9))), enlarged(face(photo, 9)))


def test_pixels_that_were_lost_from_the_archive_are_read_again_from_the_files(
    source: Path, done: Path, photo: TakePhoto, upscale: Upscale
) -> None:
    pixels_file(done / "source.zarr", 2).unlink()
    job = upscale(source, done)
    assert job.status.complete
    assert np.array_equal(whole(job.job.open_source().image(item(20))), face(photo, 20))


@pytest.mark.parametrize("archive", ["source.zarr", "sr.zarr"])
def test_damaged_metadata_of_the_folder_of_stacks_stops_nothing(
    archive: str, source: Path, done: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    (done / archive / "@stacks" / "zarr.json").write_bytes(b"{")
    for n in range(COUNT):
        save(source / item(n), photo(20, 30, at=n))
    assert upscale(source, done, model="nearest-x3").status.complete


def test_pixels_of_vanished_images_outlive_a_lost_ledger(
    source: Path, done: Path, upscale: Upscale
) -> None:
    for n in range(2 * CHUNK, 3 * CHUNK):
        (source / item(n)).unlink()
    upscale(source, done)
    for path in done.glob("ledger.sqlite*"):
        path.unlink()
    job = upscale(source, done)
    assert job.status.complete
    assert job.job.open_sr().image(item(20)).is_whole(Rect(Span(0, 4), Span(0, 4)))


@pytest.mark.slow
def test_two_thousand_faces_take_fewer_than_eighty_files(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, photo: TakePhoto,
    save: SavePicture, upscale: Upscale,
) -> None:  # fmt: skip
    monkeypatch.undo()
    faces = [save(tmp_path / f"{n}.jpg", photo(109, 89, at=30 * n)) for n in range(8)]
    for n in range(2_000):
        face_path = tmp_path / "faces" / f"{n // 1000}" / f"{n:05}.jpg"
        face_path.parent.mkdir(parents=True, exist_ok=True)
        face_path.write_bytes(faces[n % 8].read_bytes())
    job = upscale(tmp_path / "faces", folder, model="nearest-x2")
    assert (job.status.items["done"], job.status.complete) == (2_000, True)
    assert sum(path.is_file() for path in folder.rglob("*")) < 80
    lr = job.job.open_source().image("1/01999.jpg")
    sr = job.job.open_sr().image("1/01999.jpg")
    assert np.array_equal(whole(sr), whole(lr).repeat(2, axis=1).repeat(2, axis=2))
