"""The dataset's report: what it tells of a dataset in every state, and what it depends on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import DatasetError
from pipeline.reports.dataset_report import luma_variances, write_dataset_report
from pipeline.storage.dataset import Dataset, DatasetSpec, moments
from pipeline.storage.manifest import Manifest, Origin

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import TakePhoto

SIDE, SCALE = 16, 4
NASTY = '<script>alert(1)</script>"\n\u202egpj.png'


def origin(item: str, split: str = "train", **facts: Any) -> Origin:
    return Origin(item=item, sha256=item, split=split, **facts)


def make(path: Path, *, channels: int = 3, degradations: tuple[str, ...] = ("bicubic",)) -> Dataset:
    """Return an empty dataset."""
    recipe = {
        "name": "faces <&>",
        "least_variance": 12.5,
        "split": {"test": 0.25},
        "degradations": [{"name": name, "sigma": [0.2, 3]} for name in degradations],
    }
    spec = DatasetSpec(
        scale=SCALE, channels=channels, hr_px=(SIDE, SIDE), degradations=degradations,
        recipe=recipe, fingerprint="0123456789abcdef",
    )  # fmt: skip
    return Dataset.open_or_create(path, spec)


def fill(
    dataset: Dataset, hr: NDArray[Any], pictures: list[int], *origins: Origin, made: bool = True
) -> Dataset:
    """Add `hr` ``(m, c, y, x)`` as the patches of `pictures`, which index `origins`."""
    count = len(hr)
    corners = np.stack([np.arange(count) + 1000, np.arange(count) + 5000], axis=1)
    manifest = Manifest(
        origins, np.arange(count), np.array(pictures), corners, np.arange(count),
        np.array([], dtype=np.uint64),
    )  # fmt: skip
    dataset.put_manifest(0, manifest)
    dataset.grow(count)
    if made:
        lr = {f"lr_{name}": hr[:, :, ::SCALE, ::SCALE] for name in dataset.spec.degradations}
        dataset.write(0, {"hr": hr, **lr})
    return dataset


def patches(photo: TakePhoto, count: int, channels: int = 3) -> NDArray[Any]:
    return np.stack([photo(SIDE, SIDE, channels, at=10 * n) for n in range(count)])


def page_of(dataset: Dataset) -> str:
    return write_dataset_report(dataset).read_text(encoding="utf-8")


def words_of(page: str) -> str:
    """Return what a reader sees of it, in one line."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def test_it_tells_what_the_dataset_holds_and_from_what(tmp_path: Path, photo: TakePhoto) -> None:
    dataset = fill(
        make(tmp_path / "d", degradations=("bicubic", "blind")),
        patches(photo, 6),
        [0, 0, 0, 1, 2, 2],
        origin("a.png", licence="CC0", copyright="A. Nother", left_out={"flat": 1_200}),
        origin("b.png", licence="CC0", copyright="A. Nother", left_out={"flat": 30, "small": 5}),
        origin("c.png", "test"),
    )
    words = words_of(page_of(dataset))
    for told in (
        "scale ×4", "HR 16 × 16 px", "LR 4 × 4 px", "channels 3 (red, green, blue)",
        "degradations bicubic, blind", "fingerprint 0123456789ab",
        "Patches 6", "Pictures 3", "Patches left out 1,235", "Rows without a patch 0",
        "train 4 2 0.", "validation 0 0 – – – – – –", "test 2 1 0.",
        "CC0 A. Nother 2 4", "not stated not stated 1 2",
        "flat 1,230 small 5",
        "least_variance 12.5", "split.test 0.25", "degradations.2.name blind",
        "degradations.2.sigma 0.2, 3",
    ):  # fmt: skip
        assert told in words, told


def test_mean_and_std_are_those_of_the_pixels(tmp_path: Path, photo: TakePhoto) -> None:
    hr = patches(photo, 3)
    words = words_of(page_of(fill(make(tmp_path / "d"), hr, [0, 0, 0], origin("a"))))
    values = hr / 255
    figures = [*values.mean(axis=(0, 2, 3)), *values.std(axis=(0, 2, 3))]
    assert "train 3 1 " + " ".join(f"{value:.4f}" for value in figures) in words


@pytest.mark.slow
def test_equal_datasets_have_equal_reports_wherever_they_lie(
    tmp_path: Path, photo: TakePhoto
) -> None:
    hr, first = patches(photo, 3), origin("a.png")
    reports = []
    for name in ("here", "there/far"):
        dataset = fill(make(tmp_path / name), hr, [0, 0, 0], first)
        reports.append(page_of(dataset))
        reports.append(page_of(Dataset.open(dataset.path)))
    assert len(set(reports)) == 1
    assert str(tmp_path) not in reports[0]
    other = fill(make(tmp_path / "other"), 255 - hr, [0, 0, 0], first)
    assert page_of(other) != reports[0]


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path, photo: TakePhoto) -> None:
    page = page_of(fill(make(tmp_path / "d"), patches(photo, 1), [0], origin("a")))
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "<script" not in page
    assert page.count("data:image/png;base64,") == 1


