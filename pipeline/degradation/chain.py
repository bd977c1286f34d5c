"""Degradations: named chains of steps, read from a recipe's table and drawn for each patch.

Here belongs how a chain is read and checked, and which numbers each patch gets. The steps are in
`steps`, the chains that come with upres in `presets`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.degradation.presets import PRESETS
from pipeline.degradation.steps import NUMBERS, STEPS, Choice, Option, Resize, Uniform, check_known
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.degradation.steps import Flags, Floats, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What n patches drew for one step: whether it happens to each, and with which values."""

    step: Step
    hit: Flags
    values: dict[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """A named chain of steps that leads from HR patches to LR patches.

    The name decides what is drawn, as the steps do: two versions of the same steps differ.
    """

    name: str
    steps: tuple[Step, ...]

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
        return {"name": self.name, "steps": [_table(step) for step in self.steps]}

    def check_scale(self, scale: int) -> None:
        """Refuse a scale at which the last size may be another than the target's.

        Raises:
            RecipeError: naming the degradation and what to add.
        """
        if scale < 1:
            raise RecipeError(f"scale is {scale}, expected an integer of at least 1")
        if not _ends_at_target(self.steps, start=scale == 1):
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
        shape = (_count(self.steps), NUMBERS)
        numbers = np.zeros((len(generators), *shape))
        for row, generator in zip(numbers, generators, strict=True):
            generator.random(out=row)
        columns = iter(numbers.swapaxes(0, 1))
        return list(_draw(self.steps, columns, np.ones(len(generators), dtype=np.bool_)))


def check_seeds(seeds: Sequence[int] | NDArray[np.int64], *, count: int) -> None:
    """Refuse seeds that are not one non-negative integer below 2**63 for each of `count` patches.

    Raises:
        RecipeError: with the value met.
    """
    if len(seeds) != count:
        raise RecipeError(f"there are {len(seeds)} seeds, expected one for each of {count} patches")
    wrong = [int(seed) for seed in seeds if not 0 <= int(seed) < 2**63]
    if wrong:
        raise RecipeError(f"seed is {wrong[0]}, expected 0 or more and less than 2**63")


def _draw(steps: Sequence[Step], columns: Iterator[Floats], reached: Flags) -> Iterator[Drawn]:
    for step in steps:
        numbers = next(columns)
        hit = reached & (numbers[:, 0] < step.chance)
        if isinstance(step, Choice):
            picked = step.pick(numbers)
            for place, option in enumerate(step.options):
                yield from _draw(option.steps, columns, hit & (picked == place))
        else:
            yield Drawn(step=step, hit=hit, values=step.draw(numbers))


def _count(steps: Sequence[Step]) -> int:
    """Return how many steps there are, with those of all options."""
    inner = [o.steps for step in steps if isinstance(step, Choice) for o in step.options]
    return len(steps) + sum(map(_count, inner))


def _ends_at_target(steps: Sequence[Step], *, start: bool) -> bool:
    """Return whether the size after the steps is the target's, whatever is drawn."""
    there = start
    for step in steps:
        if step.chance == 0:
            continue
        after = there
        if isinstance(step, Choice):
            after = all(_ends_at_target(o.steps, start=there) for o in step.options)
        elif isinstance(step, Resize):
            after = step.factor == Uniform(1, 1) and (there or step.of == "target")
        there = after and (there or step.chance == 1)
    return there


# Tables


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


def _named(name: str, tables: Any) -> tuple[Step, ...]:
    """Return the steps; errors say in which degradation."""
    try:
        return _steps(tables)
    except RecipeError as error:
        raise RecipeError(f"degradation {name!r}: {error}") from None


def _steps(tables: Any) -> tuple[Step, ...]:
    return tuple(_step(table) for table in _listed(tables, "steps"))


def _step(table: Any) -> Step:
    if not isinstance(table, dict) or not isinstance(table.get("op"), str):
        raise RecipeError(f"step is {table!r}, expected a table with op, one of {', '.join(STEPS)}")
    op = table["op"]
    check_known(op, STEPS, f"no op is called {op!r}")
    types = {f.name: str(f.type) for f in fields(STEPS[op])}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key != "op":
            check_known(key, types, f"{op} has no key {key!r}")
            values[key] = _READERS[types[key]](value, f"{op}: {key}")
    required = {"sigma", "length", "cutoff", "scale", "quality", "options"} & types.keys()
    if missing := sorted(required - values.keys()):
        raise RecipeError(f"{op} lacks {', '.join(missing)}")
    return STEPS[op](**values)


def _option(table: Any) -> Option:
    if not isinstance(table, dict) or "steps" not in table:
        raise RecipeError(f"option is {table!r}, expected a table with steps, and maybe weight")
    for key in table:
        check_known(key, ("weight", "steps"), f"option has no key {key!r}")
    weight = _number(table.get("weight", 1.0), "choice: weight")
    return Option(weight=weight, steps=_steps(table["steps"]))


def _number(value: Any, where: str) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError as error:
        raise RecipeError(f"{where} is larger than any number of 64 bits") from error
    raise RecipeError(f"{where} is {value!r}, expected a number")


def _uniform(value: Any, where: str) -> Uniform:
    if not isinstance(value, list | tuple):
        return Uniform(_number(value, where), _number(value, where))
    if len(value) != 2:
        raise RecipeError(f"{where} is {value!r}, expected a number or [low, high]")
    low, high = (_number(end, where) for end in value)
    if low > high:
        raise RecipeError(f"{where} is {value!r}, expected [low, high]; swap the two")
    return Uniform(low, high)


def _word(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RecipeError(f"{where} is {value!r}, expected text")
    return value


def _words(value: Any, where: str) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else _listed(value, where)
    if not words:
        raise RecipeError(f"{where} is empty, expected at least one")
    return tuple(_word(word, where) for word in words)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise RecipeError(f"{where} is {value!r}, expected true or false")
    return value


def _options(value: Any, where: str) -> tuple[Option, ...]:
    return tuple(_option(table) for table in _listed(value, where))


def _listed(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{where} is {value!r}, expected a list")
    return value


_READERS = {
    "Uniform": _uniform,
    "Uniform | None": _uniform,
    "float": _number,
    "str": _word,
    "tuple[str, ...]": _words,
    "bool": _flag,
    "tuple[Option, ...]": _options,
}
"""Annotation of a field to what reads its value."""


def _table(step: Step) -> dict[str, Any]:
    values = {f.name: _plain(getattr(step, f.name)) for f in fields(step)}
    return {"op": step.op} | {key: value for key, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    """Return a field's value as TOML knows it."""
    if isinstance(value, Uniform):
        return value.low if value.is_fixed else [value.low, value.high]
    if isinstance(value, Option):
        return {"weight": value.weight, "steps": [_table(step) for step in value.steps]}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
