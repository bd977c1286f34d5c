"""What changes from step to step, and nothing else: a training goes on from it exactly.

Batches depend on their number alone, so weights, averages, optimisers and what a schedule remembers
are all. Nothing is ever unpickled: the state is a safetensors file.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from models import checkpoint, registry
from models.losses import Judgements
from models.spec import ModelSpec
from pipeline.errors import RecipeError, UsageError
from pipeline.training.guard import Guard
from pipeline.training.muon import Muon

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.recipes.training import TrainRecipe
    from pipeline.training.processes import Processes

_ADAM_SHARE = 0.1
"""Adam's rate as a share of Muon's; measured: 0.012 for Muon trains, 0.025 does not."""

_REMEMBERED: dict[type, set[str]] = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    Muon: {"momentum"},
}
"""What each optimiser keeps of a parameter; ``step`` is one number, the others have its shape."""

_DATASET, _LPIPS, _JUDGEMENTS, _GUARD = "dataset", "lpips", "judgements", "guard"
_NUMBERS = ("step", "best", "skipped", "seconds", "waited_s", "fallen", "worse")
_COUNTS = ("step", "skipped", "worse")


@dataclass
class Player:
    """A network with its optimisers. Each parameter group has a `share` of the learning rate."""

    network: nn.Module
    optimisers: list[torch.optim.Optimizer]

    def set_rate(self, rate: float) -> None:
        """Let the next step be taken with a learning rate."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group["share"]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)

    def gradient_norm(self) -> float:
        """Return the norm of all gradients together."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def step(self, clip_norm: float) -> None:
        """Move the weights, by gradients of at most `clip_norm` (0: as they are)."""
        if clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), clip_norm)
        for optimiser in self.optimisers:
            optimiser.step()

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return everything that the next step depends on, by name."""
        found = {f"{prefix}.network.{k}": v for k, v in self.network.state_dict().items()}
        for number, optimiser in enumerate(self.optimisers):
            for parameter, values in optimiser.state_dict()["state"].items():
                names = {f"{prefix}.optimiser.{number}.{parameter}.{k}": k for k in values}
                found |= {name: torch.as_tensor(values[k]) for name, k in names.items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Become what `tensors` told of.

        Raises:
            RuntimeError: if it was of another network.
            ValueError: if its optimisers do not remember each of the parameters, or none.
        """
        self.network.load_state_dict(below(tensors, f"{prefix}.network."))
        for number, optimiser in enumerate(self.optimisers):
            _restore(optimiser, below(tensors, f"{prefix}.optimiser.{number}."))


@dataclass(slots=True)
class Means:
    """Sums of figures over steps, of one process or of all."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    judgements: Judgements = field(default_factory=Judgements)

    def add(self, name: str, value: float) -> None:
        """Count a value, unless it is not finite."""
        counts = math.isfinite(value)
        self.sums[name] += value if counts else 0.0
        self.counts[name] += counts

    def __add__(self, other: Means) -> Means:
        """Return the sums of both."""
        found = Means(judgements=self.judgements + other.judgements)
        for part in (self, other):
            for name, value in part.sums.items():
                found.sums[name] += value
                found.counts[name] += part.counts[name]
        return found

    def of_all(self, processes: Processes) -> Means:
        """Return the sums of all processes, each of which has figures of the same names."""
        if processes.count == 1:
            return self
        tensors = self.tensors()
        flat = torch.cat([tensor.to(torch.float64) for tensor in tensors.values()])
        parts = processes.sum(flat).split([len(tensor) for tensor in tensors.values()])
        found = Means()
        found.restore(dict(zip(tensors, parts, strict=True)))
        return found

    def row(self) -> dict[str, float | None]:
        """Return the means by name."""
        found: dict[str, float | None] = {
            name: value / self.counts[name]
            for name, value in self.sums.items()
            if self.counts[name]
        }
        if "discriminator" in found:
            names = ("accuracy", "precision", "recall", "f1", "specificity")
            found |= {name: getattr(self.judgements, name) for name in names}
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return sums and counts by name."""
        found = {
            name: torch.tensor([value, self.counts[name]], dtype=torch.float64)
            for name, value in self.sums.items()
        }
        return found | {_JUDGEMENTS: torch.tensor(astuple(self.judgements))}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `tensors` told of."""
        for name, values in tensors.items():
            if name == _JUDGEMENTS:
                names = (f.name for f in fields(Judgements))
                counts = map(int, values.tolist())
                self.judgements = Judgements(**dict(zip(names, counts, strict=True)))
            else:
                self.sums[name], count = values.tolist()
                self.counts[name] = int(count)


@dataclass
class TrainState:
    """A training between two steps."""

    generator: Player
    average: nn.Module
    """The generator with weights averaged over the steps: what is validated and kept."""
    discriminator: Player | None
    step: int = 0
    best: float = -math.inf
    """The best validation of this stage; larger is better."""
    skipped: int = 0
    """Steps in a row that were skipped, as their loss or gradient was not finite, or far off."""
    seconds: float = 0.0
    waited_s: float = 0.0
    """Of the seconds, those spent waiting for patches."""
    fallen: float = 1.0
    """What a plateau has left of the learning rate."""
    worse: int = 0
    """Validations since the best one, for a plateau."""
    means: Means = field(default_factory=Means)
    guard: Guard = field(default_factory=Guard)
    dataset: str = ""
    """`Dataset.digest` of what it is trained on."""
    lpips: bool = False
    """Whether LPIPS is measured in its validations."""
    taken: int | None = None
    """How many tensors of the generator began as those of a model; None if none was to."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def begin(
        cls, recipe: TrainRecipe, *, hr_px: tuple[int, int], device: torch.device, dataset: str = ""
    ) -> TrainState:
        """Return step 0: weights drawn with the recipe's seed, or those of a model.

        HR patches have ``(rows, columns)`` of `hr_px`.

        Raises:
            RecipeError: if the recipe names networks or arguments that cannot be, or that do not
                take such patches.
        """
        _check_arguments(recipe)
        torch.manual_seed(recipe.seed)
        try:
            network = _generator(recipe)
            judge = _judge(recipe, max(hr_px))
            taken = _begin_with(network, recipe.initial) if recipe.initial else None
            _try_on_patch(recipe, network, judge, hr_px)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = copy.deepcopy(network).requires_grad_(False).eval()
        player = Player(network, _optimisers(network, recipe))
        state = cls(player, average, None, dataset=dataset, taken=taken, device=device)
        if judge is not None:
            judge.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            state.discriminator = Player(judge, [_adam(judge.parameters(), recipe)])
        return state

    def average_in(self, keep: float) -> None:
        """Take the generator's weights into the average, of which `keep` is kept.

        Of the first steps less is kept, so that the weights that were drawn are soon forgotten.
        """
        keep = min(keep, (self.step + 1) / (self.step + 10))
        now = self.generator.network.state_dict()
        with torch.no_grad():
            for name, mean in self.average.state_dict().items():
                if mean.is_floating_point():
                    mean.lerp_(now[name], 1 - keep)
                else:
                    mean.copy_(now[name])

    def is_finite(self) -> bool:
        """Return whether every weight, average and memory of an optimiser is."""
        return all(
            bool(torch.isfinite(t).all()) for t in self._learned().values() if t.is_floating_point()
        )

    def _learned(self) -> dict[str, Tensor]:
        tensors = self.generator.tensors("generator")
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        if self.discriminator is not None:
            tensors |= self.discriminator.tensors("discriminator")
        return tensors

    def to_bytes(self) -> bytes:
        """Return the state as safetensors."""
        tensors = self._learned()
        tensors |= {f"means.{k}": v for k, v in self.means.tensors().items()}
        numbers = [float(getattr(self, name)) for name in _NUMBERS]
        tensors["numbers"] = torch.tensor(numbers, dtype=torch.float64)
        tensors[_GUARD] = self.guard.to_tensor()
        # Copied: averages begin as the weights, and safetensors refuses what shares memory.
        copied = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        return save(copied, {_DATASET: self.dataset, _LPIPS: str(self.lpips)})

    def restore(self, path: Path) -> None:
        """Become the state that `to_bytes` wrote.

        Raises:
            UsageError: if the file is missing, damaged, or of another network.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                about = file.metadata() or {}
            self.generator.restore(tensors, "generator")
            self.average.load_state_dict(below(tensors, "average."))
            if self.discriminator is not None:
                self.discriminator.restore(tensors, "discriminator")
            self.means.restore(below(tensors, "means."))
            numbers = _numbers(tensors["numbers"])
            # States had none before there were guards.
            self.guard = Guard.of_tensor(tensors[_GUARD]) if _GUARD in tensors else Guard()
            self._check_remembers(numbers["step"])
        except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{path} cannot be resumed ({reason}); resume with the recipe it was trained by, "
                "or train into an empty folder"
            ) from error
        if about.get(_DATASET, "") != self.dataset:
            raise UsageError(
                f"{path} was trained on another dataset, or on this one before it was changed; "
                "resume with that one, or train into an empty folder"
            )
        self.lpips = about.get(_LPIPS) == str(True)
        for name, value in numbers.items():
            setattr(self, name, int(value) if name in _COUNTS else value)

    def _check_remembers(self, step: float) -> None:
        """Raise ValueError if steps were made that the generator's optimisers forgot."""
        if step and not all(optimiser.state for optimiser in self.generator.optimisers):
            raise ValueError(f"the optimiser remembers none of {step:.0f} steps")


