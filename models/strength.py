"""Strength: networks between two that share an origin, by interpolating their weights.

``span-x4-archive@0.5`` is halfway from ``span-x4`` to ``span-x4-archive``. What belongs here: which
models make a pair, how one grows to the width of the other, and the weights in between. Source of
interpolating weights: Wang et al., "ESRGAN", 2018 (network interpolation); of growing: Chen et al.,
"Net2Net", 2016.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

RESTORING = "-archive"
"""End of the name of a restoring network; before it is the name of the one it began as."""


@dataclass(frozen=True, slots=True)
class Strength:
    """How far the weights are from a plain network (0) to the restoring one (1)."""

    restoring: str
    """Name of the restoring network."""
    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and 0 <= self.value <= 1):
            raise ValueError(f"strength is {self.value}, expected 0 to 1")

    @property
    def plain(self) -> str:
        """Return the name of the network that the restoring one began as."""
        return self.restoring.removesuffix(RESTORING)

    @property
    def name(self) -> str:
        """Return the name of the network: that of one of the two at the ends of the way."""
        ends = {0.0: self.plain, 1.0: self.restoring}
        return ends.get(self.value) or f"{self.restoring}@{self.value:g}"

    @classmethod
    def of_name(cls, name: str) -> Strength | None:
        """Return what ``NAME-archive@0.5`` asks for; None where a name asks for no strength.

        Raises:
            ValueError: if the strength is not within 0 to 1.
        """
        found = re.fullmatch(rf"(.+{RESTORING})@([0-9.]+(?:e-?[0-9]+)?)", name)
        if found is None:
            return None
        try:
            value = float(found[2])
        except ValueError:
            raise ValueError(f"strength is {found[2]!r}, expected a number from 0 to 1") from None
        return cls(found[1], value)


def of_pair(model: str, value: float, shipped: Iterable[str]) -> Strength:
    """Return the strength `value` of the pair that `model` is one of.

    Raises:
        ValueError: if `model` has no pair among those that are shipped, or `value` is out of range.
    """
    names = set(shipped)
    strength = Strength(model if model.endswith(RESTORING) else model + RESTORING, value)
    if not {strength.plain, strength.restoring} <= names:
        pairs = sorted(n for n in names if n.endswith(RESTORING) and Strength(n, 0).plain in names)
        raise ValueError(
            f"{model} has no strengths: that takes two networks of one origin, and "
            + (f"there are {' and '.join(pairs)}" if pairs else "none of those here are")
        )
    return strength


def features_of(network: nn.Module) -> int:
    """Return how many channels lead from layer to layer; 1 where a network does not say."""
    return int(getattr(network, "features", 1))


def between(
    plain: Mapping[str, Tensor],
    restoring: Mapping[str, Tensor],
    value: float,
    *,
    features: tuple[int, int],
) -> dict[str, Tensor]:
    """Return the weights of a network of the width of `restoring`, `value` of the way to it.

    At 0 it computes what `plain` does (to rounding: sums have more terms, all of them zero), at 1
    its weights are those of `restoring`. `features` is as for `widened`.

    Raises:
        ValueError: if the two are not the same network but for its width.
    """
    start = widened(plain, restoring, features=features)
    if value == 1:
        return {name: end.clone() for name, end in restoring.items()}
    # In float64, so that a machine with fused multiply-add rounds to the same float32.
    return {
        name: torch.lerp(start[name].double(), end.double(), value).to(end.dtype)
        for name, end in restoring.items()
    }


def widened(
    narrow: Mapping[str, Tensor], wide: Mapping[str, Tensor], *, features: tuple[int, int]
) -> dict[str, Tensor]:
    """Return weights of the shapes of `wide` with which it computes what `narrow` computes.

    Features that `narrow` lacks are computed as in `wide`, and nothing that `narrow` has reads
    them. They come after its own; where a layer reads several outputs joined, after those of each.
    `features` says how many channels lead from layer to layer in the narrow and the wide network.

    Raises:
        ValueError: if the two are not the same network but for its width.
    """
    if narrow.keys() != wide.keys():
        raise ValueError("the two networks have different layers, so there is none between them")
    return {name: _grown(name, narrow[name], wide[name], features) for name in wide}


def _grown(name: str, narrow: Tensor, wide: Tensor, features: tuple[int, int]) -> Tensor:
    """Return one weight or bias of `narrow` in the shape of `wide`."""
    if narrow.shape == wide.shape:
        return narrow.clone()
    own, room = features
    fits = narrow.ndim == wide.ndim and narrow.shape[2:] == wide.shape[2:]
    if not fits or any(n > w for n, w in zip(narrow.shape, wide.shape, strict=True)):
        raise ValueError(
            f"{name} is {tuple(narrow.shape)} in one network and {tuple(wide.shape)} in the other, "
            "so there is none between them"
        )
    grown, outputs = wide.clone(), narrow.shape[0]
    if narrow.ndim == 1:
        grown[:outputs] = narrow
        return grown
    grown[:outputs] = 0
    if narrow.shape[1] == wide.shape[1]:
        grown[:outputs] = narrow
    else:
        _spread(narrow, grown[:outputs], own, room)
    return grown


def _spread(inputs: Tensor, into: Tensor, own: int, room: int) -> None:
    """Copy weights so that each `own` of their inputs are the first of `room`."""
    for part in range(inputs.shape[1] // own):
        into[:, part * room : part * room + own] = inputs[:, part * own : (part + 1) * own]
