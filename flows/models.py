"""What `upres models` tells: of models that are there, and of those that a recipe trains."""

from __future__ import annotations

import json
import re
import textwrap
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from flows.terminal.printing import visible
from models import registry
from models.reach import reach_px
from models.spec import ModelSpec
from pipeline.compute.inference import load_model
from pipeline.recipes.files import read_recipe
from pipeline.recipes.preparing import load_prepare_recipe
from pipeline.recipes.trainable import train_command, untrained
from pipeline.recipes.training import load_recipe
from pipeline.training.networks import model_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = (
    "name", "weights", "scale", "reach", "params", "licence", "data", "Set14", "LPIPS",
    "what it is",
)  # fmt: skip
_WIDTHS = (21, 9, 6, 6, 10, 11, 16, 7, 7, 27)
"""Characters of each column; what does not fit into the last goes on in its next line."""

SHIPPED, RECIPE, NONE_NEEDED, FILE = "shipped", "recipe", "none needed", "file"
"""Where the weights of a model are: with upres, not there before its recipe has trained them, not
needed, or in a file of the user's."""

_SHORT = {SHIPPED: "shipped", RECIPE: "train it", NONE_NEEDED: "-"}

_FACES_NOTE = (
    "it is for faces: its weights are never shipped, as the terms of research pictures of faces "
    "do not allow it"
)
_LEGEND = """
reach: LR px around its own place that an output pixel depends on. Set14: PSNR-Y in dB, and LPIPS.
train it: no weights are shipped; `upres models NAME` tells the command that trains them. Those for
faces are never shipped, as the terms of research pictures of faces do not allow it."""

_LICENCE = "yours: say it with --set licence=..., within what the licences of the pictures allow"


def describe(name: str) -> dict[str, Any]:
    """Return all that is known of one model; what it does not have is "" or empty.

    Raises:
        UnknownModelError: if there is no such model.
    """
    return _of_recipe(name) if name in untrained() else _of_weights(name)


def table() -> tuple[list[dict[str, Any]], str]:
    """Return every model, and the same as lines of text."""
    found = [_of_weights(name) for name in registry.shipped()]
    found += [_of_recipe(name) for name in untrained()]
    found += [_of_weights(name) for name in registry.baselines()]
    rows = [_row(_HEADER), *(_row(_cells(values)) for values in found)]
    return found, "\n".join([*rows, _LEGEND])


def sheet(values: dict[str, Any]) -> str:
    """Return all that is known of one model as lines of text."""
    return "\n".join(f"{key:14} {_told(v)}" for key, v in values.items() if v not in ("", {}))


def _told(value: Any) -> str:
    """Return a value, or the values of a table, as words."""
    if not isinstance(value, dict):
        return visible(str(value))
    if all(isinstance(v, dict) for v in value.values()):
        return "; ".join(f"{visible(key)}: {_told(v)}" for key, v in value.items())
    return visible(", ".join(f"{key} {v}" for key, v in value.items()))


def _of_weights(name: str) -> dict[str, Any]:
    model = load_model(name)
    return {**_of_spec(model.spec, _weights(name)), "sha256": model.sha256}


def _weights(name: str) -> str:
    if name in registry.shipped():
        return SHIPPED
    return NONE_NEEDED if registry.is_interpolation(name) else FILE


def _of_recipe(name: str) -> dict[str, Any]:
    recipe = load_recipe(name)
    for_faces = "faces" in recipe.summary
    spec = asdict(model_spec(recipe, data=_data(name, "faces" if for_faces else "photographs")))
    if "licence" not in read_recipe(name):
        spec["licence"] = _LICENCE
    return {
        **_of_spec(ModelSpec(**spec), RECIPE),
        "note": _FACES_NOTE if for_faces else "",
        "train": train_command(name),
    }


def _data(name: str, pictures: str) -> str:
    """Return what a recipe trains on: the user's pictures, and how it prepares them."""
    recipe = load_prepare_recipe(name)
    rows, cols = recipe.patch_px
    lr = ", ".join(recipe.lr_versions)
    return f"{pictures} of yours: HR patches of {rows}x{cols} px ({recipe.extract}), LR by {lr}"


def _of_spec(spec: ModelSpec, weights: str) -> dict[str, Any]:
    arguments = json.dumps(spec.arguments, sort_keys=True)
    reach, parameters = _measured(spec.architecture, spec.scale, spec.channels, arguments)
    return {
        **asdict(spec),
        "weights": weights,
        "reach_px": reach,
        "parameters": parameters,
        "sha256": "",
        "note": "",
        "train": "",
    }


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
    with _one_thread():
        return reach_px(network, channels=channels), parameters


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on one core: threads wait on each other for longer than probes take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cells(values: dict[str, Any]) -> tuple[str, ...]:
    scores = values["scores"].get("Set14", {})
    reach = values["reach_px"]
    return (
        values["name"],
        _SHORT[values["weights"]],
        f"x{values['scale']}",
        "all" if reach is None else str(reach),
        f"{values['parameters']:,}",
        _head(values["licence"]),
        _head(values["training_data"]),
        _figure(scores.get("psnr_y"), 3),
        _figure(scores.get("lpips"), 4),
        values["summary"],
    )


def _head(text: str) -> str:
    """Return the first words of a text, which name the thing; the rest says more of it."""
    return re.split(r" of yours| \(|[:;,] ", text)[0]


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _row(cells: tuple[str, ...]) -> str:
    first, *more = textwrap.wrap(cells[-1], _WIDTHS[-1]) or [""]
    line = "".join(f"{c + ' ':{w}}" for c, w in zip((*cells[:-1], first), _WIDTHS, strict=True))
    return "\n".join([line.rstrip(), *(" " * sum(_WIDTHS[:-1]) + rest for rest in more)])