def _numbers(tensor: Tensor) -> dict[str, float]:
    if tensor.shape != (len(_NUMBERS),):
        raise ValueError(f"numbers have the shape {tuple(tensor.shape)}")
    found = dict(zip(_NUMBERS, tensor.tolist(), strict=True))
    for name in _COUNTS:
        if not (found[name] >= 0 and float(found[name]).is_integer()):
            raise ValueError(f"{name} is {found[name]}, expected a count")
    return found


def stored_step(path: Path) -> int:
    """Return the step of the state in a file."""
    with safe_open(path, framework="pt") as file:
        return int(_numbers(file.get_tensor("numbers"))["step"])


def model_spec(recipe: TrainRecipe, *, data: str = "") -> ModelSpec:
    """Return the spec of the model that `recipe` trains, on so described data."""
    told = [data] if data else []
    told += [f"{recipe.steps} steps", f"seed {recipe.seed}"]
    if recipe.initial:
        told += [f"from the weights of {Path(recipe.initial).name}"]
    return ModelSpec(
        name=recipe.name,
        architecture=recipe.architecture,
        scale=recipe.scale,
        channels=recipe.channels,
        arguments=recipe.arguments,
        summary=recipe.summary,
        licence=recipe.licence,
        training_data=", ".join(told),
    )


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def _generator(recipe: TrainRecipe) -> nn.Module:
    network = registry.build(model_spec(recipe))
    if not any(True for _ in network.parameters()):
        raise ValueError(f"architecture {recipe.architecture} has no weights to learn")
    return network


