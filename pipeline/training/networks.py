"""The networks of a recipe: built with its seed, begun with a model's weights, tried on a patch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models import checkpoint, registry
from models.blocks import folded
from models.spec import ModelSpec
from models.strength import features_of, widened
from pipeline.compute.inference import load_model
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn

    from pipeline.degradation.levels import Size
    from pipeline.recipes.training import TrainRecipe


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of a training before its first step."""

    generator: nn.Module
    discriminator: nn.Module | None
    initialised: int | None
    """How many tensors of the generator are those of a model; None if none were to be."""


def build_networks(recipe: TrainRecipe, *, hr_px: Size) -> Networks:
    """Return networks whose weights are drawn with the recipe's seed, or those of a model.

    HR patches have ``(rows, columns)`` of `hr_px`.

    Raises:
        RecipeError: if the recipe names networks, arguments or weights that cannot be, or networks
            that do not take such patches.
    """
    _check_arguments(recipe)
    torch.manual_seed(recipe.seed)
    try:
        generator = _generator(recipe)
        discriminator = _discriminator(recipe, max(hr_px))
        initialised = _initialise(generator, recipe) if recipe.initial else None
        _try_on_patch(recipe, generator, discriminator, hr_px)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return Networks(generator, discriminator, initialised)


def model_spec(recipe: TrainRecipe, *, data: str = "") -> ModelSpec:
    """Return the spec of the model that `recipe` trains, on so described data."""
    history = [data] if data else []
    history += [f"{recipe.steps} steps", f"seed {recipe.seed}"]
    if recipe.initial:
        history += [f"from the weights of {Path(recipe.initial).name}"]
    return ModelSpec(
        name=recipe.name,
        architecture=recipe.architecture,
        scale=recipe.scale,
        channels=recipe.channels,
        arguments=recipe.arguments,
        summary=recipe.summary,
        licence=recipe.licence,
        training_data=", ".join(history),
    )


def load_teacher(recipe: TrainRecipe, device: torch.device) -> nn.Module | None:
    """Return the network whose output is learned, None where HR is.

    Raises:
        UnknownModelError: if there is no such model.
        RecipeError: if it enlarges otherwise than what is trained.
    """
    if not recipe.teacher:
        return None
    model = load_model(recipe.teacher)
    if (model.spec.scale, model.spec.channels) != (recipe.scale, recipe.channels):
        raise RecipeError(
            f"teacher {recipe.teacher} has scale {model.spec.scale} and {model.spec.channels} "
            f"channels, and recipe {recipe.name} scale {recipe.scale} and {recipe.channels}; name "
            "another one, or leave teacher out"
        )
    network = folded(model.network).requires_grad_(False)
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _generator(recipe: TrainRecipe) -> nn.Module:
    network = registry.build(model_spec(recipe))
    if not any(True for _ in network.parameters()):
        raise ValueError(f"architecture {recipe.architecture} has no weights to learn")
    return network


def _discriminator(recipe: TrainRecipe, patch_px: int) -> nn.Module | None:
    if not recipe.discriminator:
        return None
    builder = registry.DISCRIMINATORS.get(recipe.discriminator)
    if builder is None:
        raise ValueError(
            f"discriminator is {recipe.discriminator!r}, expected one of "
            f"{sorted(registry.DISCRIMINATORS)}"
        )
    try:
        return builder(
            channels=recipe.channels, patch_px=patch_px, **recipe.discriminator_arguments
        )
    except (TypeError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(
            f"discriminator {recipe.discriminator} refuses {recipe.discriminator_arguments}: "
            f"{error}"
        ) from error


@torch.no_grad()
def _try_on_patch(
    recipe: TrainRecipe, generator: nn.Module, discriminator: nn.Module | None, hr_px: Size
) -> None:
    """Raise ValueError unless the networks take a patch, which may be black."""
    rows, cols = hr_px
    lr_px = (rows // recipe.scale, cols // recipe.scale)
    for key, network, size in (
        ("architecture", generator, lr_px),
        ("discriminator", discriminator, hr_px),
    ):
        if network is None:
            continue
        training = network.training
        try:
            network.eval()(torch.zeros(1, recipe.channels, *size))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{key} {getattr(recipe, key)} does not take HR patches of {rows}x{cols} px as it "
                f"is set: {error}"
            ) from error
        network.train(training)


def _check_arguments(recipe: TrainRecipe) -> None:
    for key in ("arguments", "discriminator_arguments"):
        for name, value in getattr(recipe, key).items():
            if type(value) is int and value < 1:
                raise RecipeError(f"{key}.{name} is {value}, expected at least 1")


def _initialise(network: nn.Module, recipe: TrainRecipe) -> int:
    """Take over the weights of the recipe's initial model; return how many tensors got them.

    A narrower network of the same kind is widened, so that the training begins with what it
    computes. Of any other, the tensors that have the same names and shapes are taken.
    """
    model = checkpoint.load(recipe.initial)
    others, own = model.network.state_dict(), network.state_dict()
    features = features_of(model.network), features_of(network)
    if _is_alike(model.spec, recipe) and features[0] < features[1]:
        network.load_state_dict(widened(others, own, features=features))
        return len(own)
    same = {k: v for k, v in others.items() if k in own and own[k].shape == v.shape}
    # Kernels; a network of another width may share the biases of its last layer.
    if not any(tensor.ndim > 1 for tensor in same.values()):
        raise ValueError(
            f"initial is {recipe.initial!r}, none of whose weights fits this network; name a model "
            "of the same architecture that is not wider"
        )
    network.load_state_dict(own | same)
    return len(same)


def _is_alike(spec: ModelSpec, recipe: TrainRecipe) -> bool:
    """Return whether a model and the network of a recipe differ in their width at most."""
    asked = recipe.architecture, recipe.scale, recipe.channels
    return (spec.architecture, spec.scale, spec.channels) == asked
