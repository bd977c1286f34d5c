"""`upres try`: one page with crops of a picture by every model, beside each other."""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from models.checkpoint import load
from pipeline.compute.inference import Inference, resolve_precision
from pipeline.reports import trial
from tests.flows.test_choice import put

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command

PHOTO = Image.fromarray(data.astronaut()[:256, :256])


@pytest.fixture(autouse=True)
def _weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    put(folder, "span-x4", features=4)
    put(folder, "span-x4-archive", features=6)
    put(folder, "span-x2", features=4, scale=2)
    monkeypatch.setattr("models.shipped.WEIGHTS_DIR", folder)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    PHOTO.save(tmp_path / "a <b>.jpg", quality=60)
    return tmp_path / "a <b>.jpg"


def shown(page: str) -> dict[str, list[Any]]:
    """Return the pictures of a page, by the model that its caption names."""
    figures = re.findall(
        r'src="data:image/[a-z]+;base64,([^"]+)".*?<figcaption>([^< ]+)', page, re.S
    )
    found: dict[str, list[Any]] = {}
    for content, model in figures:
        image = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
        found.setdefault(model, []).append(np.asarray(image).astype(int))
    return found


def test_the_page_shows_three_crops_by_every_model_of_the_scale(
    upres: Command, picture: Path, tmp_path: Path
) -> None:
    said = upres("try", picture, "--json")
    assert said.code == 0, said.err
    strengths = [f"span-x4-archive@{value}" for value in ("0.25", "0.5", "0.75")]
    models = ["bicubic-x4", "span-x4", *strengths, "span-x4-archive"]
    assert said.document["models"] == models
    assert said.document["auto"] == "span-x4-archive"
    assert said.document["because"] == "JPEG of quality 60, 4:2:0"
    page = (tmp_path / "a <b>.jpg.try.html").read_text()
    assert "a &lt;b&gt;.jpg" in page
    assert "http" not in page.replace("http-equiv", "")
    pictures = shown(page)
    assert list(pictures) == models
    assert {image.shape for images in pictures.values() for image in images} == {(320, 320, 3)}
    assert {len(images) for images in pictures.values()} == {3}


def test_a_crop_is_what_the_model_makes_of_the_whole_picture_there(
    upres: Command, picture: Path, tmp_path: Path
) -> None:
    upres("try", picture)
    found = load("span-x4")
    inference = Inference.of(
        found.network, scale=4, channels=3, precision=resolve_precision("auto", device="cpu")
    )
    pixels = np.ascontiguousarray(np.moveaxis(np.asarray(Image.open(picture)), 2, 0))
    whole = np.moveaxis(inference.enlarge(pixels), 0, 2).astype(int)
    window = trial.crops(pixels, side=80)[0].scaled(4)
    crop = shown((tmp_path / "a <b>.jpg.try.html").read_text())["span-x4"][0]
    # The page's pictures are JPEGs.
    assert np.abs(whole[window.index[1:]] - crop).mean() < 8


def test_crops_are_where_the_detail_is() -> None:
    pixels = np.zeros((3, 240, 240), np.uint8)
    pixels[:, 80:160, 160:] = np.random.default_rng(0).integers(0, 255, (3, 80, 80))
    best = trial.crops(pixels, side=80)[0]
    assert (best.rows.start, best.cols.start) == (80, 160)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (30, 300), (80, 80)])
def test_a_picture_smaller_than_a_crop_is_shown_whole(height: int, width: int) -> None:
    windows = trial.crops(np.zeros((1, height, width), np.uint8), side=80)
    assert windows
    assert all(w.rows.stop <= height and w.cols.stop <= width for w in windows)
    assert {len(w.rows) for w in windows} == {min(80, height)}


def test_other_scales_and_models_are_shown_on_request(upres: Command, picture: Path) -> None:
    said = upres("try", picture, "--scale", "2", "--model", "lanczos-x2", "--json")
    assert said.document["models"] == ["bicubic-x2", "span-x2", "lanczos-x2"]
    assert said.document["auto"] == "span-x2"
    said = upres("try", picture, "--model", "lanczos-x2")
    assert said.code == 2
    assert "add --scale 2" in said.err


def test_what_cannot_be_done_is_said_in_one_line_and_nobodys_file_is_replaced(
    upres: Command, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.html").write_text("mine")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for words, message in (
        (("nothing.png",), "cannot be read"),
        ((tmp_path,), "name one picture file"),
        (("broken.png",), "broken.png"),
        ((picture, "--out", "mine.html"), "was not written by upres"),
    ):
        said = upres("try", *words)
        assert said.code in (1, 2)
        assert message in said.err
        assert said.err.strip().count("\n") == 0
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert upres("try", picture).code == 0
    assert upres("try", picture).code == 0
