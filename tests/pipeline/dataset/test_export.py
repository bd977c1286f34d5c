"""Export of datasets: the files are the patches, paired by name, and nothing else lies there."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.compute.stop import Stop
from pipeline.dataset.export import run_dataset_export
from pipeline.errors import DatasetError, UsageError
from pipeline.pictures.files import read_picture
from pipeline.storage.dataset import Dataset, DatasetSpec
from pipeline.storage.manifest import Manifest, Origin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from pipeline.compute.outcomes import Failure
    from tests.conftest import Digest, TakePhoto

    Export = Callable[..., tuple[int, list[Failure]]]

NAMES = ("hr", "lr_bicubic", "lr_blind")
ITEMS = ('a, "b"\nc.png', "日本.png", "=2+2.png")


def make(
    path: Path,
    hr: NDArray[Any],
    *,
    splits: tuple[str, ...] = ("train", "train", "test"),
    fingerprint: str = "0123",
    made: tuple[int, ...] | None = None,
) -> Dataset:
    """Return a dataset of `hr` ``(m, c, y, x)``, whose patches are of `ITEMS` in turn."""
    count, channels, rows, cols = hr.shape
    spec = DatasetSpec(
        scale=2, channels=channels, hr_px=(rows, cols), degradations=("bicubic", "blind"),
        recipe={}, fingerprint=fingerprint,
    )  # fmt: skip
    dataset = Dataset.open_or_create(path, spec)
    origins = tuple(
        Origin(item=item, sha256=item, split=split, licence="CC0")
        for item, split in zip(ITEMS, splits, strict=True)
    )
    starts = range(0, count, spec.chunk_patches)
    for chunk, start in enumerate(starts):
        places = np.arange(min(spec.chunk_patches, count - start))
        rows_of = places + start
        corners = np.stack([rows_of * 3, rows_of * 5], axis=1)
        manifest = Manifest(
            origins, places, rows_of % 3, corners, rows_of + 2**40, np.array([], dtype=np.uint64)
        )
        dataset.put_manifest(chunk, manifest)
    dataset.grow(count)
    for chunk, start in enumerate(starts):
        if made is None or chunk in made:
            block = hr[start : start + spec.chunk_patches]
            lr = block[:, :, ::2, ::2]
            dataset.write(chunk, {"hr": block, "lr_bicubic": lr, "lr_blind": 255 - lr})
    return dataset


@pytest.fixture
def dataset(tmp_path: Path, photo: TakePhoto) -> Dataset:
    """Six patches, two of each item; the third item is for testing."""
    return make(tmp_path / "dataset", np.stack([photo(16, 20, at=20 * n) for n in range(6)]))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "out"


@pytest.fixture
def export(client: Client, out: Path) -> Export:
    """Export into `out`."""

    def run(dataset: Dataset, **options: Any) -> tuple[int, list[Failure]]:
        return run_dataset_export(dataset.path, out_dir=out, client=client, **options)

    return run


def listed(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def pixels_of(path: Path) -> NDArray[Any]:
    return read_picture(path.read_bytes(), name=path.name).pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_every_file_is_the_patch_of_its_name(
    tmp_path: Path, out: Path, photo: TakePhoto, export: Export, channels: int
) -> None:
    patches = np.stack([photo(16, 20, channels, at=20 * n) for n in range(6)])
    dataset = make(tmp_path / "dataset", patches)
    assert export(dataset) == (6, [])
    for split, rows in {"train": (0, 1, 3, 4), "test": (2, 5)}.items():
        for name in NAMES:
            assert files(out / split / name) == [f"{row:08}.png" for row in rows]
            for row in rows:
                written = pixels_of(out / split / name / f"{row:08}.png")
                np.testing.assert_array_equal(written, dataset.read(name, np.array([row]))[0])
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.csv", "statistics.json", "test", "train",
    ]  # fmt: skip


def test_the_manifest_tells_where_each_patch_comes_from(
    dataset: Dataset, out: Path, export: Export
) -> None:
    export(dataset)
    assert [line["item"] for line in listed(out)] == [*ITEMS, *ITEMS]
    assert listed(out)[5] == {
        "row": "5", "split": "test", "item": ITEMS[2], "top": "15", "left": "25",
        "seed": str(2**40 + 5), "licence": "CC0",
    }  # fmt: skip


def test_the_statistics_are_those_of_the_dataset(
    dataset: Dataset, out: Path, export: Export
) -> None:
    export(dataset)
    found = json.loads((out / "statistics.json").read_bytes())
    assert found["splits"] == dataset.statistics()
    assert (found["hr_px"], found["lr_px"], found["scale"]) == ([16, 20], [8, 10], 2)


def test_a_second_export_gives_the_same_bytes(
    dataset: Dataset, out: Path, export: Export, digest: Digest
) -> None:
    export(dataset)
    before = digest(out)
    (out / "train" / "hr" / "00000001.png").write_bytes(b"torn")
    (out / "train" / "hr" / "00000000.png").unlink()
    (out / "train" / "hr" / f".{'0' * 32}.partial").write_bytes(b"left by a killed one")
    assert [failure.item for failure in export(dataset)[1]] == ["train/hr/00000001.png"]
    assert (out / "train" / "hr" / "00000001.png").read_bytes() == b"torn"
    assert export(dataset, overwrite=True) == (6, [])
    assert digest(out) == before


def test_patches_that_the_dataset_lost_are_taken_away_and_nothing_else(
    dataset: Dataset, out: Path, export: Export
) -> None:
    export(dataset)
    (out / "train" / "hr" / "notes.txt").write_text("mine")
    dataset.put_manifest(0, dataset.manifest(0).without(frozenset({ITEMS[0]})))
    dataset.retain(0)
    assert export(dataset) == (4, [])
    assert files(out / "train" / "hr") == ["00000001.png", "00000004.png", "notes.txt"]
    assert files(out / "train" / "lr_blind") == ["00000001.png", "00000004.png"]
    assert [line["row"] for line in listed(out)] == ["1", "2", "4", "5"]


def test_a_file_that_cannot_be_written_costs_its_patch_and_no_other(
    dataset: Dataset, out: Path, export: Export
) -> None:
    export(dataset)
    blocked = out / "train" / "lr_blind" / "00000003.png"
    blocked.unlink()
    (blocked / "folder").mkdir(parents=True)
    written, (failure,) = export(dataset)
    assert written == 5
    assert (failure.item, failure.error) == ("train/lr_blind/00000003.png", "IsADirectoryError")
    assert not (out / "train" / "hr" / "00000003.png").exists(), "half of a pair"
    assert [line["row"] for line in listed(out)] == ["0", "1", "2", "4", "5"]


def many(path: Path, **options: Any) -> Dataset:
    """Return a dataset of two chunks, of 16 patches and of 2."""
    colours = np.arange(18, dtype=np.uint8)[:, None, None, None]
    return make(path, np.broadcast_to(colours, (18, 3, 512, 512)).copy(), **options)


def test_a_damaged_chunk_is_a_failure_and_the_others_are_written(
    tmp_path: Path, out: Path, export: Export
) -> None:
    dataset = many(tmp_path / "dataset")
    (dataset.path / "lr_blind" / "c.0.0.0.0").unlink()
    told: list[tuple[int, int]] = []
    written, (failure,) = export(dataset, report=lambda done, of: told.append((done, of)))
    assert (written, failure.item, failure.error) == (2, "chunk 0", "DatasetError")
    assert "--check" in failure.message
    assert [line["row"] for line in listed(out)] == ["16", "17"]
    assert told[-1] == (18, 18)


def test_what_is_not_made_yet_is_told_and_not_written(
    tmp_path: Path, out: Path, export: Export
) -> None:
    written, (failure,) = export(many(tmp_path / "dataset", made=(1,)))
    assert (written, failure.item, failure.error) == (2, "chunk 0", "NotDone")
    assert "16 patches are not made yet" in failure.message
    assert len(listed(out)) == 2


def test_a_stopped_export_has_no_manifest(dataset: Dataset, out: Path, export: Export) -> None:
    export(dataset)
    stop = Stop()
    stop.request()
    assert export(dataset, stop=stop) == (0, [])
    assert not (out / "manifest.csv").exists()
    assert (out / "train" / "hr" / "00000000.png").exists()


def test_an_empty_dataset_makes_an_empty_manifest(
    tmp_path: Path, out: Path, export: Export
) -> None:
    assert export(make(tmp_path / "d", np.zeros((0, 3, 16, 16), dtype=np.uint8))) == (0, [])
    assert listed(out) == []


@pytest.mark.parametrize("place", [".", "..", "export", "../dataset/hr"])
def test_a_folder_in_the_dataset_or_around_it_is_refused(
    dataset: Dataset, client: Client, place: str
) -> None:
    before = files(dataset.path)
    with pytest.raises(UsageError, match="overlap, expected separate"):
        run_dataset_export(dataset.path, out_dir=dataset.path / place, client=client)
    assert files(dataset.path) == before


def test_a_folder_of_other_things_is_refused(
    tmp_path: Path, dataset: Dataset, out: Path, export: Export
) -> None:
    export(dataset)
    other = make(tmp_path / "other", np.zeros((1, 3, 16, 16), dtype=np.uint8), fingerprint="4567")
    with pytest.raises(UsageError, match="fingerprint 0123, this one has 4567"):
        export(other)
    (out / "statistics.json").unlink()
    with pytest.raises(UsageError, match="new or empty folder"):
        export(dataset)
    assert (out / "manifest.csv").exists()


def test_what_is_no_dataset_is_refused(tmp_path: Path, out: Path, client: Client) -> None:
    with pytest.raises(DatasetError, match="not a dataset"):
        run_dataset_export(tmp_path / "none", out_dir=out, client=client)
    assert not out.exists()
