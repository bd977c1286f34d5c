"""Scores: sums over tiles are the picture's own figures, and nothing is scored in silence."""

from __future__ import annotations

import math
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

from flows.terminal.score_table import score_table
from models.interpolation import enlarge, reduce
from pipeline.compute.inference import from_unit_range, to_unit_range
from pipeline.degradation.apply import degrade_bicubic
from pipeline.errors import SourceError, UsageError
from pipeline.evaluation.protocol import evaluate_set
from pipeline.geometry import Rect, Span
from pipeline.jobs.score import match_originals, plan_score, run_score
from pipeline.jobs.scores import BICUBIC, CONSISTENCY, REFERENCE, read_scores, scores_to_json
from pipeline.pictures.metrics import score_picture
from pipeline.pictures.picture import WHITE
from pipeline.sources.listing import list_source
from pipeline.storage.ledger import INGESTED, ItemRow

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from pipeline.compute.outcomes import Failure
    from pipeline.jobs.job import Job
    from pipeline.jobs.scores import ItemScores
    from tests.conftest import SavePicture, TakePhoto, Upscale

SIZE = (134, 166)
"""Of the original: several tiles at scale 2, none of the last ones full."""


class Score(Protocol):
    def __call__(
        self, job: Job, reference: Path | None = None
    ) -> tuple[dict[str, ItemScores], list[Failure]]: ...


@pytest.fixture
def score(client: Client) -> Score:
    def run(job: Job, reference: Path | None = None) -> tuple[dict[str, ItemScores], list[Failure]]:
        where = None if reference is None else str(reference)
        with closing(job.open_ledger()) as ledger:
            failures = run_score(
                plan_score(job, reference=where, ledger=ledger), ledger=ledger, client=client
            )
            return {scores.item: scores for scores in read_scores(ledger)}, failures

    return run


def scores_of(job: Job) -> dict[str, ItemScores]:
    """Return the scores that the ledger has now."""
    with closing(job.open_ledger()) as ledger:
        return {scores.item: scores for scores in read_scores(ledger)}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return tmp_path / "small"


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    return tmp_path / "originals"


def read(job: Job, item: str) -> NDArray[Any]:
    image = job.open_sr().image(item)
    return image.read(Rect(Span(0, image.size[0]), Span(0, image.size[1])))


def bicubic(pixels: NDArray[Any], scale: int) -> NDArray[Any]:
    out = enlarge(to_unit_range(pixels[None]), scale=scale, method="bicubic")
    return from_unit_range(out, pixels.dtype)[0]


