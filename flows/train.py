"""What `upres train` starts: a dataset or pictures in, checkpoints out, progress told."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.prepare import PrepareOptions, PrepareRequest, check_apart, run_prepare
from flows.terminal.printing import visible
from flows.terminal.progress import counted
from pipeline.compute.cluster import ClusterSettings
from pipeline.compute.inference import resolve_device
from pipeline.dataset.prepare import dataset_spec
from pipeline.errors import NoSourceError, RecipeError, SourceError, UsageError
from pipeline.jobs.job import locked
from pipeline.pictures.kinds import is_readable_name
from pipeline.recipes.files import PREPARE, recipe_names
from pipeline.recipes.preparing import load_prepare_recipe
from pipeline.recipes.training import load_recipe
from pipeline.storage.access import EVERYONE, close_to, make_folder, readers
from pipeline.storage.dataset import Dataset, is_dataset
from pipeline.training.folder import BEST, RECIPE, check_folder, files_of_steps
from pipeline.training.loop import train
from pipeline.training.objective import FeatureFiles
from pipeline.training.processes import Processes, joined
from pipeline.training.records import CURVES, METRICS, SAMPLES
from pipeline.training.session import TrainSettings, check_networks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.compute.cluster import Stop
    from pipeline.recipes.training import TrainRecipe
    from pipeline.training.review import TrainProgress

PATCHES = "patches"
"""Where below the output the dataset lies that pictures were prepared into."""

LOCK = "train.lock"
_PREPARING = f"{PREPARE}."
_SHARED = ("scale", "channels")
"""Settings that say how pictures are prepared, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What is to be trained from what, and where it is left."""

    source: str
    """Path of a dataset, or of pictures that are prepared into one first."""
    recipe: str | None
    """Name or file; None goes on with the recipe of the training in `out_dir`."""
    settings: Sequence[str]
    out_dir: Path
    resume: bool

    @property
    def own_settings(self) -> list[str]:
        """Return what is set of the training itself."""
        return [s for s in self.settings if not s.startswith(_PREPARING)]

    @property
    def prepare_settings(self) -> list[str]:
        """Return what is set of how patches are cut and degraded."""
        return [
            setting.removeprefix(_PREPARING)
            for setting in self.settings
            if setting.startswith(_PREPARING) or setting.partition("=")[0].strip() in _SHARED
        ]

    @property
    def hr_px(self) -> tuple[int, int]:
        """Return rows and columns of the HR patches that a new training learns from."""
        if is_dataset(Path(self.source)):
            return Dataset.open(Path(self.source)).spec.hr_px
        return load_prepare_recipe(str(self.recipe), settings=self.prepare_settings).patch_px

    def check(self) -> None:
        """Make sure that the words fit what is there, before anything is written.

        Raises:
            UsageError: if they contradict each other, or the folder.
        """
        for place in (self.out_dir, *self.out_dir.resolve().parents):
            if is_dataset(place):
                raise UsageError(f"{place} is a dataset; name another folder with --out")
        preparing = [s for s in self.settings if s.startswith(_PREPARING)]
        if is_dataset(Path(self.source)):
            if preparing:
                raise UsageError(
                    f"--set {preparing[0]} is for pictures, and {self.source} is a dataset that "
                    "was prepared already; leave it out, or name the pictures"
                )
        elif not self.resume:
            check_apart(self.source, self.out_dir.resolve())
        check_folder(self.out_dir, resume=self.resume)
        if not self.resume:
            _check_own_files(self.out_dir)

    def begun(self) -> TrainRequest:
        """Return the request that begins what it is to go on with, if that made no step yet.

        A training that was killed while its pictures were prepared has nothing to go on with.
        """
        left = [name for name in (PATCHES, RECIPE) if (self.out_dir / name).exists()]
        if not self.resume or self.recipe is None or files_of_steps(self.out_dir) or not left:
            return self
        click.echo(f"{visible(str(self.out_dir))} has made no step yet: it begins", err=True)
        return replace(self, resume=False)

    def check_preparing(self, recipe: TrainRecipe) -> None:
        """Make sure that pictures can be prepared into what `recipe` trains on.

        Raises:
            RecipeError: if it does not say how, or trains on an LR version that it does not make.
        """
        if self.recipe is None or self.resume or is_dataset(Path(self.source)):
            return
        made = load_prepare_recipe(self.recipe, settings=self.prepare_settings)
        for key in _SHARED:
            if getattr(made, key) != getattr(recipe, key):
                raise RecipeError(
                    f"{key} is {getattr(recipe, key)}, but {PREPARE}.{key} is "
                    f"{getattr(made, key)}; leave the latter out"
                )
        for name in recipe.lr_versions:
            if name not in made.lr_versions:
                raise RecipeError(
                    f"lr_versions has {name!r}, but the recipe prepares "
                    f"{', '.join(made.lr_versions)}; take one of these, or add it to "
                    f"{PREPARE}.degradations"
                )


def _check_own_files(out_dir: Path) -> None:
    """Make sure that a new training replaces no file that none wrote, such as a recipe by hand.

    Nor does it move in among pictures: these would count as its own from then on.

    Raises:
        UsageError: if there is one.
    """
    names = sorted(path.name for path in out_dir.iterdir()) if out_dir.is_dir() else []
    picture = next((n for n in names if is_readable_name(n) and n != CURVES), None)
    if picture is not None:
        raise UsageError(
            f"{out_dir} holds pictures, such as {picture}; name a folder of its own with --out"
        )
    recipe = out_dir / RECIPE
    try:
        own = load_recipe(str(recipe), whole=True).to_toml() == recipe.read_text(encoding="utf-8")
    except (OSError, ValueError):
        own = False
    found = next((n for n in (RECIPE, METRICS, CURVES) if os.path.lexists(out_dir / n)), None)
    if found is not None and not own:
        raise UsageError(
            f"{out_dir / found} was not written by a training, which would replace it; name "
            "another folder with --out"
        )


def run_training(
    request: TrainRequest,
    *,
    features: Sequence[Path],
    device: str,
    workers: int,
    memory: str,
    stop: Stop,
) -> tuple[dict[str, Any], bool]:
    """Train by a recipe; return where the best checkpoint lies and what it was trained on.

    Of several processes that share a training one tells of it: whether this is it comes second.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    request = request.begun()
    request.check()
    recipe, files = _recipe(request), FeatureFiles.named(features)
    files.check(recipe)
    if not request.resume:
        check_networks(recipe, hr_px=request.hr_px)
    request.check_preparing(recipe)
    with joined(resolve_device(device)) as processes, _held(request.out_dir, processes):
        path, rejected = _dataset(request, processes, stop)
        dataset = Dataset.open(path)
        if processes.leads:
            close_samples(request.out_dir, path)
        statistics = dataset.statistics()
        patches = {name: found["patches"] for name, found in statistics.items()}
        pictures = len({o.item for m in dataset.manifests() for o in m.origins if o.split})
        wanted = TrainSettings(
            out_dir=request.out_dir,
            resume=request.resume,
            workers=workers,
            memory=memory,
            data=f"{patches['train']} patches, with validation and test of {pictures} pictures",
        )
        with counted("train", "steps") as tick:
            end = train(
                dataset,
                recipe,
                wanted,
                files=files,
                processes=processes,
                tick=tick if processes.leads else lambda _step, _of: None,
                report=_tell,
                stop=stop,
            )
    best = request.out_dir / BEST
    document = {
        "model": str(best) if best.exists() else None,
        "steps": end.step,
        "of_steps": end.steps,
        "dataset": str(path),
        "patches": patches,
        "lr_versions": [chain.name for chain in recipe.fresh_chains]
        or recipe.lr_versions
        or list(dataset.spec.degradations),
        "rejected": rejected,
    }
    return document, processes.leads


