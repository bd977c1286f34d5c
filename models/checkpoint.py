"""Reading and writing models: one safetensors file holds the weights and the `ModelSpec`.

Nothing is ever unpickled.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor, nn

from models import registry
from models.spec import ModelSpec
from models.strength import Strength, between, features_of

if TYPE_CHECKING:
    from collections.abc import Iterable

SPEC_KEY = "upres_model_spec"


class UnknownModelError(ValueError):
    """A name leads to no weights, and is not a file."""


@dataclass(frozen=True, slots=True)
class Model:
    """A network in memory, what is known of it, and the sha256 of the bytes it came from."""

    spec: ModelSpec
    network: nn.Module
    sha256: str


def to_bytes(spec: ModelSpec, weights: dict[str, Tensor]) -> bytes:
    """Return the checkpoint file's content."""
    return save(
        {name: t.detach().contiguous() for name, t in weights.items()},
        # One key only: safetensors writes several in random order, and then no two files of the
        # same training would have the same sha256.
        metadata={SPEC_KEY: spec.to_json()},
    )


def load_file(path: Path) -> Model:
    """Load a checkpoint that upres wrote; the network is in eval mode, on the CPU, in fp32.

    Raises:
        ValueError: if the file is missing, is not a checkpoint of upres, or is damaged.
    """
    try:
        # Read once: a file that a training replaces meanwhile must not mix with its successor.
        content = path.read_bytes()
        weights = load_tensors(content)
        spec_json = _metadata(content).get(SPEC_KEY)
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors checkpoint ({error}); give a file that "
            "`upres train` wrote or a name that `upres models` lists (pickled .pth files are "
            "never opened)"
        ) from error
    if spec_json is None:
        raise ValueError(
            f"{path} carries no {SPEC_KEY} in its header; expected a file that upres wrote"
        )
    try:
        spec = ModelSpec.from_json(spec_json)
        network = registry.build(spec)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its own spec: {error}") from error
    # As the network holds them: a float64 may be finite in the file and infinite in fp32.
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: weights {name} hold NaN or infinity; train it again")
    return Model(spec, network.eval(), hashlib.sha256(content).hexdigest())


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file that was found valid."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    return metadata


def load(name_or_file: str) -> Model:
    """Return the model of a name of `registry.names()`, ``NAME-x2``, or of a checkpoint file.

    A bare baseline name means its first scale in `registry.BASELINE_SCALES`; a name such as
    ``span-x4-archive@0.5`` a strength of two shipped networks.

    Raises:
        UnknownModelError: if there is no such model; the message names the nearest one.
        ValueError: if its file is damaged, or a baseline does not have that scale.
    """
    shipped = registry.shipped()
    if name_or_file in shipped:
        return load_file(shipped[name_or_file])
    if strength := _strength_of(name_or_file):
        return load_strength(strength)
    if baseline := _baseline_of(name_or_file):
        spec = registry.baseline_spec(*baseline)
        sha256 = hashlib.sha256(spec.to_json().encode()).hexdigest()
        return Model(spec, registry.build(spec).eval(), sha256)
    if Path(name_or_file).is_file():
        return load_file(Path(name_or_file))
    raise UnknownModelError(unknown(name_or_file, registry.names()))


def found_from_anywhere(name_or_file: str) -> str:
    """Return what `load` takes in a process that runs in another folder: a file's full path."""
    return name_or_file if is_name(name_or_file) else str(Path(name_or_file).absolute())


def is_name(name_or_file: str) -> bool:
    """Return whether this names a model: then `load` looks for no file of that name."""
    return (
        name_or_file in registry.shipped()
        or _strength_of(name_or_file) is not None
        or _baseline_of(name_or_file) is not None
    )


def _strength_of(name: str) -> Strength | None:
    """Return the strength of two shipped networks that a name means, if it does."""
    strength = Strength.of_name(name)
    if strength is None or not {strength.plain, strength.restoring} <= registry.shipped().keys():
        return None
    return strength


def _baseline_of(name: str) -> tuple[str, int] | None:
    """Return the interpolation that a name means, and its scale, if it does."""
    found = re.fullmatch(r"(.+?)(?:-x([1-9]))?", name)
    if found is None or found[1] not in registry.BASELINES:
        return None
    return found[1], int(found[2] or registry.BASELINE_SCALES[0])


def load_strength(strength: Strength) -> Model:
    """Return the network of a strength of two shipped ones; at its ends it is one of them.

    Its sha256 is of those of the two and the strength: the same on every machine.

    Raises:
        ValueError: if a file is damaged, or the two have no network between them.
    """
    if strength.name in (strength.plain, strength.restoring):
        return load(strength.name)
    plain, restoring = load(strength.plain), load(strength.restoring)
    spec = replace(
        restoring.spec,
        name=strength.name,
        scores={},
        summary=f"{strength.value:g} of the way from {strength.plain} to {strength.restoring}",
    )
    network = registry.build(spec)
    try:
        weights = between(
            plain.network.state_dict(),
            restoring.network.state_dict(),
            strength.value,
            features=(features_of(plain.network), features_of(restoring.network)),
        )
    except ValueError as error:
        raise ValueError(f"{strength.name}: {error}") from error
    network.load_state_dict(weights)
    origin = f"{plain.sha256} {restoring.sha256} {strength.value:g}"
    return Model(spec, network.eval(), hashlib.sha256(origin.encode()).hexdigest())


def unknown(name: str, known: Iterable[str]) -> str:
    """Return the message about a name that is none of those known."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no model is called {name!r} and no such file exists; {hint}`upres models` lists them"
