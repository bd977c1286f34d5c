"""How good a generator is on patches that it never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.interpolation import enlarge
from models.lpips import Lpips, load_lpips
from pipeline.compute.inference import Inference, from_unit_range, to_unit_range
from pipeline.errors import NotFiniteError, RecipeError, TrainingError
from pipeline.pictures.metrics import score_picture
from pipeline.storage.dataset import HR, LR_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.dataset import Dataset
    from pipeline.training.objective import FeatureFiles

    Pixels = NDArray[np.uint8]

_BATCH = 32
_MOST_DB = 100.0
"""PSNR of a patch that equals its HR: models are ranked by means, which infinity would spoil."""
SPLIT = "validation"


@dataclass(frozen=True, slots=True)
class Validation:
    """Means over the patches, whose PSNR counts as 100 dB at most.

    `lpips` is None where no features are at hand.
    """

    psnr_y: float
    ssim_y: float | None
    lpips: float | None


@dataclass(frozen=True, slots=True)
class Validator:
    """Patches to validate with, evenly spaced over the split: HR, and LR of one version each.

    The versions that are trained on take turns.
    """

    hr: Pixels
    lr: Pixels
    scale: int
    channels: int
    lpips: Lpips | None

    @classmethod
    def of(
        cls, dataset: Dataset, recipe: TrainRecipe, files: FeatureFiles, *, device: torch.device
    ) -> Validator | None:
        """Read the patches; None where the dataset has none to validate with."""
        rows = dataset.rows(SPLIT)
        if not len(rows) or not recipe.validation_patches:
            return None
        chosen = np.linspace(0, len(rows) - 1, min(recipe.validation_patches, len(rows)))
        rows = rows[chosen.round().astype(int)]
        alexnet = files.find("alexnet")
        lpips = _lpips_of(alexnet) if alexnet is not None else None
        hr = dataset.read(HR, rows)
        if lpips is not None and min(hr.shape[2:]) < lpips.least_px:
            lpips = None
        return cls(
            hr,
            _in_turns(dataset, recipe.lr_versions or list(dataset.spec.degradations), rows),
            recipe.scale,
            recipe.channels,
            lpips.to(device) if lpips is not None else None,
        )

    def enlarged(self, network: nn.Module, *, device: torch.device) -> Pixels:
        """Return what a network makes of the LR patches.

        Raises:
            TrainingError: if that is not finite.
        """
        engine = Inference.of(
            network,
            scale=self.scale,
            channels=self.channels,
            precision="fp32",
            device=str(device),
            backend="torch",
        )
        try:
            parts = [
                engine.enlarge_batch(self.lr[start : start + _BATCH])
                for start in range(0, len(self.lr), _BATCH)
            ]
        except NotFiniteError as error:
            raise TrainingError("the network returns NaN or infinity") from error
        return np.concatenate(parts)

    def bicubic(self, rows: slice | NDArray[np.int64] = slice(None)) -> Pixels:
        """Return the bicubic enlargement of LR patches; these themselves at scale 1."""
        lr = self.lr[rows]
        if self.scale == 1:
            return lr
        parts = []
        for start in range(0, len(lr), _BATCH):
            exact = torch.from_numpy(lr[start : start + _BATCH].astype(np.float64) / 255)
            enlarged = enlarge(exact, scale=self.scale, method="bicubic")
            parts.append(np.asarray(from_unit_range(enlarged, np.dtype(np.uint8))))
        return np.concatenate(parts)

    def pairs(self, *, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of all LR patches and their HR, in 0..1."""
        for start in range(0, len(self.hr), _BATCH):
            part = slice(start, start + _BATCH)
            lr, hr = (to_unit_range(pixels[part], device) for pixels in (self.lr, self.hr))
            yield lr, hr

    def score(self, sr: Pixels, *, device: torch.device) -> Validation:
        """Return the scores of what a network made of the patches."""
        border = self.scale if self.scale > 1 else 0
        scores = [
            score_picture(a, b, border_px=border, data_range=255)
            for a, b in zip(sr, self.hr, strict=True)
        ]
        ssim = [s.ssim_y for s in scores if s.ssim_y is not None]
        return Validation(
            fmean(min(_MOST_DB, float(s.psnr_y or 0.0)) for s in scores),
            fmean(ssim) if ssim else None,
            self._lpips(sr, device),
        )

    def _lpips(self, sr: Pixels, device: torch.device) -> float | None:
        if self.lpips is None:
            return None
        distances: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(sr), _BATCH):
                part = slice(start, start + _BATCH)
                a, b = (to_unit_range(x[part], device) for x in (sr, self.hr))
                distances += self.lpips(a, b).tolist()
        return fmean(distances)


def _in_turns(dataset: Dataset, versions: Sequence[str], rows: NDArray[np.int64]) -> Pixels:
    """Return LR of the rows: of the first in the first version, of the second in the second."""
    parts = [
        dataset.read(LR_PREFIX + version, rows[n :: len(versions)])
        for n, version in enumerate(versions[: len(rows)])
    ]
    lr = np.empty((len(rows), *parts[0].shape[1:]), np.uint8)
    for n, part in enumerate(parts):
        lr[n :: len(versions)] = part
    return lr


def _lpips_of(file: Path) -> Lpips:
    try:
        return load_lpips(file)
    except ValueError as error:
        raise RecipeError(f"LPIPS cannot be computed: {error}") from error


def psnr(a: Any, b: Any) -> float:
    """Return the PSNR of luma of two pictures in dB, without a border left out."""
    return float(score_picture(a, b, border_px=0, data_range=255).psnr_y or 0.0)
