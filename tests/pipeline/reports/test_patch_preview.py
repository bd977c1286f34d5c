"""Previews: a sheet of what a recipe would make, and reasons, before anything is made."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset.extract import Texture, cut, patches, whole
from pipeline.dataset.originals import list_originals
from pipeline.dataset.worker import decoded
from pipeline.degradation.apply import degrade_bicubic
from pipeline.errors import SourceError
from pipeline.recipes.preparing import PrepareRecipe
from pipeline.reports import patch_preview as preview_module
from pipeline.reports.patch_preview import EXAMPLES, preview

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.dataset.originals import Original
    from pipeline.reports.contact_sheet import Example
    from tests.conftest import Digest, SavePicture, TakePhoto

    Drawn = dict[str, Any]

RECIPE = PrepareRecipe(name="mine", scale=2, extract="random", patch_hr_px=16, count=3)


@pytest.fixture
def pictures(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    for number in range(30):
        save(tmp_path / "in" / f"{number:02}.png", photo(40, 36, at=10 * number))
    return tmp_path / "in"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Return what is drawn, as it is told to the sheet; drawing itself takes most of the time."""
    told: Drawn = {}

    def tell(examples: list[Example], variances: NDArray[np.float64], **words: Any) -> bytes:
        told.update(examples=examples, variances=variances, **words)
        return b"sheet"

    monkeypatch.setattr(preview_module, "draw_sheet", tell)
    return told


def listed(folder: Path, **pairs: Path) -> list[Original]:
    return list_originals(str(folder), {name: str(p) for name, p in pairs.items()}, scale=2)


