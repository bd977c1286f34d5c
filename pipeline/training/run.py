"""One training, from the request to what came of it.

What belongs here: the order of things, and what is held and open meanwhile. The steps themselves
are in `pipeline.training.loop`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.compute.inference import resolve_device
from pipeline.compute.listener import Listener
from pipeline.dataset.prepare import dataset_spec
from pipeline.dataset.run import prepare_dataset
from pipeline.errors import NoSourceError, SourceError
from pipeline.storage.access import EVERYONE, close_to, make_folder, readers
from pipeline.storage.claims import claiming
from pipeline.storage.dataset import Dataset, is_dataset
from pipeline.storage.locks import hold
from pipeline.storage.store import BucketPlace, place_of
from pipeline.training.folder import BEST, STATE
from pipeline.training.loop import train
from pipeline.training.objective import FeatureFiles
from pipeline.training.processes import Processes, joined
from pipeline.training.records import SAMPLES
from pipeline.training.request import PATCHES
from pipeline.training.session import TrainSettings, check_networks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.compute.stop import Stop
    from pipeline.dataset.run import PrepareResult, WriteReport
    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.claims import Claim
    from pipeline.storage.store import Place
    from pipeline.training.request import TrainRequest
    from pipeline.training.review import TrainProgress

LOCK, COMMAND = "train.lock", "upres train"


class TrainListener(Listener):
    """Hears how far a training is, and what was found on the way; this one keeps silent."""

    def prepared(self, result: PrepareResult) -> None:
        """Hear what became of the pictures that were prepared first."""

    def validated(self, progress: TrainProgress) -> None:
        """Hear the figures of a validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What came of a training in one run."""

    model: Place | None
    """The best checkpoint; None where nothing was validated yet."""
    steps: int
    of_steps: int
    dataset: Place
    patches: Mapping[str, int]
    """By split."""
    lr_versions: Sequence[str]
    """Of the dataset that were trained on, or of the degradations that made LR in every step."""
    rejected: int | None
    """Pictures that could not be prepared; None where none were prepared in this run."""
    leads: bool
    """Whether this process, of several that share a training, is the one that speaks of it."""

    @property
    def ended(self) -> bool:
        """Return whether every step was made."""
        return self.steps == self.of_steps

    def to_json(self) -> dict[str, Any]:
        """Return the document that `upres train` prints."""
        return {
            "model": None if self.model is None else str(self.model),
            "steps": self.steps,
            "of_steps": self.of_steps,
            "dataset": str(self.dataset),
            "patches": dict(self.patches),
            "lr_versions": list(self.lr_versions),
            "rejected": self.rejected,
        }


def run_training(
    request: TrainRequest,
    *,
    stop: Stop,
    write_report: WriteReport,
    listener: TrainListener | None = None,
) -> TrainResult:
    """Train as asked, on pictures after they are prepared; all that can be wrong is checked first.

    Raises:
        UsageError, RecipeError, SourceError, DatasetError: if nothing can be trained as asked.
        JobBusyError: if another training writes into the folder.
        TrainingError: as `train`.
        KeyboardInterrupt: if a stop came before the pictures were prepared.
    """
    listener = listener or TrainListener()
    request = _begun(request, listener)
    recipe, files = _checked(request, listener)
    with (
        joined(resolve_device(request.device)) as processes,
        _held(request.out_dir, processes) as claim,
    ):
        path, rejected = _dataset(request, processes, stop, write_report, listener)
        dataset = Dataset.open(path)
        if processes.leads:
            close_samples(request.out_dir, path)
        patches = {name: split["patches"] for name, split in dataset.statistics().items()}
        with listener.counting("train", "steps") as count:
            end = train(
                dataset,
                recipe,
                replace(_settings(request, dataset, patches), claim=claim),
                files=files,
                processes=processes,
                tick=count if processes.leads else lambda _step, _of: None,
                report=listener.validated,
                stop=stop,
            )
    best = request.out_dir / BEST
    return TrainResult(
        model=best if best.exists() else None,
        steps=end.step,
        of_steps=end.steps,
        dataset=path,
        patches=patches,
        lr_versions=_lr_versions(recipe, dataset),
        rejected=rejected,
        leads=processes.leads,
    )


def close_samples(out_dir: Place, dataset_dir: Place) -> None:
    """Show patches of the dataset to those alone who may read it."""
    allowed = readers([dataset_dir], near=out_dir)
    if allowed != EVERYONE:
        make_folder(out_dir / SAMPLES, allowed)
        close_to(out_dir / SAMPLES, allowed)


def _begun(request: TrainRequest, listener: Listener) -> TrainRequest:
    """Return the request that begins what it is to go on with, if that made no step yet."""
    if not request.begins_after_all:
        return request
    listener.remark(f"{request.out_dir} has made no step yet: it begins")
    return replace(request, resume=False)


def _lr_versions(recipe: TrainRecipe, dataset: Dataset) -> Sequence[str]:
    fresh = [chain.name for chain in recipe.fresh_chains]
    return fresh or recipe.lr_versions or dataset.spec.degradations


def _checked(request: TrainRequest, listener: Listener) -> tuple[TrainRecipe, FeatureFiles]:
    """Return recipe and features of a request, once nothing is left to be wrong with it."""
    request.check()
    recipe, files = request.load_recipe(), FeatureFiles.named(request.features)
    kept = request.kept_values(recipe)
    if kept:
        values = ", ".join(f"{key} = {value}" for key, value in kept.items())
        listener.remark(f"goes on as it was begun: {values}; --set changes that")
    files.check(recipe)
    if not request.resume:
        check_networks(recipe, hr_px=request.hr_px)
    request.check_preparing(recipe)
    return recipe, files


@contextmanager
def _held(out_dir: Place, processes: Processes) -> Iterator[Claim | None]:
    """Let no other training write into the folder; yield by what, where it is in a bucket."""
    if not processes.leads:
        yield None
    elif isinstance(out_dir, BucketPlace):
        with claiming(out_dir / LOCK, out_dir, COMMAND, kept=out_dir / STATE) as claim:
            yield claim
    else:
        out_dir.mkdir(parents=True, exist_ok=True)
        with hold(out_dir / LOCK, out_dir, COMMAND):
            yield None


def _settings(request: TrainRequest, dataset: Dataset, patches: Mapping[str, int]) -> TrainSettings:
    pictures = len({o.item for m in dataset.manifests() for o in m.origins if o.split})
    return TrainSettings(
        out_dir=request.out_dir,
        resume=request.resume,
        workers=request.readers,
        memory=request.memory,
        data=f"{patches['train']} patches, with validation and test of {pictures} pictures",
    )


def _dataset(
    request: TrainRequest,
    processes: Processes,
    stop: Stop,
    write_report: WriteReport,
    listener: TrainListener,
) -> tuple[Place, int | None]:
    """Return the dataset of a request, or the one that its pictures are prepared into first.

    How many pictures were rejected is returned too, None if none was prepared now.

    Raises:
        SourceError: if no patch can be made of the pictures.
    """
    if request.takes_dataset:
        return place_of(request.src), None
    if request.resume:
        return _own_patches(request), None
    rejected = 0
    if processes.leads:
        result = prepare_dataset(
            request.preparing(), stop=stop, write_report=write_report, listener=listener
        )
        if stop.requested:
            raise KeyboardInterrupt
        listener.prepared(result)
        _check_trains(request.src, result)
        rejected = result.status.pictures.items["rejected"]
    processes.mean(0.0)  # The others wait here until the patches are there.
    return request.out_dir / PATCHES, rejected


def _check_trains(source: str, result: PrepareResult) -> None:
    """Make sure that there is a patch to train on.

    Raises:
        SourceError: if there is none; the message says what became of the pictures.
    """
    status = result.status
    if status.patches["train"]:
        return
    held_out = sum(status.patches.values())
    if held_out:
        raise SourceError(
            f"{source} gives no patch to train on: all {held_out} are held out for validation "
            "and test; take more pictures, or hold out fewer by prepare.split"
        )
    why = f" ({status.failures[0].message})" if status.failures else ""
    raise SourceError(
        f"{source} gives no patch to train on; {status.pictures.items['rejected']} pictures were "
        f"rejected{why}; fix the pictures, or name others"
    )


def _own_patches(request: TrainRequest) -> Place:
    """Return the patches of a training that goes on, whatever became of their pictures since.

    Raises:
        NoSourceError: if it has none of its own.
        DatasetError: if they were prepared otherwise than is asked for now.
    """
    path = request.out_dir / PATCHES
    if not is_dataset(path):
        raise NoSourceError(
            f"{request.src} is not a dataset, and {request.out_dir} has no {PATCHES} of its "
            "own; name the dataset that the training was begun with"
        )
    if request.prepare_settings:
        Dataset.open_or_create(path, dataset_spec(request.preparing().load_recipe()))
    return path
