"""Degradations: named chains of steps, read from a recipe's table and drawn for each patch.

Here belongs how a chain is read and checked, and which numbers each patch gets. The steps are in
`steps`, their tables in `step_tables`, the chains that come with upres in `presets`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.degradation.presets import PRESETS
from pipeline.degradation.step import (
    NUMBERS,
    all_end_at_target,
    check_known,
    count_all,
    draw_all,
)
from pipeline.degradation.step_tables import read_steps, step_table
from pipeline.errors import RecipeError
from pipeline.tables import require_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.degradation.step import Drawn, Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """A named chain of steps that leads from HR patches to LR patches.

    The name decides what is drawn, as the steps do: two versions of the same steps differ.
    """

    name: str
    steps: tuple[Link, ...]

    def __post_init__(self) -> None:
        _check_name(self.name)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, scale: int) -> Degradation:
        """Return what a recipe's table says: a preset by name, or steps.

        ``{name = "bicubic"}`` is the preset of that name, ``{name = "old", preset = "archive"}``
        one under another name, ``{name = "x", steps = [{op = "blur", sigma = 2}, ...]}`` a chain
        of one's own, whose last size must be the target's: put ``{op = "resize"}`` where the
        reduction belongs. Numbers are fixed, or ``[low, high]`` and drawn for each patch.

        Raises:
            RecipeError: for what is unknown (the message names the nearest right word), a value
                that cannot be, or steps that end at another size.
        """
        if not isinstance(table, dict):
            raise RecipeError(f"degradation is {table!r}, expected a table with a name")
        for key in table:
            check_known(key, ("name", "preset", "steps"), f"degradation has no key {key!r}")
        name = table.get("name")
        if not isinstance(name, str):
            raise RecipeError(f'degradation has name {name!r}, expected text; add name = "..."')
        _check_name(name)
        degradation = cls(name=name, steps=_named(name, _tables(table, name)))
        degradation.check_scale(scale)
        return degradation

    def to_table(self) -> dict[str, Any]:
        """Return the table that `from_table` reads back as an equal value, presets spelled out."""
        return {"name": self.name, "steps": [step_table(step) for step in self.steps]}

    def check_scale(self, scale: int) -> None:
        """Refuse a scale at which the last size may be another than the target's.

        Raises:
            RecipeError: naming the degradation and what to add.
        """
        if scale < 1:
            raise RecipeError(f"scale is {scale}, expected an integer of at least 1")
        if not all_end_at_target(self.steps, before=scale == 1):
            raise RecipeError(
                f"degradation {self.name!r} may end at another size than the LR patch of scale "
                f'{scale}; add {{ op = "resize" }} where the reduction belongs'
            )

    def generators(self, seeds: Iterable[int]) -> list[np.random.Generator]:
        """Return one generator for each patch, which depends on its seed and the name alone."""
        key = tuple(self.name.encode())
        sequences = (np.random.SeedSequence(int(seed), spawn_key=key) for seed in seeds)
        return [np.random.Generator(np.random.PCG64(sequence)) for sequence in sequences]

    def draw(self, generators: Sequence[np.random.Generator]) -> list[Drawn]:
        """Return what each patch draws for each step, options' steps one after another.

        Each generator gives ``NUMBERS`` for every step there is, taken or not, and goes on with
        what the steps themselves need, such as noise.
        """
        shape = (count_all(self.steps), NUMBERS)
        numbers = np.zeros((len(generators), *shape))
        for row, generator in zip(numbers, generators, strict=True):
            generator.random(out=row)
        columns = iter(numbers.swapaxes(0, 1))
        return list(draw_all(self.steps, columns, np.ones(len(generators), dtype=np.bool_)))


def check_seeds(seeds: Sequence[int] | NDArray[np.int64], *, count: int) -> None:
    """Refuse seeds that are not one non-negative integer below 2**63 for each of `count` patches.

    Raises:
        RecipeError: with the value met.
    """
    if len(seeds) != count:
        raise RecipeError(f"there are {len(seeds)} seeds, expected one for each of {count} patches")
    for seed in seeds:
        require_seed(int(seed))


def _check_name(name: str) -> None:
    if not re.fullmatch("[a-z0-9_-]+", name):
        raise RecipeError(
            f"degradation is called {name!r}, expected a word of a-z, 0-9, _ and -; "
            "its array will be called lr_<name>"
        )


def _tables(table: Mapping[str, Any], name: str) -> Any:
    """Return the tables of the steps: the recipe's own, or those of a preset."""
    if "preset" in table and "steps" in table:
        raise RecipeError(f"degradation {name!r} has preset and steps, expected one of them")
    if "steps" in table:
        return table["steps"]
    preset = table.get("preset", name)
    problem = f"degradation {name!r} has no steps, and no preset is called {preset!r}"
    check_known(preset, PRESETS, problem)
    return PRESETS[preset].steps


def _named(name: str, tables: Any) -> tuple[Link, ...]:
    """Return the steps; errors say in which degradation."""
    try:
        return read_steps(tables)
    except RecipeError as error:
        raise RecipeError(f"degradation {name!r}: {error}") from None
