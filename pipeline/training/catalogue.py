"""What is known of the models: of those that are there, and of those that a recipe trains."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from models import registry
from models.reach import reach_px
from models.spec import ModelSpec
from pipeline.compute.inference import load_model
from pipeline.compute.threads import in_threads
from pipeline.recipes.files import read_recipe
from pipeline.recipes.preparing import load_prepare_recipe
from pipeline.recipes.trainable import names_without_weights, train_command
from pipeline.recipes.training import load_recipe
from pipeline.training.networks import model_spec

SHIPPED, RECIPE, NONE_NEEDED, FILE = "shipped", "recipe", "none needed", "file"
"""Where the weights of a model are: with upres, not there before its recipe has trained them, not
needed, or in a file of the user's."""

_FACES_NOTE = (
    "it is for faces: its weights are never shipped, as the terms of research pictures of faces "
    "do not allow it"
)
_LICENCE = "yours: say it with --set licence=..., within what the licences of the pictures allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """All that is known of one model; what it does not have is ""."""

    spec: ModelSpec
    weights: str
    """Where they are: `SHIPPED`, `RECIPE`, `NONE_NEEDED` or `FILE`."""
    reach_px: int | None
    """In LR pixels; None where every output pixel depends on all of the input."""
    parameters: int
    sha256: str = ""
    """Of the weights."""
    note: str = ""
    train: str = ""
    """The command that trains it."""

    def to_json(self) -> dict[str, Any]:
        """Return the document that `upres models` prints of it."""
        values = asdict(self)
        spec: dict[str, Any] = values.pop("spec")
        return spec | values


def describe_model(name: str) -> ModelEntry:
    """Return all that is known of a model, by its name or file.

    Raises:
        UnknownModelError: if there is no such model.
    """
    return _of_recipe(name) if name in names_without_weights() else _of_weights(name)


def list_models() -> list[ModelEntry]:
    """Return every model: those that are shipped, those to be trained, then the baselines."""
    return [
        *map(_of_weights, registry.shipped()),
        *map(_of_recipe, names_without_weights()),
        *map(_of_weights, registry.baselines()),
    ]


def _of_weights(name: str) -> ModelEntry:
    model = load_model(name)
    return _entry(model.spec, weights=_place_of_weights(name), sha256=model.sha256)


def _place_of_weights(name: str) -> str:
    if name in registry.shipped():
        return SHIPPED
    return NONE_NEEDED if registry.is_interpolation(name) else FILE


def _of_recipe(name: str) -> ModelEntry:
    recipe = load_recipe(name)
    for_faces = "faces" in recipe.summary
    spec = model_spec(recipe, data=_data(name, "faces" if for_faces else "photographs"))
    if "licence" not in read_recipe(name):
        spec = replace(spec, licence=_LICENCE)
    return _entry(
        spec,
        weights=RECIPE,
        note=_FACES_NOTE if for_faces else "",
        train=train_command(name),
    )


def _data(name: str, pictures: str) -> str:
    """Return what a recipe trains on: the user's pictures, and how it prepares them."""
    recipe = load_prepare_recipe(name)
    rows, cols = recipe.patch_px
    lr = ", ".join(recipe.lr_versions)
    return f"{pictures} of yours: HR patches of {rows}x{cols} px ({recipe.extract}), LR by {lr}"


def _entry(spec: ModelSpec, **known: str) -> ModelEntry:
    arguments = json.dumps(spec.arguments, sort_keys=True)
    reach, parameters = _measured(spec.architecture, spec.scale, spec.channels, arguments)
    return ModelEntry(spec=spec, reach_px=reach, parameters=parameters, **known)


@cache
def _measured(
    architecture: str, scale: int, channels: int, arguments: str
) -> tuple[int | None, int]:
    """Return the reach in LR px and the number of parameters of a network, whatever its weights."""
    spec = ModelSpec(
        name=architecture,
        architecture=architecture,
        scale=scale,
        channels=channels,
        arguments=json.loads(arguments),
    )
    network = registry.build(spec)
    parameters = sum(p.numel() for p in network.parameters())
    with in_threads(1):
        return reach_px(network, channels=channels), parameters
