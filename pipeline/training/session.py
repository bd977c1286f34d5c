"""What a training is made of: begun or resumed in its folder, and ready to step."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from pipeline.errors import UsageError
from pipeline.recipes.training import load_recipe
from pipeline.storage.access import EVERYONE, make_folder
from pipeline.storage.atomic import remove_partials, write_atomic
from pipeline.training.folder import RECIPE, STATE, check_folder
from pipeline.training.guard import Guard, Soundness
from pipeline.training.networks import load_teacher
from pipeline.training.objective import Objective
from pipeline.training.state import TrainState
from pipeline.training.validation import Validator

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.degradation.levels import Size
    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.claims import Claim
    from pipeline.storage.dataset import Dataset
    from pipeline.storage.store import Place
    from pipeline.training.objective import FeatureFiles
    from pipeline.training.processes import Processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How and where a training runs; none of it decides the weights."""

    out_dir: Place
    resume: bool = False
    workers: int = 1
    """Processes that read patches, where these are not in memory."""
    memory: str = "auto"
    data: str = ""
    """What the model card says of the pictures."""
    claim: Claim | None = None
    """By which the folder is this training's, where it is in a bucket."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One training, of which each part of the loop takes what it needs."""

    dataset: Dataset
    recipe: TrainRecipe
    settings: TrainSettings
    processes: Processes
    state: TrainState
    teacher: nn.Module | None
    objective: Objective
    validator: Validator | None
    """None where there is nothing to validate with, and in all processes but the first."""
    kept_recipe: bytes | None
    """The recipe of the state that is resumed, as its file had it; None for a new training."""
    soundness: Soundness = field(default_factory=Soundness)

    @classmethod
    def open(
        cls,
        dataset: Dataset,
        recipe: TrainRecipe,
        settings: TrainSettings,
        *,
        files: FeatureFiles,
        processes: Processes,
    ) -> Session:
        """Begin a training, or load the one that is to be resumed; its recipe is written down.

        Raises:
            RecipeError: if networks, weights or features cannot be had as the recipe wants them.
            UsageError: if the folder is not one to begin, or go on, in.
        """
        teacher = load_teacher(recipe, processes.device)
        state = TrainState.begin(
            # What it began with is in its state, and may be gone by now.
            replace(recipe, initial="") if settings.resume else recipe,
            hr_px=dataset.spec.hr_px,
            device=processes.device,
            dataset=dataset.digest(),
        )
        kept_recipe = _begin_or_resume(state, recipe, settings, leads=processes.leads)
        if processes.leads:
            _log_initialised(state, recipe)
        objective = Objective.of(recipe, files, device=processes.device)
        validator = None
        if processes.leads:
            validator = Validator.of(dataset, recipe, files, device=processes.device)
            validator = _usual_validator(validator, state, recipe, resume=settings.resume)
        return cls(
            dataset=dataset,
            recipe=recipe,
            settings=settings,
            processes=processes,
            state=state,
            teacher=teacher,
            objective=objective,
            validator=validator,
            kept_recipe=kept_recipe,
        )

    def autocast(self) -> torch.autocast:
        """Return the context in which networks compute with the recipe's precision."""
        bf16 = self.recipe.precision == "bf16"
        device = self.processes.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=bf16)

    @torch.no_grad()
    def target(self, lr: Tensor, hr: Tensor) -> Tensor:
        """Return what a batch is to become: HR, or what the teacher makes of LR."""
        if self.teacher is None:
            return hr
        with self.autocast():
            sr: Tensor = self.teacher(lr)
        return sr.float()

    def plain_discriminator(self, step: int) -> nn.Module | None:
        """Return the discriminator in adversarial steps, not shared among processes.

        Gradients pass through it to the generator; its own are not learned by.
        """
        learner = self.state.discriminator
        return learner.network if learner and self.recipe.is_adversarial(step) else None

    def is_sound(self) -> bool:
        """Return whether the networks are worth keeping."""
        return self.soundness.holds(self.state)


def check_networks(recipe: TrainRecipe, *, hr_px: Size) -> None:
    """Make sure that the networks of a recipe can be had, before anything is begun.

    Raises:
        RecipeError: if it names networks, arguments or weights that cannot be, or that do not
            take HR patches of ``(rows, columns)``.
        UnknownModelError: if there is no such teacher.
    """
    device = torch.device("cpu")
    TrainState.begin(recipe, hr_px=hr_px, device=device)
    load_teacher(recipe, device)


def _begin_or_resume(
    state: TrainState, recipe: TrainRecipe, settings: TrainSettings, *, leads: bool
) -> bytes | None:
    """Restore the state that is resumed, and return the recipe that it was made by."""
    out, kept_recipe = settings.out_dir, None
    check_folder(out, resume=settings.resume)
    if settings.resume:
        state.restore(out / STATE)
        if state.step > recipe.steps:
            raise UsageError(
                f"steps is {recipe.steps}, but {out} has made {state.step}; resume "
                "with at least as many"
            )
        kept_recipe = _kept_recipe(out / RECIPE)
        if kept_recipe is not None and _has_other_losses(out / RECIPE, recipe):
            state.guard = Guard()
    if leads:
        if settings.claim is not None:
            settings.claim.take()
        make_folder(out, EVERYONE)
        remove_partials(out)
        write_atomic(out / RECIPE, recipe.to_toml().encode())
    return kept_recipe


def _kept_recipe(path: Place) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _has_other_losses(path: Place, recipe: TrainRecipe) -> bool:
    """Return whether what losses were before says nothing of what they will be."""
    before = load_recipe(str(path))
    return (before.losses, before.pretrain_losses) != (recipe.losses, recipe.pretrain_losses)


def _log_initialised(state: TrainState, recipe: TrainRecipe) -> None:
    count, total = state.initialised, len(state.generator.network.state_dict())
    if count is not None and count < total:
        logger.warning(
            "%d of %d tensors are initialised from %s, the others at random",
            count,
            total,
            recipe.initial,
        )


def _usual_validator(
    validator: Validator | None, state: TrainState, recipe: TrainRecipe, *, resume: bool
) -> Validator | None:
    """Return what validates, by the same measures from the first step to the last."""
    if validator is None:
        if recipe.validation_patches:
            logger.warning(
                "nothing is validated, so the last model is the best one: no patch is held out "
                "for it; prepare with split = { validation = 0.1 }, or more pictures"
            )
        return None
    if not resume:
        state.lpips = validator.lpips is not None
    elif state.lpips and validator.lpips is None:
        raise UsageError(
            "the training was begun with LPIPS, by which its best is chosen in a GAN stage; "
            "name the features of AlexNet again with --features"
        )
    elif validator.lpips is not None and not state.lpips:
        logger.warning("LPIPS is left out, as the training was begun without it")
        return replace(validator, lpips=None)
    return validator