def close_samples(out_dir: Path, dataset_dir: Path) -> None:
    """Show patches of the dataset to those alone who may read it."""
    allowed = readers([dataset_dir], near=out_dir)
    if allowed != EVERYONE:
        make_folder(out_dir / SAMPLES, allowed)
        close_to(out_dir / SAMPLES, allowed)


@contextmanager
def _held(out_dir: Path, processes: Processes) -> Iterator[None]:
    """Let no other training write into the folder meanwhile."""
    if not processes.leads:
        yield
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    with locked(out_dir / LOCK, out_dir, "upres train"):
        yield


def _recipe(request: TrainRequest) -> TrainRecipe:
    """Return the recipe of a new training, or the one that the training was begun with.

    Raises:
        UsageError: if there is none, or the training was begun with another.
    """
    if not request.resume:
        if request.recipe is None:
            raise UsageError(f"--recipe is missing; recipes are {', '.join(recipe_names())}")
        return load_recipe(request.recipe, settings=request.own_settings)
    path = request.out_dir / RECIPE
    if not path.is_file():
        raise UsageError(
            f"{path} is missing, by which the training was begun; write it again, or train into "
            "an empty folder"
        )
    begun = load_recipe(str(path), settings=request.own_settings, whole=True)
    _check_unchanged(path, begun)
    if request.recipe is not None:
        given = load_recipe(request.recipe, settings=request.own_settings)
        if given.name != begun.name:
            raise UsageError(
                f"{request.out_dir} was begun with recipe {begun.name}, not {given.name}; leave "
                "--recipe out, or name another folder"
            )
        _tell_differences(begun, given)
    return begun


