"""A model measured by the published protocol: its network, what it is run on, and its scores.

Here belongs what makes a function of a model, which `protocol` asks for, and the document.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.lpips import load_lpips
from models.reach import reach_of
from pipeline.compute.backends import resolve_backend
from pipeline.compute.inference import (
    Inference,
    load_model,
    resolve_device,
    resolve_precision,
    to_unit_range,
)
from pipeline.compute.threads import use_no_more_threads_than_cores
from pipeline.constants import DEFAULT_TILE_PX
from pipeline.errors import ModelError, UsageError
from pipeline.evaluation.protocol import BENCHMARKS, evaluate_dataset, evaluate_set
from pipeline.jobs.choice import candidates, is_auto
from pipeline.jobs.wear import verdict
from pipeline.pictures.traces import of_pixels
from pipeline.recipes.files import read_degradation
from pipeline.storage.dataset import Dataset, is_dataset
from pipeline.storage.store import check_stores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from models.spec import ModelSpec
    from pipeline.degradation.chain import Degradation
    from pipeline.evaluation.protocol import Distance, Enlarge, Picture8, SetScores
    from pipeline.storage.store import Place
    from pipeline.training.objective import FeatureFiles


def evaluate_model(
    name_or_file: str,
    directories: Sequence[Place],
    *,
    device: str,
    precision: str,
    backend: str = "auto",
    features: FeatureFiles | None = None,
    degradation: str = BENCHMARKS,
) -> dict[str, Any]:
    """Return the document that ``upres evaluate`` prints: the scores of a model on each set.

    A set is a folder of HR pictures, or a dataset, each LR version of which makes a set. LR of a
    folder is made by `degradation`, a preset's name or a file.

    Pictures are tiled with the model's own reach, which changes no pixel and bounds memory; a
    model that cannot be tiled gets whole pictures. LPIPS is measured where `features` hold
    AlexNet's. With ``auto`` the pixels of each LR picture choose between two networks, and
    `chosen` says how many went to which.

    Raises:
        ModelError: if the features are of another network.
        UnknownModelError: if there is no such model.
        SourceError, PictureError: if a set is missing, or one of its pictures cannot be scored.
        UsageError: if the device, precision or backend cannot be had, or a degradation is asked
            for of a dataset, which has its own.
        StoreError: if a set is in a bucket that cannot be used.
        RecipeError: if there is no such degradation.
    """
    check_stores(*directories)
    plain, restoring = candidates(name_or_file)
    opened = [
        _Network.open(name, device=device, precision=precision, backend=backend)
        for name in (plain, restoring)
        if name
    ]
    spec = opened[0].spec
    reduction = read_degradation(degradation, scale=spec.scale)
    _check_no_dataset(directories, degradation)
    enlarge = _Choosing(*opened) if len(opened) > 1 else opened[0].enlarge
    distance = _distance(features, str(opened[0].inference.device))
    sets = [
        scores
        for directory in directories
        for scores in _score_sets(directory, spec, reduction, enlarge=enlarge, distance=distance)
    ]
    return _document(name_or_file, opened, reduction, sets)


def _document(
    asked: str, opened: Sequence[_Network], reduction: Degradation, sets: Sequence[SetScores]
) -> dict[str, Any]:
    """Return the scores as ``upres evaluate`` prints them, and what they were measured with."""
    first, chosen = opened[0], is_auto(asked)
    document = {
        "model": asked if chosen else first.spec.name,
        "scale": first.spec.scale,
        "degradation": reduction.name,
        "weights_sha256": None if chosen else first.sha256,
        "precision": first.inference.precision,
        "backend": first.inference.backend.name,
        "device": str(first.inference.device),
        "sets": [asdict(scores) for scores in sets],
    }
    if chosen:
        document["chosen"] = [asdict(network.enlarged) for network in opened]
    return document


@dataclass(slots=True)
class Enlarged:
    """How many pictures a network of several was chosen for."""

    model: str
    weights_sha256: str
    pictures: int = 0


@dataclass(frozen=True, slots=True)
class _Network:
    """A network made ready to enlarge pictures tile by tile, or whole if it has no reach."""

    spec: ModelSpec
    sha256: str
    inference: Inference
    reach: int | None
    enlarged: Enlarged

    @classmethod
    def open(cls, name_or_file: str, *, device: str, precision: str, backend: str) -> _Network:
        model = load_model(name_or_file)
        use_no_more_threads_than_cores()
        spec, device = model.spec, resolve_device(device)
        inference = Inference.of_model(
            model,
            precision=resolve_precision(precision, device=device),
            device=device,
            backend=resolve_backend(backend, device=device, model=spec.name),
        )
        reach = reach_of(model)
        return cls(spec, model.sha256, inference, reach, Enlarged(name_or_file, model.sha256))

    def enlarge(self, lr: Picture8) -> Picture8:
        self.enlarged.pictures += 1
        if self.reach is None:
            return self.inference.enlarge(lr)
        return self.inference.enlarge_tiled(lr, tile_px=DEFAULT_TILE_PX, halo_px=self.reach)


@dataclass(frozen=True, slots=True)
class _Choosing:
    """Enlarges each picture by the one of two networks that its pixels ask for, as a job does."""

    plain: _Network
    restoring: _Network

    def __call__(self, lr: Picture8) -> Picture8:
        worn, _ = verdict(of_pixels(lr))
        return (self.restoring if worn else self.plain).enlarge(lr)


def _check_no_dataset(directories: Sequence[Place], degradation: str) -> None:
    datasets = [directory for directory in directories if is_dataset(directory)]
    if datasets and degradation != BENCHMARKS:
        raise UsageError(
            f"--degradation {degradation} is for folders of pictures, and {datasets[0]} is a "
            "dataset, which holds its own LR versions; leave the option out"
        )


def _score_sets(
    directory: Place,
    spec: ModelSpec,
    degradation: Degradation,
    *,
    enlarge: Enlarge,
    distance: Distance | None,
) -> list[SetScores]:
    """Return the scores of a folder, or of each LR version of a dataset."""
    if not is_dataset(directory):
        scores = evaluate_set(
            directory,
            enlarge=enlarge,
            scale=spec.scale,
            distance=distance,
            degradation=degradation,
        )
        return [scores]
    dataset = Dataset.open(directory)
    _check_fits(dataset, spec)
    return evaluate_dataset(dataset, enlarge=enlarge, distance=distance)


def _check_fits(dataset: Dataset, spec: ModelSpec) -> None:
    if dataset.spec.scale != spec.scale:
        raise ModelError(
            f"{spec.name} has scale {spec.scale} and {dataset.path} scale "
            f"{dataset.spec.scale}; evaluate a model of that scale"
        )


def _distance(features: FeatureFiles | None, device: str) -> Distance | None:
    """Return LPIPS on AlexNet of two uint8 pictures, None where its features are not at hand."""
    file = features.find("alexnet") if features is not None else None
    if file is None:
        return None
    try:
        network = load_lpips(file).to(device)
    except ValueError as error:
        raise ModelError(str(error)) from error
    where = torch.device(device)

    @torch.inference_mode()
    def distance(sr: Picture8, hr: Picture8) -> float:
        return float(network(*(to_unit_range(p[np.newaxis], where) for p in (sr, hr))))

    return distance