def test_what_comes_from_outside_is_escaped_and_keeps_to_its_line(
    tmp_path: Path, photo: TakePhoto
) -> None:
    nasty = origin(NASTY, licence=NASTY, copyright=NASTY, left_out={NASTY: 1})
    page = page_of(fill(make(tmp_path / "d"), patches(photo, 1), [0], nasty))
    assert "<script" not in page
    assert "\u202e" not in page
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&#34;\\n\\u202egpj.png"
    assert page.count(escaped) == 4
    assert "faces &lt;&amp;&gt;" in page


def test_an_empty_dataset_has_a_report(tmp_path: Path) -> None:
    words = words_of(page_of(make(tmp_path / "d")))
    assert "There is no patch in this dataset yet." in words
    assert "Patches 0" in words


def test_rows_without_a_patch_are_counted_and_their_pictures_are_not(
    tmp_path: Path, photo: TakePhoto
) -> None:
    hr = patches(photo, 4)
    begun = fill(make(tmp_path / "begun"), hr, [0] * 4, origin("a"), made=False)
    words = words_of(page_of(begun))
    assert "Patches 0 Pictures 0" in words
    assert "Rows without a patch 4" in words
    changed = fill(make(tmp_path / "changed"), hr, [0, 0, 0, 1], origin("a"), origin("b"))
    changed.put_manifest(0, changed.manifest(0).without(frozenset({"b"})))
    changed.retain(0)
    words = words_of(page_of(changed))
    assert "Patches 3 Pictures 1" in words
    assert "Rows without a patch 1" in words


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_patch_of_one_split_is_shown(tmp_path: Path, photo: TakePhoto, split: str) -> None:
    dataset = fill(make(tmp_path / "d", channels=1), patches(photo, 1, 1), [0], origin("a", split))
    words = words_of(page_of(dataset))
    assert f"1 of 1, from evenly spaced rows of the {split} split" in words
    assert "a, from row 1000 and column 5000" in words


def test_examples_are_evenly_spaced_and_no_other_pixels_are_read(
    tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    hr, pictures = patches(photo, 40), [0] * 10 + [1] * 30
    dataset = fill(make(tmp_path / "d"), hr, pictures, origin("t", "test"), origin("a"))
    asked: dict[str, list[int]] = {}
    read = Dataset.read

    def count(self: Dataset, name: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.setdefault(name, []).extend(rows.tolist())
        return read(self, name, rows)

    monkeypatch.setattr(Dataset, "read", count)
    page_of(dataset)
    chosen = [10, 14, 18, 22, 27, 31, 35, 39]
    assert asked == {"hr": chosen, "lr_bicubic": chosen}


def test_a_missing_shard_is_an_error_and_not_a_black_patch(
    tmp_path: Path, photo: TakePhoto
) -> None:
    dataset = fill(make(tmp_path / "d"), patches(photo, 2), [0, 0], origin("a"))
    for shard in (dataset.path / "lr_bicubic").glob("c.*"):
        if shard.is_file():
            shard.unlink()
    with pytest.raises(DatasetError, match=r"lr_bicubic.* is missing"):
        write_dataset_report(dataset)


LUMA = np.array([0.299, 0.587, 0.114])


def variances(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return luma_variances(moments(pixels), pixels=pixels.shape[2] * pixels.shape[3])


@given(arrays(np.uint8, (3, 1, 4, 6)))
def test_the_variance_of_grey_is_exact(pixels: NDArray[np.uint8]) -> None:
    np.testing.assert_allclose(variances(pixels), pixels.var(axis=(1, 2, 3)), atol=1e-9)


@given(arrays(np.uint8, (3, 3, 4, 6), elements=st.integers(0, 255)))
def test_the_variance_of_luma_is_never_more_than_told(pixels: NDArray[np.uint8]) -> None:
    luma = np.einsum("c,mcyx->myx", LUMA, pixels)
    assert (luma.var(axis=(1, 2)) <= variances(pixels) + 1e-9).all()


def test_the_variance_of_luma_is_as_told_where_channels_vary_together(photo: TakePhoto) -> None:
    grey = np.repeat(patches(photo, 2, 1), 3, axis=1)
    np.testing.assert_allclose(variances(grey), grey[:, 0].var(axis=(1, 2)))
