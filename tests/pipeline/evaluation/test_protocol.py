# numpy without type arguments and scikit-image give Any.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from models.interpolation import KernelInterpolation
from pipeline.errors import ModelError, PictureError, SourceError, TileShapeError
from pipeline.evaluation.protocol import evaluate_set
from pipeline.recipes.files import read_degradation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def save(path: Path, pixels: np.ndarray) -> None:
    """Write ``(c, h, w)`` as a picture file."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)).save(path)


def astronaut() -> np.ndarray:
    return np.moveaxis(data.astronaut()[60:254, 130:321], 2, 0)


def camera() -> np.ndarray:
    return data.camera()[None, 80:277, 150:340]


def bicubic(scale: int) -> Callable[[np.ndarray], np.ndarray]:
    model = KernelInterpolation(scale=scale, method="bicubic")

    def enlarge(lr: np.ndarray) -> np.ndarray:
        sr = model(torch.from_numpy(lr)[None].float() / 255).clamp(0, 1)
        return (sr * 255).round().to(torch.uint8)[0].numpy()

    return enlarge


def nearest(lr: np.ndarray) -> np.ndarray:
    return lr.repeat(4, axis=1).repeat(4, axis=2)


def scores_by_others(hr: np.ndarray, *, scale: int) -> tuple[float, float]:
    """The protocol with Pillow's resizing, as floats, and scikit-image's scores."""
    channels, height, width = hr.shape
    height, width = height - height % scale, width - width % scale

    def resized(plane: np.ndarray, rows: int, cols: int) -> np.ndarray:
        exact = Image.fromarray(plane.astype(np.float32)).resize(
            (cols, rows), Image.Resampling.BICUBIC
        )
        return np.clip(np.floor(np.asarray(exact, dtype=np.float64) + 0.5), 0, 255)

    hr = hr[:, :height, :width].astype(np.float64)
    lr = [resized(plane, height // scale, width // scale) for plane in hr]
    sr = np.stack([resized(plane, height, width) for plane in lr])
    if channels == 3:
        weights = np.array([65.481, 128.553, 24.966])
        sr, hr = (16 + np.tensordot(weights, x, 1)[None] / 255 for x in (sr, hr))
    sr_y, hr_y = (x[0, scale:-scale, scale:-scale] for x in (sr, hr))
    _, ssim = structural_similarity(
        sr_y,
        hr_y,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    return peak_signal_noise_ratio(hr_y, sr_y, data_range=255), ssim[5:-5, 5:-5].mean()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_scores_as_with_pillow_and_scikit_image(tmp_path: Path, scale: int) -> None:
    save(tmp_path / "set" / "astronaut.png", astronaut())
    save(tmp_path / "set" / "camera.png", camera())
    scores = evaluate_set(tmp_path / "set", enlarge=bicubic(scale), scale=scale)
    want = [scores_by_others(hr, scale=scale) for hr in (astronaut(), camera())]
    for image, (psnr, ssim) in zip(scores.per_image, want, strict=True):
        # Pillow treats the outermost pixels otherwise.
        assert image.psnr_y == pytest.approx(psnr, abs=0.01)
        assert image.ssim_y == pytest.approx(ssim, abs=0.0005)


def test_a_set_scores_the_mean_of_its_pictures(tmp_path: Path) -> None:
    save(tmp_path / "Pair" / "a.png", astronaut())
    save(tmp_path / "Pair" / "b.png", camera())
    scores = evaluate_set(tmp_path / "Pair", enlarge=nearest, scale=4)
    assert (scores.name, scores.images, scores.lpips) == ("Pair", 2, None)
    assert [image.name for image in scores.per_image] == ["a.png", "b.png"]
    a, b = scores.per_image
    assert a.psnr_y != b.psnr_y
    assert scores.psnr_y == pytest.approx((a.psnr_y + b.psnr_y) / 2)
    assert scores.ssim_y == pytest.approx((a.ssim_y + b.ssim_y) / 2)


def test_bicubic_beats_nearest(tmp_path: Path) -> None:
    save(tmp_path / "astronaut.png", astronaut())
    better, worse = (
        evaluate_set(tmp_path, enlarge=enlarge, scale=4) for enlarge in (bicubic(4), nearest)
    )
    assert better.psnr_y > worse.psnr_y + 0.3
    assert better.ssim_y > worse.ssim_y


def test_a_model_that_knows_the_answer_scores_infinite_decibels(tmp_path: Path) -> None:
    hr = camera()[:, :196, :188]
    save(tmp_path / "camera.png", hr)
    scores = evaluate_set(tmp_path, enlarge=lambda _: hr, scale=4)
    assert (scores.psnr_y, scores.equal, scores.images) == (None, 1, 1)
    assert scores.ssim_y == pytest.approx(1.0)


def test_errors_within_the_border_cost_nothing(tmp_path: Path) -> None:
    hr = camera()[:, :196, :188]
    save(tmp_path / "camera.png", hr)

    def with_wrong(depth: int) -> np.ndarray:
        sr = 255 - hr
        sr[:, depth:-depth, depth:-depth] = hr[:, depth:-depth, depth:-depth]
        return sr

    assert evaluate_set(tmp_path, enlarge=lambda _: with_wrong(4), scale=4).psnr_y is None
    assert evaluate_set(tmp_path, enlarge=lambda _: with_wrong(5), scale=4).psnr_y < 40


def test_the_model_sees_the_cropped_picture_reduced(tmp_path: Path) -> None:
    save(tmp_path / "astronaut.png", astronaut())
    seen = []

    def enlarge(lr: np.ndarray) -> np.ndarray:
        seen.append((lr.shape, lr.dtype))
        return nearest(lr)

    evaluate_set(tmp_path, enlarge=enlarge, scale=4)
    assert seen == [((3, 194 // 4, 191 // 4), np.dtype(np.uint8))]


@pytest.mark.parametrize("colours", [astronaut(), camera()], ids=["rgb", "grey"])
def test_alpha_changes_no_score(tmp_path: Path, colours: np.ndarray) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (1, *colours.shape[1:]), dtype=np.uint8)
    save(tmp_path / "opaque" / "a.png", colours)
    save(tmp_path / "clear" / "a.png", np.concatenate([colours, alpha]))
    opaque, clear = (
        evaluate_set(tmp_path / name, enlarge=nearest, scale=4) for name in ("opaque", "clear")
    )
    assert clear.per_image == opaque.per_image


def test_a_file_that_is_no_picture_is_named_and_not_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png", camera())
    (tmp_path / "broken.png").write_bytes(b"this is no picture")
    with pytest.raises(PictureError, match=r"broken\.png"):
        evaluate_set(tmp_path, enlarge=nearest, scale=4)


def test_a_picture_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 300, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(PictureError, match=r"deep\.png is uint16, expected uint8"):
        evaluate_set(tmp_path, enlarge=nearest, scale=4)


@pytest.mark.parametrize("shape", [(19, 40), (40, 19), (1, 1)])
def test_a_picture_too_small_to_score_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    save(tmp_path / "tiny.png", np.zeros((1, *shape), dtype=np.uint8))
    with pytest.raises(PictureError, match=r"tiny\.png is \d+x\d+ px, expected at least 20x20"):
        evaluate_set(tmp_path, enlarge=nearest, scale=4)


def test_the_smallest_picture_that_is_asked_for_is_scored(tmp_path: Path) -> None:
    save(tmp_path / "small.png", astronaut()[:, :20, :20])
    assert evaluate_set(tmp_path, enlarge=nearest, scale=4).images == 1


def test_a_model_of_another_scale_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", camera())
    with pytest.raises(TileShapeError, match=r"for a\.png, .*is the checkpoint of another scale"):
        evaluate_set(tmp_path, enlarge=bicubic(2), scale=4)


def test_a_model_that_returns_floats_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", camera())
    with pytest.raises(ModelError, match=r"float32 for a\.png, expected uint8"):
        evaluate_set(tmp_path, enlarge=lambda lr: nearest(lr).astype(np.float32), scale=4)


def test_a_folder_that_is_empty_or_missing_is_an_error(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SourceError):
            evaluate_set(directory, enlarge=nearest, scale=4)


def test_what_is_not_a_picture_is_left_out_of_a_set_and_counted(tmp_path: Path) -> None:
    save(tmp_path / "a.png", camera())
    (tmp_path / "about.txt").write_text("about the set")
    (tmp_path / "Thumbs.db").write_bytes(b"\1\2")
    found = evaluate_set(tmp_path, enlarge=nearest, scale=4)
    assert (found.images, found.left_out) == (1, {"litter": 1, "sidecars": 1})


def lr_of(directory: Path, degradation: str) -> list[np.ndarray]:
    """Return the LR that a model gets, picture by picture."""
    seen: list[np.ndarray] = []

    def enlarge(lr: np.ndarray) -> np.ndarray:
        seen.append(lr)
        return nearest(lr)

    evaluate_set(
        directory,
        enlarge=enlarge,
        scale=4,
        degradation=read_degradation(degradation, scale=4),
    )
    return seen


def test_lr_of_jpeg_75_is_what_pillow_reads_back_from_such_a_file(tmp_path: Path) -> None:
    save(tmp_path / "astronaut.png", astronaut())
    (clean,), (stored,) = (lr_of(tmp_path, name) for name in ("bicubic", "jpeg-75"))
    file = io.BytesIO()
    Image.fromarray(np.moveaxis(clean, 0, 2)).save(file, "JPEG", quality=75, subsampling=2)
    assert np.array_equal(np.moveaxis(stored, 0, 2), np.asarray(Image.open(file)))
    assert not np.array_equal(stored, clean)


def test_a_drawn_degradation_gives_every_model_the_same_lr_and_every_picture_its_own(
    tmp_path: Path,
) -> None:
    for folder, names in (("one", "ab"), ("other", "bc")):
        for name in names:
            save(tmp_path / folder / f"{name}.png", astronaut())
    a, b = lr_of(tmp_path / "one", "archive")
    b_again, c = lr_of(tmp_path / "other", "archive")
    assert np.array_equal(b, b_again)
    assert not np.array_equal(a, b)
    assert not np.array_equal(b, c)


def test_a_degradation_of_a_file_is_that_of_its_steps(tmp_path: Path) -> None:
    save(tmp_path / "set" / "astronaut.png", astronaut())
    table = tmp_path / "mine.toml"
    table.write_text('name = "mine"\nsteps = [{ op = "resize" }, { op = "jpeg", quality = 40 }]\n')
    (mine,), (preset,) = (lr_of(tmp_path / "set", str(name)) for name in (table, "jpeg-40"))
    assert np.array_equal(mine, preset)