def _check_unchanged(path: Path, wanted: TrainRecipe) -> None:
    """Refuse settings that would be written down, and yet come too late to change a weight."""
    begun = load_recipe(str(path))
    for key in ("initial", "optimiser"):
        was, now = getattr(begun, key), getattr(wanted, key)
        if was != now:
            raise UsageError(
                f"{key} is {now!r}, and the training was begun with {was!r}; leave it out, or "
                "train into another folder"
            )


def _tell_differences(begun: TrainRecipe, given: TrainRecipe) -> None:
    """Say where a training goes on as it was begun, and not as its recipe has it."""
    kept = {k: v for k, v in asdict(begun).items() if getattr(given, k) not in (v, "auto")}
    if kept:
        told = visible(", ".join(f"{key} = {value}" for key, value in kept.items()))
        click.echo(f"goes on as it was begun: {told}; --set changes that", err=True)


def _dataset(request: TrainRequest, processes: Processes, stop: Stop) -> tuple[Path, int | None]:
    """Return the dataset of a request, or the one that its pictures are prepared into first.

    How many pictures were rejected is returned too, None if none was prepared now.

    Raises:
        SourceError: if no patch can be made of the pictures.
    """
    if is_dataset(Path(request.source)):
        return Path(request.source), None
    if request.resume:
        return _own_patches(request), None
    path = request.out_dir / PATCHES
    rejected = 0
    if processes.leads:
        wanted = _preparing(request)
        document, text, _ = run_prepare(wanted, ClusterSettings(), stop=stop, how=PrepareOptions())
        if stop.requested:
            raise KeyboardInterrupt
        click.echo(text, err=True)
        rejected = document["items"]["rejected"]
        if not document["patches"]["train"]:
            why = f" ({document['failures'][0]['message']})" if document["failures"] else ""
            held = sum(document["patches"].values())
            if held:
                raise SourceError(
                    f"{request.source} gives no patch to train on: all {held} are held out for "
                    "validation and test; take more pictures, or hold out fewer by prepare.split"
                )
            raise SourceError(
                f"{request.source} gives no patch to train on; {rejected} pictures were "
                f"rejected{why}"
            )
    processes.mean(0.0)  # The others wait here until the patches are there.
    return path, rejected


def _own_patches(request: TrainRequest) -> Path:
    """Return the patches of a training that goes on, whatever became of their pictures since.

    Raises:
        NoSourceError: if it has none of its own.
        DatasetError: if they were prepared otherwise than is asked for now.
    """
    path = request.out_dir / PATCHES
    if not is_dataset(path):
        raise NoSourceError(
            f"{request.source} is no dataset, and {request.out_dir} has no {PATCHES} of its own; "
            "name the dataset that the training was begun with"
        )
    if request.prepare_settings:
        Dataset.open_or_create(path, dataset_spec(_preparing(request).recipe))
    return path


def _preparing(request: TrainRequest) -> PrepareRequest:
    return PrepareRequest.of(
        request.source,
        request.out_dir / PATCHES,
        recipe=request.recipe,
        settings=request.prepare_settings,
        lr_sources=(),
        licence=None,
    )


def sheet(document: dict[str, Any]) -> str:
    """Return what `run_training` gave as lines for people."""
    shown = {
        "model": document["model"] or "none yet, as nothing was validated",
        "steps": f"{document['steps']} of {document['of_steps']}",
        "dataset": document["dataset"],
        "patches": ", ".join(f"{count} {split}" for split, count in document["patches"].items()),
        "LR": ", ".join(document["lr_versions"]),
    }
    if document["rejected"] is not None:
        shown["rejected"] = f"{document['rejected']} pictures"
    return "\n".join(f"{key:18} {visible(str(value))}" for key, value in shown.items())


def _tell(progress: TrainProgress) -> None:
    found = progress.validation
    scores = ""
    if found is not None:
        ssim = "" if found.ssim_y is None else f", SSIM-Y {found.ssim_y:.4f}"
        lpips = "" if found.lpips is None else f", LPIPS {found.lpips:.4f}"
        scores = f"PSNR-Y {found.psnr_y:.2f} dB{ssim}{lpips}, "
    click.echo(
        f"step {progress.step} of {progress.steps}: loss {progress.loss:.5f}, {scores}"
        f"waited for data {progress.waiting_share:.1%} of the time",
        err=True,
    )
