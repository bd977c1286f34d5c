"""Muon: momentum whose update is made orthogonal, for the kernels of convolutions.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the match
to Adam's update size follows Liu et al., "Muon is scalable for LLM training", 2025.
`torch.optim.Muon` takes matrices only; a kernel ``(out, in, k, k)`` is one of ``out`` rows here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

# Quintic Newton-Schulz coefficients of the source: five rounds bring every singular value of the
# update to about one.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_ADAM_SIZE = 0.2


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, then an orthogonal update, for parameters of two or more axes."""

    def __init__(self, parameters: Iterable[Tensor], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(
                        parameter, parameter.grad, lr=group["lr"], momentum=group["momentum"]
                    )

    def _move(self, parameter: Tensor, gradient: Tensor, *, lr: float, momentum: float) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer = state["momentum"]
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum)
        matrix = update.reshape(update.shape[0], -1)
        size = _ADAM_SIZE * max(matrix.shape) ** 0.5
        parameter.add_(orthogonal(matrix).reshape(parameter.shape), alpha=-lr * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return the nearest matrix whose singular values are all about one (0.7 to 1.2)."""
    a, b, c = _COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.T if tall else x
    return result
