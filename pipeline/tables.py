"""Tables of named values, as TOML has them: checked by key and by type, and written back.

Here belongs what holds for every such table. What the keys mean stands with those that use them,
and which files there are in `pipeline.recipes.files`.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
import tomllib
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline.errors import RecipeError, TomlError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_IN_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a table",
}

Recipe = TypeVar("Recipe")


class TextFile(Protocol):
    """A file, wherever it is."""

    def read_text(self, encoding: str) -> str:
        """Return its content."""


def read_toml(path: TextFile) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        TomlError: if it is not one.
        OSError: if it cannot be read.
    """
    try:
        # Editors of Windows begin a file with a byte-order mark, which TOML does not know.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError: no TOML, no UTF-8, or 5,000 digits.
        raise TomlError(f"{path} is not a TOML file: {error}") from error


def checked(kind: type[Recipe], given: Mapping[str, Any], settings: Iterable[str]) -> Recipe:
    """Return a `kind` of dataclass from the values of a recipe, with settings put over them.

    Raises:
        RecipeError: for a key that it does not have, one that is missing, or another type; for
            settings that contradict each other, or one that changes nothing as others are.
    """
    settings = list(settings)
    _check_once(settings)
    known = fields(kind)  # type: ignore[arg-type]
    types = {f.name: str(f.type) for f in known}
    values = copy.deepcopy(dict(given))
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign:
            raise RecipeError(f"setting is {setting!r}, expected KEY=VALUE")
        _put(values, name.split("."), _value(text, types.get(name, "")), types)
    refuse_unknown(values, types)
    values = {name: _typed(name, value, types[name]) for name, value in values.items()}
    needed = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise RecipeError(f"recipe lacks {', '.join(missing)}")
    made = kind(**values)
    refuse_idle(made, {setting.partition("=")[0].split(".")[0] for setting in settings})
    return made


def _check_once(settings: Sequence[str]) -> None:
    """Refuse a key that is set to two values, and a table that would drop a key of it set before.

    Raises:
        RecipeError: with both settings.
    """
    before: dict[str, str] = {}
    for setting in settings:
        name = setting.partition("=")[0]
        other = before.get(name, setting)
        inside = next((s for n, s in before.items() if n.startswith(f"{name}.")), None)
        if other != setting or inside is not None:
            raise RecipeError(f"{inside or other} and {setting} are both set, expected one of them")
        before[name] = setting


def idle_keys(recipe: Any) -> dict[str, str]:
    """Return the keys of a recipe that change nothing as others are set, each with the reason."""
    found: dict[str, str] = {}
    for keys, by, values in recipe.NEEDS:
        value = getattr(recipe, by)
        if value not in values if values else not value:
            wanted = " or ".join(map(str, values)) or "one"
            found |= dict.fromkeys(keys, f"{by} is {toml_value(value)}, not {wanted}")
    return found


def refuse_idle(recipe: Any, names: Iterable[str]) -> None:
    """Raise RecipeError for the first of `names` that was set, and changes nothing."""
    idle = idle_keys(recipe)
    for name in sorted(set(names) & idle.keys()):
        raise RecipeError(f"{name} is set, but has no effect: {idle[name]}; leave it out")


def idle_values(recipe: Any) -> list[str]:
    """Return a line for each value of a recipe, other than the default, that changes nothing."""
    idle = idle_keys(recipe)
    defaults = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(recipe)
    }
    return [
        f"{name} = {toml_value(getattr(recipe, name))} of recipe {recipe.name} has no effect: "
        f"{reason}"
        for name, reason in idle.items()
        if getattr(recipe, name) != defaults[name]
    ]


def _put(values: dict[str, Any], path: list[str], value: Any, types: Mapping[str, str]) -> None:
    """Put a value under a key, or (``split.test``) under a key of one of its tables."""
    *tables, last = path
    if tables:
        refuse_unknown(tables[:1], types)
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise RecipeError(f"{'.'.join(path)} is set, but {table} is not a table")
    values[last] = value


def refuse_unknown(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise RecipeError for the first of `names` that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise RecipeError(f"recipe has no key {name!r}; {nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the hint that ends a message about an unknown name."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _value(text: str, wanted: str) -> Any:
    """Read the right side of KEY=VALUE as TOML, or as plain text where that is wanted or found."""
    try:
        values = tomllib.loads(f"x = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError) as error:  # 5,000 digits, or brackets in brackets.
        raise RecipeError(f"setting {text[:40]}... cannot be read ({error})") from error
    # A second key would come from a line break in the text.
    plain = len(values) > 1 or (wanted == "str" and not isinstance(values["x"], str))
    return text if plain else values["x"]


def as_float(value: float, name: str) -> float:
    """Return a number of TOML, whose integers may have any size; `name` is where it is."""
    try:
        return float(value)
    except OverflowError as error:
        raise RecipeError(f"{name} is larger than any number of 64 bits") from error


def _typed(name: str, value: Any, wanted: str) -> Any:
    if wanted == "float" and type(value) is int:
        return as_float(value, name)
    if isinstance(value, str) and not value.isprintable() and not is_utf8(value):
        raise RecipeError(f"{name} holds bytes that are not UTF-8, expected text")
    kinds = [kind.split("[")[0] for kind in wanted.split(" | ")]
    if type(value).__name__ not in kinds:
        words = " or ".join(_IN_WORDS[kind] for kind in kinds)
        raise RecipeError(f"{name} is {toml_value(value)}, expected {words}")
    return value


def is_utf8(text: str) -> bool:
    """Return whether a text can be written down: the command line may hold any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def toml_lines(values: Mapping[str, Any]) -> str:
    """Return values as the lines of a TOML file that is read back unchanged."""
    return "".join(f"{name} = {toml_value(value)}\n" for name, value in values.items())


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str):
        # JSON's escapes are TOML's too; but TOML wants DEL escaped, which JSON leaves.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else toml_value(name)


def pair(name: str, value: int | list[int], *, least: int = 1) -> tuple[int, int]:
    """Return (rows, columns) of one number or two.

    Raises:
        RecipeError: if it is neither, or less than `least`.
    """
    sides = [value, value] if isinstance(value, int) else value
    if len(sides) != 2 or any(type(side) is not int or side < least for side in sides):
        raise RecipeError(f"{name} is {value!r}, expected one or two numbers of at least {least}")
    return sides[0], sides[1]


def require_least(recipe: Any, name: str, least: float) -> None:
    """Raise RecipeError unless a value is finite and at least so large."""
    value = getattr(recipe, name)
    if not least <= value < math.inf:
        raise RecipeError(f"{name} is {value}, expected at least {least}")


def require_seed(seed: int) -> None:
    """Raise RecipeError unless a seed fits into 64 bits with a sign, and is not negative."""
    if not 0 <= seed < 2**63:
        raise RecipeError(f"seed is {seed}, expected 0 or more and less than 2**63")


def require_one_of(recipe: Any, name: str, known: Sequence[Any]) -> None:
    """Raise RecipeError unless a value is one of those known."""
    value = getattr(recipe, name)
    if value not in known:
        raise RecipeError(f"{name} is {value!r}, expected one of {', '.join(map(str, known))}")
