"""Whether a dataset is one that a recipe can train on, and what its size changes in the recipe."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipeline.dataset.splits import HELD_OUT
from pipeline.errors import RecipeError, SourceError
from pipeline.training.validation import SPLIT

if TYPE_CHECKING:
    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.dataset import Dataset
    from pipeline.training.processes import Processes

logger = logging.getLogger(__name__)


def check_fits(dataset: Dataset, recipe: TrainRecipe) -> None:
    """Make sure that the patches of a dataset are what the recipe trains and validates on.

    Raises:
        RecipeError: if they have another scale, other channels or versions, or cannot validate.
        SourceError: if there is none to train on.
    """
    spec = dataset.spec
    if (spec.scale, spec.channels) != (recipe.scale, recipe.channels):
        raise RecipeError(
            f"{dataset.path} has scale {spec.scale} and {spec.channels} channels, and recipe "
            f"{recipe.name} scale {recipe.scale} and {recipe.channels}; prepare a dataset by it"
        )
    unknown = [name for name in recipe.lr_versions if name not in spec.degradations]
    if unknown:
        raise RecipeError(
            f"lr_versions has {unknown[0]!r}, but {dataset.path} has "
            f"{', '.join(spec.degradations)}; take one of these, or prepare a dataset with it"
        )
    if recipe.validation_patches and len(dataset.rows(SPLIT)):
        if min(spec.hr_px) <= 2 * recipe.scale:
            raise RecipeError(
                f"patches of {dataset.path} are {spec.hr_px[0]}x{spec.hr_px[1]} px, of which a "
                f"border of {recipe.scale} is not scored; prepare larger ones"
            )
    elif recipe.schedule == "plateau":
        raise RecipeError(
            "schedule is 'plateau', but nothing is validated by which the rate could fall; prepare "
            "a validation split, or take one of constant, linear, step and cosine"
        )
    if not len(dataset.rows("train")):
        held = sum(len(dataset.rows(name)) for name in HELD_OUT)
        raise SourceError(
            f"{dataset.path} holds no patch to train on: all {held} are held out for validation "
            "and test; prepare more pictures, or hold out fewer by the key split"
            if held
            else f"{dataset.path} holds no patch to train on; prepare it with pictures"
        )


def fit_to_patches(recipe: TrainRecipe, patches: int, *, processes: Processes) -> TrainRecipe:
    """Return the recipe for so many patches; a batch that shrinks is logged."""
    fitted = recipe.of_patches(patches, processes=processes.count)
    if fitted.batch < recipe.batch and processes.leads:
        logger.warning(
            "batch is %d instead of %d: there are %d patches to train on",
            fitted.batch,
            recipe.batch,
            patches,
        )
    return fitted
