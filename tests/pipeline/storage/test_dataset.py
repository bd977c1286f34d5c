"""A dataset gives back the very patches that were put into it, or says what is wrong with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from pipeline.errors import DatasetError
from pipeline.storage.dataset import (
    HR,
    IDENTITY,
    MOMENTS,
    SPLIT,
    Dataset,
    DatasetSpec,
    is_dataset,
    moments,
)
from pipeline.storage.manifest import NO_PATCH, SPLITS, Manifest, Origin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import Digest

    Pixels = NDArray[np.uint8]

CHUNK, ROWS = 8, 20
SPEC = DatasetSpec(
    scale=2,
    channels=3,
    hr_px=(8, 12),
    degradations=("soft",),
    recipe={"scale": 2, "sizes": [8, 12]},
    fingerprint="one",
    chunk_patches=CHUNK,
)
ARRAYS = (HR, "lr_soft", MOMENTS)
ORIGINS = (
    Origin(item="a.png", sha256="00", split="train", licence="CC0", copyright="Ä"),
    Origin(item="b.png", sha256="01", split="validation", left_out={"flat": 3}),
    Origin(item="c.png", sha256="02", split="test"),
    Origin(item="d.png", sha256="03", split=""),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


def manifest(chunk: int, rows: int = CHUNK) -> Manifest:
    """Return one with a hole: place 2 of each chunk holds no patch."""
    places = np.array([place for place in range(rows) if place != 2])
    rng = np.random.default_rng(chunk)
    return Manifest(
        ORIGINS,
        places,
        pictures=np.arange(len(places)) % 3,
        corners=rng.integers(1000, size=(len(places), 2)),
        seeds=rng.integers(2**62, size=len(places)),
        hashes=rng.integers(2**64, size=len(places), dtype=np.uint64),
    )


def pixels(chunk: int, many: int) -> dict[str, Pixels]:
    """Return random patches, the first of which is black."""
    rng = np.random.default_rng(100 + chunk)
    found = {
        name: rng.integers(256, size=(many, SPEC.channels, *px), dtype=np.uint8)
        for name, px in SPEC.pixel_arrays.items()
    }
    for patches in found.values():
        patches[0] = 0
    return found


def make(path: Path) -> Dataset:
    dataset = Dataset.open_or_create(path, SPEC)
    for chunk, start in enumerate(range(0, ROWS, CHUNK)):
        dataset.put_manifest(chunk, manifest(chunk, min(CHUNK, ROWS - start)))
    dataset.grow(ROWS)
    for chunk in range(dataset.chunks):
        dataset.write(chunk, pixels(chunk, len(dataset.manifest(chunk))))
    return dataset


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "dataset"
    make(path)
    return path


@pytest.fixture
def dataset(template: Path, path: Path) -> Dataset:
    """A copy of one that was made: making it takes a hundred waits for the disk."""
    shutil.copytree(template, path)
    return Dataset.open(path)


def all_pixels(name: str) -> tuple[NDArray[Any], Pixels]:
    """Return the rows that `made` fills, and what is in them."""
    rows, found = [], []
    for chunk, start in enumerate(range(0, ROWS, CHUNK)):
        places = manifest(chunk, min(CHUNK, ROWS - start)).places
        rows.append(start + places)
        found.append(pixels(chunk, len(places))[name])
    return np.concatenate(rows), np.concatenate(found)


def shard(dataset: Dataset, name: str, chunk: int) -> Path:
    """Return the one file that an array has for a chunk."""
    found = (dataset.path / name).glob(f"c.{chunk}*")
    (file,) = (path for path in found if path.name.split(".")[1] == str(chunk))
    return file


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[12] ^= 4
    file.write_bytes(content)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def test_patches_are_read_back_from_any_rows_in_any_order(dataset: Dataset) -> None:
    for name in SPEC.pixel_arrays:
        rows, wanted = all_pixels(name)
        order = np.random.default_rng(0).integers(len(rows), size=60)
        assert (dataset.read(name, rows[order]) == wanted[order]).all()
    assert dataset.read(HR, np.array([], dtype=np.int64)).shape == (0, 3, 8, 12)


def test_a_manifest_is_read_back_as_it_was_put(dataset: Dataset) -> None:
    wanted = manifest(1)
    found = dataset.manifest(1)
    assert found.to_json() == wanted.to_json()
    assert found.origins == ORIGINS
    for name in ("places", "pictures", "corners", "seeds", "hashes"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name))
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
    assert [SPLITS[number] for number in found.splits[:3]] == ["train", "validation", "test"]
    plain = replace(wanted, hashes=np.array([], dtype=np.uint64))
    assert Manifest.from_json(plain.to_json(), most=CHUNK).to_json() == plain.to_json()


def test_an_empty_manifest_is_read_back(dataset: Dataset) -> None:
    nothing = dataset.manifest(0).without(frozenset(origin.item for origin in ORIGINS))
    dataset.put_manifest(0, nothing)
    found = dataset.manifest(0)
    assert len(found) == len(found.splits) == 0
    assert found.corners.shape == (0, 2)
    assert found.origins == ()


def test_without_an_item_the_other_patches_keep_their_places() -> None:
    before = manifest(0)
    after = before.without(frozenset(["b.png", "unknown.png"]))
    kept = before.pictures != 1
    assert [origin.item for origin in after.origins] == ["a.png", "c.png", "d.png"]
    for name in ("places", "corners", "seeds", "hashes"):
        assert np.array_equal(getattr(after, name), getattr(before, name)[kept])
    items = [after.origins[n].item for n in after.pictures]
    assert items == [ORIGINS[n].item for n in before.pictures[kept]]
    assert Manifest.from_json(after.to_json(), most=CHUNK).to_json() == after.to_json()


def test_rows_without_a_patch_are_of_no_split(dataset: Dataset) -> None:
    marks = dataset.splits()
    assert np.flatnonzero(marks == NO_PATCH).tolist() == [2, 10, 18]
    found = np.sort(np.concatenate([dataset.rows(split) for split in SPLITS]))
    assert found.tolist() == [row for row in range(ROWS) if row % CHUNK != 2]


def test_patches_of_a_picture_that_is_left_out_are_of_no_split(dataset: Dataset) -> None:
    all_left_out = replace(dataset.manifest(0), pictures=np.full(CHUNK - 1, 3))
    dataset.put_manifest(0, all_left_out)
    dataset.write(0, pixels(0, CHUNK - 1))
    assert (dataset.splits()[:CHUNK] == NO_PATCH).all()


def test_rows_are_of_no_split_before_their_patches_are_written(path: Path) -> None:
    dataset = Dataset.open_or_create(path, SPEC)
    assert (len(dataset), dataset.chunks) == (0, 0)
    assert dataset.splits().tolist() == []
    dataset.put_manifest(0, manifest(0))
    dataset.grow(CHUNK)
    assert (dataset.splits() == NO_PATCH).all()
    assert not dataset.is_marked(0)
    assert not dataset.is_whole(0)
    assert dataset.rows("train").tolist() == []
    assert dataset.statistics()["train"] == {"patches": 0, "mean": None, "std": None}


def test_a_dataset_that_grows_keeps_its_patches(dataset: Dataset) -> None:
    before = {name: dataset.read(name, all_pixels(name)[0]) for name in SPEC.pixel_arrays}
    dataset.put_manifest(3, manifest(3))
    assert dataset.chunks == 3
    # The last chunk was not full: what it is to hold changes with the rows.
    dataset.put_manifest(2, manifest(2))
    dataset.grow(4 * CHUNK)
    for name, wanted in before.items():
        assert (dataset.read(name, all_pixels(name)[0]) == wanted).all()
    assert (len(dataset), dataset.chunks) == (4 * CHUNK, 4)
    assert [dataset.is_whole(chunk) for chunk in range(4)] == [True, True, False, False]
    for chunk in (2, 3):
        dataset.write(chunk, pixels(chunk, CHUNK - 1))
    assert all(map(dataset.is_whole, range(4)))
    dataset.grow(5)
    assert len(dataset) == 4 * CHUNK


def test_manifests_beyond_the_rows_are_dropped(dataset: Dataset, path: Path) -> None:
    dataset.put_manifest(3, manifest(3))
    (path / "manifest/notes.json").write_text("mine")
    dataset.drop_manifests()
    names = {file.name for file in (path / "manifest").iterdir()}
    assert names == {"0.json", "1.json", "2.json", "notes.json", "zarr.json"}
    assert [len(m) for m in dataset.manifests()] == [7, 7, 3]


def test_what_is_written_twice_is_the_same_bytes(tmp_path: Path, digest: Digest) -> None:
    first = make(tmp_path / "first")
    make(tmp_path / "second")
    wanted = digest(tmp_path / "second")
    assert digest(tmp_path / "first") == wanted
    for chunk in (1, 0, 1):
        first.write(chunk, pixels(chunk, CHUNK - 1))
    assert digest(tmp_path / "first") == wanted


def test_a_picture_that_is_gone_is_taken_out_without_new_pixels(dataset: Dataset) -> None:
    before = dataset.rows("train"), dataset.rows("validation")
    dataset.put_manifest(0, dataset.manifest(0).without(frozenset(["a.png"])))
    assert not dataset.is_marked(0)
    dataset.retain(0)
    assert dataset.is_whole(0)
    assert dataset.rows("train").tolist() == [row for row in before[0] if row >= CHUNK]
    assert dataset.rows("validation").tolist() == before[1].tolist()


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("damage", [truncate, empty, flip, lambda file: file.unlink()])
def test_a_damaged_shard_is_no_whole_chunk(
    dataset: Dataset, path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(shard(dataset, name, 1))
    assert [dataset.is_whole(chunk) for chunk in range(3)] == [True, False, True]
    with pytest.raises(DatasetError) as caught:
        dataset.read(name, np.arange(CHUNK, 2 * CHUNK))
    assert str(path / name) in one_line(caught)
    dataset.write(1, pixels(1, CHUNK - 1))
    assert dataset.is_whole(1)


@pytest.mark.parametrize("damage", [truncate, flip])
def test_damaged_marks_are_told(
    dataset: Dataset, path: Path, damage: Callable[[Path], None]
) -> None:
    damage(shard(dataset, SPLIT, 1))
    assert not dataset.is_whole(1)
    for read in (dataset.splits, dataset.statistics, lambda: dataset.rows("train")):
        with pytest.raises(DatasetError, match=f"{path / SPLIT}.*cannot be read") as caught:
            read()
        one_line(caught)


def test_black_is_never_returned_for_a_missing_shard(dataset: Dataset) -> None:
    shard(dataset, "lr_soft", 2).unlink()
    for read in (lambda: dataset.rows("train"), lambda: dataset.read("lr_soft", np.array([16]))):
        with pytest.raises(DatasetError, match=r"lr_soft/c\.2\.0\.0\.0 is missing"):
            read()
    assert dataset.read("lr_soft", np.array([8])).shape == (1, 3, 4, 6)


def test_a_black_patch_is_written_and_not_left_out(dataset: Dataset) -> None:
    black = {name: np.zeros_like(patches) for name, patches in pixels(0, CHUNK - 1).items()}
    dataset.write(0, black)
    assert dataset.is_whole(0)
    assert shard(dataset, HR, 0).stat().st_size > 0
    assert not dataset.read(HR, np.arange(2)).any()


def test_statistics_are_those_of_the_pixels(dataset: Dataset) -> None:
    rows, hr = all_pixels(HR)
    marks = dataset.splits()[rows]
    for number, split in enumerate(SPLITS):
        values = hr[marks == number].astype(np.float64) / 255
        found = dataset.statistics()[split]
        assert found["patches"] == len(values) == len(dataset.rows(split))
        assert np.abs(values.mean(axis=(0, 2, 3)) - found["mean"]).max() < 1e-6
        assert np.abs(values.std(axis=(0, 2, 3)) - found["std"]).max() < 1e-6
    sums = hr.astype(np.int64).sum(axis=(2, 3)), (hr.astype(np.int64) ** 2).sum(axis=(2, 3))
    assert np.array_equal(dataset.measures()[rows], np.stack(sums, axis=2))


def test_moments_are_exact_for_the_brightest_patch() -> None:
    white = np.full((2, 1, 512, 512), 255, dtype=np.uint8)
    assert moments(white).tolist() == [[[255 * 512**2, 255**2 * 512**2]]] * 2


def test_statistics_are_not_made_up_for_a_missing_shard(dataset: Dataset) -> None:
    shard(dataset, MOMENTS, 1).unlink()
    for read in (dataset.statistics, dataset.measures):
        with pytest.raises(DatasetError, match=r"moments/c\.1\.0\.0 is missing"):
            read()


def test_zarr_reads_the_same_and_warns_of_nothing(dataset: Dataset, path: Path) -> None:
    dataset.put_about("report.html", b"<p>")
    group = zarr.open_group(path, mode="r")
    names = {name for name, _ in group.members()}
    assert names == {HR, "lr_soft", MOMENTS, IDENTITY, SPLIT, "manifest", "about"}
    array = group[HR]
    assert isinstance(array, zarr.Array)
    assert array.shape == (ROWS, 3, 8, 12)
    rows, wanted = all_pixels(HR)
    assert (np.asarray(array[:])[rows] == wanted).all()
    assert array.metadata.dimension_names == ("n", "c", "y", "x")  # type: ignore[union-attr]


def test_a_chunk_is_16_mib_of_hr_at_most() -> None:
    sizes = {8: 1024, 96: 512, 192: 128, 480: 16, 2048: 1, 4096: 1}
    for side, many in sizes.items():
        assert replace(SPEC, hr_px=(side, side), chunk_patches=0).chunk_patches == many
        assert many * 3 * side * side <= 2**24 or many == 1


def test_facts_are_kept_beside_the_spec(dataset: Dataset, path: Path) -> None:
    dataset.describe({"pictures": 3})
    attributes = dict(zarr.open_group(path, mode="r").attrs)
    assert attributes["about"] == {"pictures": 3}
    assert Dataset.open(path).spec == SPEC
    assert dataset.put_about("x.txt", b"y").read_bytes() == b"y"


@pytest.mark.usefixtures("dataset")
def test_a_dataset_goes_on_by_the_same_recipe_only(path: Path) -> None:
    assert len(Dataset.open_or_create(path, SPEC)) == ROWS
    other = replace(SPEC, fingerprint="two", recipe={**SPEC.recipe, "scale": 4, "new": "x"})
    with pytest.raises(DatasetError) as caught:
        Dataset.open_or_create(path, other)
    told = one_line(caught)
    assert "scale: 2 there, 4 now" in told
    assert "new: None there, 'x' now" in told
    assert "sizes" not in told
    with pytest.raises(DatasetError, match="of another upres"):
        Dataset.open_or_create(path, replace(SPEC, fingerprint="two"))


def test_what_an_interruption_left_out_is_made(path: Path) -> None:
    Dataset.open_or_create(path, SPEC)
    for name in (SPLIT, "lr_soft", "manifest"):
        shutil.rmtree(path / name)
    assert len(make(path)) == ROWS


def test_another_thing_is_not_written_into(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    Dataset.open_or_create(folder, SPEC)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    for name in ("file", "full"):
        with pytest.raises(DatasetError, match="exists and is not a dataset"):
            Dataset.open_or_create(tmp_path / name, SPEC)
        assert not is_dataset(tmp_path / name)
    assert (tmp_path / "full/mine.txt").read_text() == "mine"


def test_patches_of_another_shape_are_refused(dataset: Dataset) -> None:
    found, before = pixels(0, CHUNK - 1), dataset.splits()
    with pytest.raises(DatasetError, match=r"lr_soft is float32 .* expected uint8 \(7, 3, 4, 6\)"):
        dataset.write(0, {**found, "lr_soft": found["lr_soft"].astype(np.float32)})
    with pytest.raises(DatasetError, match=r"hr is uint8 \(6, 3, 8, 12\), expected uint8 \(7,"):
        dataset.write(0, {**found, HR: found[HR][1:]})
    assert (dataset.splits() == before).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"attributes": []}',
        b'{"attributes": {"upres_dataset": {}}}',
        b'{"attributes": {"upres_dataset": []}}',
    ],
)
@pytest.mark.usefixtures("dataset")
def test_a_damaged_description_is_told(path: Path, content: bytes) -> None:
    (path / "zarr.json").write_bytes(content)
    with pytest.raises(DatasetError, match=f"{path} is not a dataset") as caught:
        Dataset.open(path)
    one_line(caught)
    with pytest.raises(DatasetError):
        Dataset.open_or_create(path, SPEC)


@pytest.mark.usefixtures("dataset")
def test_a_dataset_of_another_version_is_told(path: Path) -> None:
    found = json.loads((path / "zarr.json").read_bytes())
    values = found["attributes"]["upres_dataset"]
    values["version"] = 2
    (path / "zarr.json").write_text(json.dumps(found))
    with pytest.raises(DatasetError, match="is a dataset of version 2, expected 1"):
        Dataset.open(path)
    del values["version"]
    (path / "zarr.json").write_text(json.dumps(found))
    with pytest.raises(DatasetError, match="is not a dataset"):
        Dataset.open(path)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"7", b"{}", b'{"shape": []}'])
def test_a_damaged_description_of_an_array_is_told(
    dataset: Dataset, path: Path, content: bytes | None
) -> None:
    for name in (HR, SPLIT):
        file = path / name / "zarr.json"
        file.unlink() if content is None else file.write_bytes(content)
    reads: list[Callable[[], object]] = [
        lambda: len(dataset),
        dataset.splits,
        lambda: dataset.read(HR, np.array([1])),
    ]
    for read in reads:
        with pytest.raises(DatasetError) as caught:
            read()
        assert str(path) in one_line(caught)


def change(key: str, value: object) -> bytes:
    return json.dumps({**json.loads(manifest(0).to_json()), key: value}).encode()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"[]",
        b"{}",
        manifest(0).to_json()[:-40],
        change("places", [1, 2]),
        change("places", [2**70] * 7),
        change("places", [0, 1, 3, 4, 5, 6, 6]),
        change("places", [0, 1, 3, 4, 5, 6, -1]),
        change("places", [0, 1, 3, 4, 5, 6, CHUNK]),
        change("pictures", [9] * 7),
        change("corners", [1, 2, 3]),
        change("hashes", ["zz"] * 7),
        change("origins", [{"item": "a"}]),
        change("origins", [{"item": "a", "sha256": "", "split": "tarin"}] * 4),
    ],
)
def test_a_damaged_manifest_is_told(dataset: Dataset, path: Path, content: bytes | None) -> None:
    file = path / "manifest/0.json"
    file.unlink() if content is None else file.write_bytes(content)
    for read in (lambda: dataset.manifest(0), lambda: list(dataset.manifests())):
        with pytest.raises(DatasetError, match=f"{file} is missing or damaged") as caught:
            read()
        one_line(caught)