def _judge(recipe: TrainRecipe, patch_px: int) -> nn.Module | None:
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
    recipe: TrainRecipe, network: nn.Module, judge: nn.Module | None, hr_px: tuple[int, int]
) -> None:
    """Raise ValueError unless the networks take a patch, which may be black."""
    rows, cols = hr_px
    lr_px = (rows // recipe.scale, cols // recipe.scale)
    named = {"architecture": recipe.architecture, "discriminator": recipe.discriminator}
    for (key, name), tried in zip(named.items(), (network, judge), strict=True):
        if tried is None:
            continue
        size = lr_px if key == "architecture" else hr_px
        training = tried.training
        try:
            tried.eval()(torch.zeros(1, recipe.channels, *size))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{key} {name} does not take HR patches of {rows}x{cols} px as it is set: {error}"
            ) from error
        tried.train(training)


def _check_arguments(recipe: TrainRecipe) -> None:
    for key in ("arguments", "discriminator_arguments"):
        for name, value in getattr(recipe, key).items():
            if type(value) is int and value < 1:
                raise RecipeError(f"{key}.{name} is {value}, expected at least 1")


def _begin_with(network: nn.Module, name_or_file: str) -> int:
    """Take over the tensors of a model that have the same names and shapes; return how many."""
    given = checkpoint.load(name_or_file).network.state_dict()
    own = network.state_dict()
    same = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    # Kernels; a network of another width may share the biases of its last layer.
    if not any(tensor.ndim > 1 for tensor in same.values()):
        raise ValueError(
            f"initial is {name_or_file!r}, none of whose weights fits this network; name a model "
            "of the same architecture and arguments"
        )
    network.load_state_dict(own | same)
    return len(same)


def _optimisers(network: nn.Module, recipe: TrainRecipe) -> list[torch.optim.Optimizer]:
    """Return Adam, or Muon for the kernels inside the network and Adam for the rest.

    The first convolution maps colours, not features, and biases are no matrices: both are
    outside of what Muon is for.
    """
    if recipe.optimiser == "adam":
        return [_adam(network.parameters(), recipe)]
    kernels = [p for p in network.parameters() if p.ndim == 4][1:]
    chosen = {id(p) for p in kernels}
    others = [p for p in network.parameters() if id(p) not in chosen]
    muon = Muon(kernels, lr=1.0)
    muon.param_groups[0]["share"] = 1.0
    return [muon, _adam(others, recipe, share=_ADAM_SHARE)]


def _adam(
    parameters: Iterable[nn.Parameter], recipe: TrainRecipe, *, share: float = 1.0
) -> torch.optim.Optimizer:
    betas = (recipe.betas[0], recipe.betas[1])
    adam = torch.optim.Adam(list(parameters), lr=1.0, betas=betas)
    adam.param_groups[0]["share"] = share
    return adam


def _restore(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser its memory back; ValueError if it is not that of its parameters."""
    states: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.partition(".")
        states.setdefault(int(parameter), {})[key] = tensor
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    # One that has made no step yet remembers nothing.
    if states and sorted(states) != list(range(len(parameters))):
        raise ValueError(f"the optimiser has {len(states)} of {len(parameters)} parameters")
    wanted = _REMEMBERED[type(optimiser)]
    for number, state in states.items():
        shapes = {tuple(t.shape) for key, t in state.items() if key != "step"}
        if set(state) != wanted or shapes != {tuple(parameters[number].shape)}:
            raise ValueError(f"the optimiser remembers {', '.join(sorted(state))} of {number}")
    content = optimiser.state_dict()
    optimiser.load_state_dict({"state": states, "param_groups": content["param_groups"]})
