"""The published benchmark protocol, for any model or baseline that enlarges pictures.

Here belongs what makes figures comparable with those in papers. Running networks does not
(`evaluate`): a model comes in as a function from small picture to large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from statistics import fmean
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pipeline.dataset.extract import seed_of
from pipeline.degradation.apply import crop_to_multiple, degrade_patches
from pipeline.errors import DatasetError, ModelError, PictureError, TileShapeError
from pipeline.pictures.files import read_picture
from pipeline.pictures.metrics import SSIM_REACH_PX, score_picture, without_alpha
from pipeline.recipes.files import read_degradation
from pipeline.sources.listing import list_source
from pipeline.storage.dataset import HR, LR_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from pipeline.degradation.chain import Degradation
    from pipeline.sources.source_file import SourceFile
    from pipeline.storage.dataset import Dataset
    from pipeline.storage.store import Place

    Picture8: TypeAlias = NDArray[np.uint8]
    Enlarge: TypeAlias = Callable[[Picture8], Picture8]
    Distance: TypeAlias = Callable[[Picture8, Picture8], float]


BENCHMARKS = "bicubic"
"""The degradation of the published benchmarks."""

_HELD_OUT = ("test", "validation")
_PATCHES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageScores:
    """The scores of one picture of a set; `psnr_y` is None where SR equals HR: it is infinite."""

    name: str
    psnr_y: float | None
    ssim_y: float
    lpips: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SetScores:
    """The scores of one set: the means of its pictures' scores.

    `equal` pictures came out as their HR; their PSNR, which is infinite, is not in the mean, which
    is None where no other is left. `lpips` is None where it was not measured. `left_out` are the
    numbers of files beside the pictures that are not pictures, by reason.
    """

    name: str
    images: int
    equal: int
    psnr_y: float | None
    ssim_y: float
    lpips: float | None
    per_image: tuple[ImageScores, ...]
    left_out: dict[str, int] = field(default_factory=dict)


def evaluate_set(
    directory: Place,
    *,
    enlarge: Enlarge,
    scale: int,
    distance: Distance | None = None,
    degradation: Degradation | None = None,
) -> SetScores:
    """Score `enlarge` on every picture in a folder by the published protocol.

    Each picture is cropped to a multiple of `scale`, reduced bicubically to uint8 (or by another
    `degradation`, whose numbers are drawn from the picture's name), enlarged, and compared on the
    luma plane without a border of `scale` px: PSNR at peak 255, SSIM over 11x11 Gaussian windows.
    Grey pictures are scored as they are; alpha is dropped before all else, only the colours are
    enlarged and scored. `enlarge` maps uint8 ``(c, h, w)``, c of 1 or 3, to uint8
    ``(c, scale * h, scale * w)``; `distance` is LPIPS of two such pictures, nothing cut off. The
    set bears the folder's name. A picture that cannot be scored ends the evaluation, as a mean over
    the rest would be another benchmark's figure; what is not a picture is left out and counted.

    Raises:
        SourceError: if the folder is missing or empty, or a file of it cannot be read.
        PictureError: if a file is no 8-bit grey or RGB picture, or is too small to be scored.
        TileShapeError: if `enlarge` returns another shape.
        ModelError: if `enlarge` returns another dtype.
    """
    files = list_source(str(directory))
    reduction = degradation or read_degradation(BENCHMARKS, scale=scale)
    scores = tuple(_score_file(file, enlarge, distance, reduction, scale=scale) for file in files)
    left_out = {why: n for why, n in files.left_out.to_json().items() if n}
    return replace(_means(directory.resolve().name, scores), left_out=left_out)


def evaluate_dataset(
    dataset: Dataset, *, enlarge: Enlarge, distance: Distance | None = None
) -> list[SetScores]:
    """Score `enlarge` on the patches that a dataset holds out, one set for each LR version.

    The patches are those of the split ``test``, or of ``validation`` where that is empty; LR is
    what the dataset holds. A border of `scale` px is left out, none at scale 1. Otherwise as
    `evaluate_set`.

    Raises:
        DatasetError: if the dataset is damaged, or holds nothing out.
        PictureError: if its patches are too small to be scored.
        TileShapeError, ModelError: as `evaluate_set`.
    """
    split = next((name for name in _HELD_OUT if len(dataset.rows(name))), None)
    if split is None:
        raise DatasetError(
            f"{dataset.path} holds out no patches; prepare it with --set split.test=0.1"
        )
    rows, names = dataset.rows(split), _patch_names(dataset)
    return [
        _means(
            f"{dataset.path.resolve().name} {split}, LR {version}",
            tuple(_score_patches(dataset, rows, names, version, enlarge, distance)),
        )
        for version in dataset.spec.degradations
    ]


def _patch_names(dataset: Dataset) -> dict[int, str]:
    """Return which picture, and from which row and column, the patch of each row is."""
    return {
        chunk * dataset.spec.chunk_patches + int(place): f"{m.origins[n].item} at {y},{x}"
        for chunk, m in enumerate(dataset.manifests())
        for place, n, (y, x) in zip(m.places, m.pictures, m.corners, strict=True)
    }


def _score_patches(
    dataset: Dataset,
    rows: NDArray[np.int64],
    names: Mapping[int, str],
    version: str,
    enlarge: Enlarge,
    distance: Distance | None,
) -> Iterator[ImageScores]:
    scale = dataset.spec.scale
    for start in range(0, len(rows), _PATCHES_AT_ONCE):
        some = rows[start : start + _PATCHES_AT_ONCE]
        pairs = zip(dataset.read(HR, some), dataset.read(LR_PREFIX + version, some), strict=True)
        for row, (hr, lr) in zip(some.tolist(), pairs, strict=True):
            border = scale if scale > 1 else 0
            yield _scored(lr, hr, names[row], enlarge, distance, scale=scale, border_px=border)


def _means(name: str, scores: tuple[ImageScores, ...]) -> SetScores:
    distances = [score.lpips for score in scores if score.lpips is not None]
    psnr = [score.psnr_y for score in scores if score.psnr_y is not None]
    return SetScores(
        name=name,
        images=len(scores),
        equal=len(scores) - len(psnr),
        psnr_y=fmean(psnr) if psnr else None,
        ssim_y=fmean(score.ssim_y for score in scores),
        lpips=fmean(distances) if distances else None,
        per_image=scores,
    )


def _score_file(
    file: SourceFile,
    enlarge: Enlarge,
    distance: Distance | None,
    degradation: Degradation,
    *,
    scale: int,
) -> ImageScores:
    hr = _read_reference(file, scale=scale)
    # By the name alone: every model gets the same LR, in whatever folder the picture is.
    seed = seed_of("evaluate", PurePosixPath(file.item).name)
    lr = degrade_patches(hr[np.newaxis], [seed], degradation, scale=scale)[0]
    return _scored(lr, hr, file.item, enlarge, distance, scale=scale, border_px=scale)


def _scored(
    lr: Picture8,
    hr: Picture8,
    name: str,
    enlarge: Enlarge,
    distance: Distance | None,
    *,
    scale: int,
    border_px: int,
) -> ImageScores:
    sr = enlarge(lr)
    _require_like(sr, hr, name=name, scale=scale)
    scores = score_picture(sr, hr, border_px=border_px, data_range=255)
    if scores.psnr_y is None or scores.ssim_y is None:
        raise _too_small(name, hr, scale=scale)
    return ImageScores(
        name=name,
        psnr_y=scores.psnr_y if math.isfinite(scores.psnr_y) else None,
        ssim_y=scores.ssim_y,
        lpips=None if distance is None else distance(sr, hr),
    )


def _read_reference(file: SourceFile, *, scale: int) -> Picture8:
    """Return the colours of a picture, cropped to a multiple of `scale`, as ``(c, h, w)``."""
    try:
        pixels = read_picture(file.read(), name=file.item).pixels
    except PictureError as error:
        raise PictureError(
            f"{error}; the figures of a set are those of all its files: take it out, or give a "
            "glob such as 'DIR/*.png'"
        ) from error
    if pixels.dtype != np.uint8:
        raise PictureError(
            f"{file.item} is {pixels.dtype}, expected uint8: the protocol is defined for 8-bit "
            f"pictures; convert it first"
        )
    hr: Picture8 = without_alpha(pixels)
    # Checked before the crop and the network, which both may fail on such a picture first.
    if min(hr.shape[1:]) // scale * scale < _least_side(scale):
        raise _too_small(file.item, hr, scale=scale)
    return crop_to_multiple(hr, scale)


def _least_side(scale: int) -> int:
    return 2 * scale + 2 * SSIM_REACH_PX + 1


def _too_small(name: str, hr: Picture8, *, scale: int) -> PictureError:
    least = -(-_least_side(scale) // scale) * scale
    return PictureError(
        f"{name} is {hr.shape[1]}x{hr.shape[2]} px, expected at least {least}x{least} px at scale "
        f"{scale}: without a border of {scale} px no SSIM window fits; take it out of the set"
    )


def _require_like(sr: Picture8, hr: Picture8, *, name: str, scale: int) -> None:
    if sr.shape != hr.shape:
        raise TileShapeError(
            f"model returned {sr.shape} for {name}, expected {hr.shape} at scale {scale}; "
            f"is the checkpoint of another scale?"
        )
    if sr.dtype != np.uint8:
        raise ModelError(
            f"model returned {sr.dtype} for {name}, expected uint8; clamp and round its output"
        )
