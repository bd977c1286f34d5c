"""Steps as a recipe's tables: read, checked by key and type, and written back.

Here belongs what holds for every step. What its keys mean stands in the step's own file.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from pipeline.degradation.step import Uniform, check_known
from pipeline.degradation.steps import STEPS
from pipeline.degradation.steps.choice import Option
from pipeline.errors import RecipeError
from pipeline.tables import as_float

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.degradation.step import Link


def read_steps(tables: Any) -> tuple[Link, ...]:
    """Return the steps that a list of tables describes.

    Raises:
        RecipeError: for what is unknown (the message names the nearest right word), missing, or a
            value that cannot be.
    """
    return tuple(_step(table) for table in _listed(tables, "steps"))


def step_table(step: Link) -> dict[str, Any]:
    """Return the table that `read_steps` reads back as an equal step."""
    values = {f.name: _plain(getattr(step, f.name)) for f in fields(step)}
    return {"op": step.op} | {key: value for key, value in values.items() if value is not None}


def _step(table: Any) -> Link:
    if not isinstance(table, dict) or not isinstance(table.get("op"), str):
        raise RecipeError(f"step is {table!r}, expected a table with op, one of {', '.join(STEPS)}")
    op = table["op"]
    check_known(op, STEPS, f"no op is called {op!r}")
    types = {f.name: str(f.type) for f in fields(STEPS[op])}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key != "op":
            check_known(key, types, f"{op} has no key {key!r}")
            values[key] = READERS[types[key]](value, f"{op}: {key}")
    required = {f.name for f in fields(STEPS[op]) if f.default is MISSING}
    if missing := sorted(required - values.keys()):
        raise RecipeError(f"{op} lacks {', '.join(missing)}")
    return STEPS[op](**values)


def _option(table: Any) -> Option:
    if not isinstance(table, dict) or "steps" not in table:
        raise RecipeError(f"option is {table!r}, expected a table with steps, and maybe weight")
    for key in table:
        check_known(key, ("weight", "steps"), f"option has no key {key!r}")
    weight = _number(table.get("weight", 1.0), "choice: weight")
    return Option(weight=weight, steps=read_steps(table["steps"]))


def _number(value: Any, where: str) -> float:
    if not isinstance(value, bool) and isinstance(value, int | float):
        number = as_float(value, where)
        if math.isfinite(number):
            return number
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


READERS = {
    "Uniform": _uniform,
    "Uniform | None": _uniform,
    "float": _number,
    "str": _word,
    "tuple[str, ...]": _words,
    "bool": _flag,
    "tuple[Option, ...]": _options,
}
"""What the field of a step may be annotated with, and what reads its value."""


def _plain(value: Any) -> Any:
    """Return a field's value as TOML knows it."""
    if isinstance(value, Uniform):
        return value.plain
    if isinstance(value, Option):
        return {"weight": value.weight, "steps": [step_table(step) for step in value.steps]}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
