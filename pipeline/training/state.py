"""What changes from step to step, and nothing else: a training goes on from it exactly.

Batches depend on their number alone, so weights, averages, optimisers and what a schedule remembers
are all. Nothing is ever unpickled: the state is a safetensors file.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.errors import StoreError, UsageError
from pipeline.storage.store import local_copy
from pipeline.training.guard import Guard
from pipeline.training.means import Means
from pipeline.training.networks import build_networks
from pipeline.training.optimisers import Learner, below

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.degradation.levels import Size
    from pipeline.recipes.training import TrainRecipe
    from pipeline.storage.store import Place

_DATASET, _LPIPS, _GUARD = "dataset", "lpips", "guard"
_NUMBERS = ("step", "best", "skipped", "seconds", "waited_s", "fallen", "worse")
_COUNTS = ("step", "skipped", "worse")


@dataclass
class TrainState:
    """A training between two steps."""

    generator: Learner
    average: nn.Module
    """The generator with weights averaged over the steps: what is validated and kept."""
    discriminator: Learner | None
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
    initialised: int | None = None
    """How many tensors of the generator began as those of a model; None if none was to."""

    @classmethod
    def begin(
        cls, recipe: TrainRecipe, *, hr_px: Size, device: torch.device, dataset: str = ""
    ) -> TrainState:
        """Return step 0, for HR patches of ``(rows, columns)``.

        Raises:
            RecipeError: as `build_networks`.
        """
        networks = build_networks(recipe, hr_px=hr_px)
        generator, discriminator = networks.generator, networks.discriminator
        generator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = copy.deepcopy(generator).requires_grad_(False).eval()
        state = cls(
            Learner.of_generator(generator, recipe),
            average,
            None,
            dataset=dataset,
            initialised=networks.initialised,
        )
        if discriminator is not None:
            discriminator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            state.discriminator = Learner.of_discriminator(discriminator, recipe)
        return state

    @property
    def generators(self) -> tuple[nn.Module, nn.Module]:
        """Return the network that learns, and the averaged one."""
        return self.generator.network, self.average

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

    def restore(self, path: Place) -> None:
        """Become the state that `to_bytes` wrote.

        Raises:
            UsageError: if the file is missing, damaged, or of another network.
            StoreError: if it cannot be read from its store.
        """
        try:
            with local_copy(path) as here, safe_open(here, framework="pt") as file:
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
        except StoreError:
            raise
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
        if step and not self.generator.remembers:
            raise ValueError(f"the optimiser remembers none of {step:.0f} steps")


def _numbers(tensor: Tensor) -> dict[str, float]:
    if tensor.shape != (len(_NUMBERS),):
        raise ValueError(f"numbers have the shape {tuple(tensor.shape)}")
    numbers = dict(zip(_NUMBERS, tensor.tolist(), strict=True))
    for name in _COUNTS:
        if not (numbers[name] >= 0 and float(numbers[name]).is_integer()):
            raise ValueError(f"{name} is {numbers[name]}, expected a count")
    return numbers


def stored_step(path: Place) -> int:
    """Return the step of the state in a file."""
    with local_copy(path) as here, safe_open(here, framework="pt") as file:
        return int(_numbers(file.get_tensor("numbers"))["step"])


def stored_seconds(path: Place) -> tuple[float, float]:
    """Return how long the steps to the state in a file took, and how long of that they waited."""
    with local_copy(path) as here, safe_open(here, framework="pt") as file:
        numbers = _numbers(file.get_tensor("numbers"))
    return numbers["seconds"], numbers["waited_s"]