def test_a_preview_is_a_picture_that_two_looks_draw_alike_and_nothing_else(
    tmp_path: Path, pictures: Path, digest: Digest
) -> None:
    before = digest(tmp_path)
    sheet, broken = preview(listed(pictures), RECIPE)
    assert (sheet, broken) == preview(listed(pictures), RECIPE)
    assert broken == {}
    with Image.open(io.BytesIO(sheet)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
    assert digest(tmp_path) == before


def test_the_first_patches_of_pictures_all_over_the_source_are_shown(
    pictures: Path, drawn: Drawn
) -> None:
    originals = listed(pictures)
    preview(originals, replace(RECIPE, least_variance=1.5))
    assert drawn["title"] == "mine: 24 of 30 pictures"
    assert drawn["least_variance"] == 1.5
    assert len(drawn["variances"]) == 24 * 3
    assert len(drawn["examples"]) == EXAMPLES == 8
    shown = [example.label.split(",")[0] for example in drawn["examples"]]
    assert shown == [originals[round(29 / 23 * n)].item for n in range(8)]


def test_what_is_shown_is_what_would_be_prepared(pictures: Path, drawn: Drawn) -> None:
    originals = {original.item: original for original in listed(pictures)}
    preview(list(originals.values()), RECIPE)
    for example in drawn["examples"]:
        item, row, column = example.label.split(", ")
        hr = decoded(originals[item], originals[item].contents(), RECIPE).hr
        corner = [int(row.removeprefix("row ")), int(column.removeprefix("column "))]
        assert corner == cut(hr, RECIPE, item=item).corners[0].tolist()
        (patch,) = patches(hr, np.array([corner]), (16, 16))
        np.testing.assert_array_equal(example.hr, patch)
        assert list(example.lr) == ["bicubic"]
        np.testing.assert_array_equal(example.lr["bicubic"], degrade_bicubic(patch, 2))


def test_of_few_pictures_more_patches_are_shown_in_turn(pictures: Path, drawn: Drawn) -> None:
    preview(listed(pictures)[:2], RECIPE)
    shown = [example.label.split(",")[0] for example in drawn["examples"]]
    assert shown == ["00.png", "01.png"] * 3
    assert drawn["title"] == "mine: 2 of 2 pictures"


def test_the_histogram_is_of_all_patches_and_those_shown_are_kept_ones(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, drawn: Drawn
) -> None:
    pixels = photo(32, 64)
    pixels[:, :, :32] = 7
    save(tmp_path / "half.png", pixels)
    recipe = replace(RECIPE, extract="grid", least_variance=1.0, duplicate_bits=2)
    preview(listed(tmp_path), recipe)
    assert len(drawn["variances"]) == 8
    assert np.count_nonzero(drawn["variances"] == 0) == 4
    assert len(drawn["examples"]) == 4
    assert all(example.hr.std() > 0 for example in drawn["examples"])


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_whole_pictures_are_measured_and_shown_as_patches(
    pictures: Path, drawn: Drawn, fit: str
) -> None:
    recipe = replace(RECIPE, extract="whole", fit=fit)
    originals = listed(pictures)[:3]
    preview(originals, recipe)
    for original, example, variance in zip(
        originals, drawn["examples"], drawn["variances"], strict=True
    ):
        hr = decoded(original, original.contents(), recipe).hr
        patch = whole(hr, recipe)
        np.testing.assert_array_equal(example.hr, patch)
        assert [variance] == Texture.of(patch, (16, 16)).variance(np.zeros((1, 2), dtype=np.int64))


def test_lr_files_are_shown_where_they_come_with_the_pictures(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, drawn: Drawn
) -> None:
    hr = photo(33, 41)
    lr = degrade_bicubic(hr, 2) // 2
    save(tmp_path / "hr" / "1.png", hr)
    save(tmp_path / "lr" / "1x2.png", lr)
    preview(listed(tmp_path / "hr", mild=tmp_path / "lr"), RECIPE.paired(["mild"]))
    assert len(drawn["examples"]) == 3
    for example in drawn["examples"]:
        _, row, column = example.label.split(", ")
        top, left = (int(text.split()[1]) // 2 for text in (row, column))
        np.testing.assert_array_equal(example.lr["mild"], lr[:, top : top + 8, left : left + 8])
        assert set(example.lr) == {"bicubic", "mild"}


def test_broken_and_small_pictures_are_told_and_the_others_shown(
    pictures: Path, photo: TakePhoto, save: SavePicture, drawn: Drawn
) -> None:
    (pictures / "00.png").write_bytes(b"no picture")
    (pictures / "01.png").write_bytes((pictures / "02.png").read_bytes()[:-40])
    save(pictures / "02.png", photo(15, 40))
    save(pictures / "03.png", photo(20, 20, 4))
    _, broken = preview(listed(pictures)[:5], RECIPE)
    assert list(broken) == ["00.png", "01.png", "02.png", "03.png"]
    assert all(reason.startswith("PictureError: ") for reason in broken.values())
    assert "expected at least 16x16" in broken["02.png"]
    assert "transparent" in broken["03.png"]
    assert {example.label.split(",")[0] for example in drawn["examples"]} == {"04.png"}


def flat(folder: Path, photo: TakePhoto, save: SavePicture) -> None:
    save(folder / "flat.png", np.full_like(photo(40, 40), 9))


def small(folder: Path, photo: TakePhoto, save: SavePicture) -> None:
    save(folder / "small.png", photo(15, 15))


def both(folder: Path, photo: TakePhoto, save: SavePicture) -> None:
    flat(folder, photo, save)
    small(folder, photo, save)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (flat, "none of 1 pictures gives a patch: 1 are flat, lower least_variance"),
        (small, "none of 1 pictures gives a patch: 1 cannot be used, the first for .* 15x15 px"),
        (both, "none of 2 pictures .*: 1 are flat, .*; 1 cannot be used, .* 15x15 px"),
    ],
)
def test_a_source_without_patches_is_refused_with_the_reason(
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    make: Callable[[Path, TakePhoto, SavePicture], None],
    message: str,
) -> None:
    make(tmp_path, photo, save)
    with pytest.raises(SourceError, match=message):
        preview(listed(tmp_path), replace(RECIPE, least_variance=1.0))


def test_an_empty_archive_is_refused() -> None:
    with pytest.raises(SourceError, match="none of 0 pictures gives a patch: there are none"):
        preview([], RECIPE)
