"""A network with what moves its weights: Adam, or Muon and Adam; and what these remember."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.training.muon import Muon

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.recipes.training import TrainRecipe

_ADAM_SHARE = 0.1
"""Adam's rate as a share of Muon's; measured: 0.012 for Muon trains, 0.025 does not."""

_REMEMBERED: dict[type, set[str]] = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    Muon: {"momentum"},
}
"""What each optimiser keeps of a parameter; ``step`` is one number, the others have its shape."""


@dataclass
class Learner:
    """A network with its optimisers. Each parameter group has a `share` of the learning rate."""

    network: nn.Module
    optimisers: list[torch.optim.Optimizer]

    @classmethod
    def of_generator(cls, network: nn.Module, recipe: TrainRecipe) -> Learner:
        """Return a generator with the optimisers that the recipe names."""
        return cls(network, _optimisers(network, recipe))

    @classmethod
    def of_discriminator(cls, network: nn.Module, recipe: TrainRecipe) -> Learner:
        """Return a discriminator with Adam."""
        return cls(network, [_adam(network.parameters(), recipe)])

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

    @property
    def remembers(self) -> bool:
        """Return whether every optimiser has made a step before."""
        return all(bool(optimiser.state) for optimiser in self.optimisers)

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return everything that the next step depends on, by name."""
        tensors = {f"{prefix}.network.{k}": v for k, v in self.network.state_dict().items()}
        for number, optimiser in enumerate(self.optimisers):
            for parameter, values in optimiser.state_dict()["state"].items():
                names = {f"{prefix}.optimiser.{number}.{parameter}.{k}": k for k in values}
                tensors |= {name: torch.as_tensor(values[k]) for name, k in names.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Become what `tensors` returned.

        Raises:
            RuntimeError: if it was of another network.
            ValueError: if its optimisers do not remember each of the parameters, or none.
        """
        self.network.load_state_dict(below(tensors, f"{prefix}.network."))
        for number, optimiser in enumerate(self.optimisers):
            _restore(optimiser, below(tensors, f"{prefix}.optimiser.{number}."))


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def _optimisers(network: nn.Module, recipe: TrainRecipe) -> list[torch.optim.Optimizer]:
    """Return Adam, or Muon for the kernels inside the network and Adam for the rest.

    The first convolution maps colours, not features, and biases are not matrices: both are
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
    remembered = _REMEMBERED[type(optimiser)]
    for number, state in states.items():
        shapes = {tuple(t.shape) for key, t in state.items() if key != "step"}
        if set(state) != remembered or shapes != {tuple(parameters[number].shape)}:
            raise ValueError(f"the optimiser remembers {', '.join(sorted(state))} of {number}")
    content = optimiser.state_dict()
    optimiser.load_state_dict({"state": states, "param_groups": content["param_groups"]})
