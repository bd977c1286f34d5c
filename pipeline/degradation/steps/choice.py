"""One of several ways to go on, drawn for each patch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.degradation.step import Link, all_end_at_target, count_all, draw_all
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.degradation.levels import Flags, Floats
    from pipeline.degradation.step import Drawn


@dataclass(frozen=True, kw_only=True)
class Option:
    """Steps that a `Choice` may take, `weight` times as often as those of weight 1."""

    steps: tuple[Link, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise RecipeError(f"choice: weight is {self.weight}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Choice(Link):
    """Take the steps of one of the options; an option without steps leaves the patch as it is."""

    op: ClassVar[str] = "choice"

    options: tuple[Option, ...]
    """Tables with `steps`, of which one is taken, and `weight` (1): how often, relatively."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.options:
            raise RecipeError("choice: options is empty, expected at least one")

    def pick(self, numbers: Floats) -> NDArray[np.intp]:
        """Return which option each patch takes."""
        weights = np.array([option.weight for option in self.options])
        ends = np.cumsum(weights)[:-1] / weights.sum()
        return np.searchsorted(ends, numbers[:, 1], side="right")

    def draws(self, columns: Iterator[Floats], reached: Flags) -> Iterator[Drawn]:
        """Yield what each patch draws for the steps of all options, taken or not."""
        numbers = next(columns)
        hit = reached & (numbers[:, 0] < self.chance)
        picked = self.pick(numbers)
        for place, option in enumerate(self.options):
            yield from draw_all(option.steps, columns, hit & (picked == place))

    @property
    def step_count(self) -> int:
        """Return how many steps it is, with those of all options."""
        return 1 + sum(count_all(option.steps) for option in self.options)

    def ends_at_target(self, *, before: bool) -> bool:
        """Return whether every option ends at the LR patch's size."""
        return all(all_end_at_target(option.steps, before=before) for option in self.options)