@pytest.mark.parametrize(
    ("channels", "dtype"), [(3, "uint8"), (1, "uint8"), (4, "uint8"), (3, "uint16"), (3, "float32")]
)
def test_the_sum_over_tiles_is_the_score_of_the_picture(
    channels: int,
    dtype: str,
    small: Path,
    originals: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    hr = photo(*SIZE, channels, dtype)
    lr = np.ascontiguousarray(hr[:, ::2, ::2])
    save(originals / "a.tif", hr)
    save(small / "a.tif", lr)
    job = upscale(small, tmp_path / "job", model="nearest-x2").job
    found, failures = score(job, originals)
    assert failures == []
    kinds, tiles = found["a.tif"].kinds, found["a.tif"].tiles
    assert set(kinds) == {REFERENCE, BICUBIC}
    assert len(tiles[REFERENCE]) == 9
    peak = WHITE[dtype]
    for kind, picture in ((REFERENCE, read(job, "a.tif")), (BICUBIC, bicubic(lr, 2))):
        expected = score_picture(picture, hr, border_px=2, data_range=peak)
        assert kinds[kind].error.count == expected.error.count
        assert kinds[kind].similarity.count == expected.similarity.count
        assert kinds[kind].psnr_y == pytest.approx(expected.psnr_y, abs=1e-9)
        assert kinds[kind].ssim_y == pytest.approx(expected.ssim_y, abs=1e-12)
        # A tile's own figure is no copy of the picture's.
        assert len({t.error.total for t in tiles[kind].values()}) == 9


@pytest.mark.parametrize("size", [(12, 12), (26, 26), (72, 130)])
def test_tiles_too_small_for_a_figure_do_not_spoil_the_sum(
    size: tuple[int, int],
    small: Path,
    originals: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    hr = photo(*size)
    save(originals / "a.png", hr)
    save(small / "a.png", np.ascontiguousarray(hr[:, ::2, ::2]))
    job = upscale(small, tmp_path / "job").job
    found, _ = score(job, originals)
    expected = score_picture(read(job, "a.png"), hr, border_px=2, data_range=255)
    assert found["a.png"].kinds[REFERENCE].psnr_y == pytest.approx(expected.psnr_y)
    assert found["a.png"].kinds[REFERENCE].ssim_y == pytest.approx(expected.ssim_y)


def test_the_bicubic_column_is_the_published_protocols_figure(
    small: Path,
    originals: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    # Sides that are no multiples of the scale: the protocol cuts them.
    for n, size in enumerate([(131, 165), (160, 128)]):
        hr = photo(*size, at=100 * n)
        save(originals / f"{n}.png", hr)
        cut = hr[:, : size[0] // 4 * 4, : size[1] // 4 * 4]
        save(small / f"{n}.png", degrade_bicubic(np.ascontiguousarray(cut), 4))
    job = upscale(small, tmp_path / "job", model="nearest-x4").job
    found, failures = score(job, originals)
    assert failures == []
    published = evaluate_set(originals, enlarge=lambda lr: bicubic(lr, 4), scale=4)
    document = scores_to_json(found.values())
    assert document["bicubic_psnr_y"] == pytest.approx(published.psnr_y, abs=1e-9)
    assert document["bicubic_ssim_y"] == pytest.approx(published.ssim_y, abs=1e-12)
    for image in published.per_image:
        assert found[image.name].kinds[BICUBIC].psnr_y == pytest.approx(image.psnr_y, abs=1e-9)


def test_a_bicubic_job_scores_the_same_in_both_columns(
    small: Path,
    originals: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    hr = photo(*SIZE)
    save(originals / "a.png", hr)
    save(small / "a.png", degrade_bicubic(hr, 2))
    found, _ = score(upscale(small, tmp_path / "job").job, originals)
    assert found["a.png"].kinds[REFERENCE] == found["a.png"].kinds[BICUBIC]


@pytest.mark.slow
def test_without_originals_sr_is_reduced_and_compared_with_its_lr(
    small: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    lr = photo(67, 83)
    save(small / "a.png", lr)
    job = upscale(small, tmp_path / "job").job
    found, failures = score(job)
    assert failures == []
    assert set(found["a.png"].kinds) == {CONSISTENCY}
    sr = to_unit_range(read(job, "a.png")[None])
    again = from_unit_range(reduce(sr, scale=2, method="bicubic"), lr.dtype)[0]
    expected = score_picture(again, lr, border_px=0, data_range=255)
    assert found["a.png"].kinds[CONSISTENCY].psnr_y == pytest.approx(expected.psnr_y, abs=1e-9)
    assert found["a.png"].kinds[CONSISTENCY].ssim_y == pytest.approx(expected.ssim_y, abs=1e-12)
    document = scores_to_json(found.values())
    assert document["psnr_y"] is None
    assert document["consistency_psnr_y"] == pytest.approx(expected.psnr_y)


def test_wrong_pixels_lower_the_consistency(
    small: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    save(small / "a.png", photo(64, 64))
    job = upscale(small, tmp_path / "job").job
    good = score(job)[0]["a.png"].kinds[CONSISTENCY].psnr_y
    core = Rect(Span(0, 64), Span(0, 64))
    job.open_sr().image("a.png").replace(core, np.zeros((3, 64, 64), np.uint8))
    bad = score(job)[0]["a.png"].kinds[CONSISTENCY].psnr_y
    assert good is not None
    assert bad is not None
    assert bad < good - 10


def test_originals_that_do_not_fit_are_failures_and_the_rest_is_scored(
    small: Path,
    originals: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    for name in ("broken", "deep", "good", "grey", "large", "missing", "small"):
        save(small / f"{name}.png", photo(32, 32))
    save(originals / "good.png", photo(64, 64))
    save(originals / "large.png", photo(66, 64))
    save(originals / "small.png", photo(64, 63))
    save(originals / "grey.png", photo(64, 64, 1))
    save(originals / "deep.png", photo(64, 64, 3, "uint16"))
    (originals / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    job = upscale(small, tmp_path / "job").job
    found, failures = score(job, originals)
    assert set(found) == {"good.png"}
    assert [(f.item, f.error) for f in failures] == [
        ("broken.png", "PictureError"),
        ("deep.png", "PictureError"),
        ("grey.png", "PictureError"),
        ("large.png", "PictureError"),
        ("missing.png", "SourceError"),
        ("small.png", "PictureError"),
    ]
    messages = {f.item: f.message for f in failures}
    assert "66x64, expected 64x64" in messages["large.png"]
    assert "64x63, expected 64x64" in messages["small.png"]


def test_originals_match_by_path_first_then_by_path_without_extension(
    originals: Path, photo: TakePhoto, save: SavePicture
) -> None:
    for name in ("a.png", "a.tif", "b.tif", "c/d.jpg", "e.png", "e.tif"):
        save(originals / name, photo(8, 8))
    rows = [
        ItemRow(item=item, state=INGESTED)
        for item in ("a.png", "b.png", "c/d.png", "d.png", "e.webp", "f.png")
    ]
    matched = match_originals(list_source(str(originals)), rows)
    # e.webp has two originals of its stem, so neither is taken.
    assert {item: file.item for item, file in matched.items()} == {
        "a.png": "a.png",
        "b.png": "b.tif",
        "c/d.png": "c/d.jpg",
    }


def test_no_original_at_all_is_wrong_usage(
    small: Path,
    originals: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    save(small / "a.png", photo(32, 32))
    save(originals / "other.png", photo(64, 64))
    job = upscale(small, tmp_path / "job").job
    with pytest.raises(UsageError, match="none of 1 items has an original"):
        score(job, originals)


def test_an_item_that_is_not_done_is_listed_and_not_scored(
    small: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    save(small / "a.png", photo(32, 32))
    save(small / "b.png", photo(40, 40))
    job = upscale(small, tmp_path / "job").job
    ledger = job.open_ledger()
    ledger.forget_units(["b.png"])
    ledger.close()
    found, (failure,) = score(job)
    assert set(found) == {"a.png"}
    assert (failure.item, failure.error) == ("b.png", "NotDone")
    assert "0 of 4 tiles" in failure.message


def test_a_missing_reference_leaves_earlier_scores_alone(
    small: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    save(small / "a.png", photo(32, 32))
    job = upscale(small, tmp_path / "job").job
    before, _ = score(job)
    with pytest.raises(SourceError):
        score(job, tmp_path / "nowhere")
    assert scores_of(job) == before


def test_scores_of_pixels_that_were_replaced_are_gone(
    small: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    save(small / "a.png", photo(32, 32))
    job = upscale(small, tmp_path / "job").job
    assert score(job)[0]
    upscale(small, tmp_path / "job", model="nearest-x2")
    assert scores_of(job) == {}


def test_equal_pictures_have_no_figure_that_json_cannot_say(
    small: Path,
    originals: Path,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upscale: Upscale,
    score: Score,
) -> None:
    save(small / "a.png", photo(32, 32))
    job = upscale(small, tmp_path / "job").job
    save(originals / "a.png", read(job, "a.png"))
    found, _ = score(job, originals)
    assert found["a.png"].kinds[REFERENCE].psnr_y == math.inf
    (item,) = scores_to_json(found.values())["items"]
    assert (item["psnr_y"], item["infinite"]) == (None, ["psnr_y", "bicubic_psnr_y"])
    assert item["ssim_y"] == pytest.approx(1)
    table = score_table(scores_to_json(found.values())).splitlines()
    assert table[1].split()[:3] == ["a.png", "equal", "equal"]
    assert table[-1].split()[:2] == ["mean", "-"]
