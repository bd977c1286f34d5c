"""The tables of the recipe reference, generated from the code that reads the recipes.

``python -m pipeline.recipes.reference docs/recipes.md`` replaces what stands in a document between
``<!-- table: NAME -->`` and ``<!-- end of table -->`` by the table of that name.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import registry
from pipeline.degradation.presets import PRESETS
from pipeline.degradation.step import Link, Uniform, range_of, words_of
from pipeline.degradation.steps import STEPS
from pipeline.recipes.files import RECIPES_DIR, recipe_names
from pipeline.recipes.preparing import PrepareRecipe
from pipeline.recipes.training import TrainRecipe
from pipeline.tables import toml_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from dataclasses import Field

_TYPES = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "int | list[int]": "whole number or pair",
    "list[int]": "pair of whole numbers",
    "list[float]": "list of numbers",
    "list[str]": "list of text",
    "list[dict[str, Any]]": "list of tables",
    "dict[str, Any]": "table",
    "dict[str, float]": "table of numbers",
    "Uniform": "range",
    "Uniform | None": "range",
    "tuple[str, ...]": "text or list of text",
    "tuple[Option, ...]": "list of tables",
}
"""Annotation of a field to what a reader of the documents calls it."""

_LONGEST_DEFAULT = 24
_MARKED = re.compile(r"(<!-- table: ([a-z]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a recipe, as a row of a table has it; all in Markdown."""

    name: str
    type: str
    default: str
    meaning: str


def keys_of(kind: type) -> list[Key]:
    """Return the keys of a recipe, or of a step of a degradation, in their order.

    Raises:
        ValueError: for a field without a docstring.
    """
    meanings = attribute_docs(kind)
    if missing := [f.name for f in fields(kind) if f.name not in meanings]:
        raise ValueError(f"{kind.__name__} has no docstring for {', '.join(missing)}")
    return [
        Key(f"`{f.name}`", _type(f), _default(f), _markdown(meanings[f.name].split("\n\n")[0]))
        for f in fields(kind)
    ]


def attribute_docs(kind: type) -> dict[str, str]:
    """Return the docstring below each annotated attribute of a class and those it inherits from."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__ == "abc":
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for attribute, below in pairwise(statements):
            if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        docs[attribute.target.id] = inspect.cleandoc(text)
    return docs


def refreshed(text: str) -> str:
    """Return a document with every table between its marks generated again.

    Raises:
        ValueError: for a table that does not exist.
    """

    def generated(match: re.Match[str]) -> str:
        mark, name, end = match.groups()
        if name not in TABLES:
            raise ValueError(f"no table is called {name!r}, expected one of {', '.join(TABLES)}")
        return f"{mark}\n{TABLES[name]()}\n\n{end}"

    return _MARKED.sub(generated, text)


def _prepare() -> str:
    return _keys_table(keys_of(PrepareRecipe))


def _train() -> str:
    return _keys_table(keys_of(TrainRecipe))


def _steps() -> str:
    """Return a section for each step; `chance`, which all have, stands before them."""
    (chance,) = keys_of(Link)
    first = (
        f"Every step also takes {chance.name} ({chance.type}; default {chance.default}): "
        f"{chance.meaning[0].lower()}{chance.meaning[1:]}"
    )
    return "\n\n".join([first, *map(_step, STEPS.values())])


def _step(kind: type[Link]) -> str:
    keys = [key for key in keys_of(kind) if key.name != "`chance`"]
    text = textwrap.fill(_markdown(inspect.cleandoc(kind.__doc__ or "")), 100)
    return f"### `{kind.op}`\n\n{text}\n\n{_keys_table(keys)}"


def _presets() -> str:
    rows = ((f"`{name}`", _sentence(preset.summary)) for name, preset in PRESETS.items())
    return _table(("preset", "what it does"), rows)


def _recipes() -> str:
    rows = ((f"`{name}`", _first_comment(name)) for name in recipe_names())
    return _table(("recipe", "what it is for"), rows)


def _networks() -> str:
    return _builders("architecture", registry.BUILDERS, without=registry.BASELINES)


def _discriminators() -> str:
    return _builders("discriminator", registry.DISCRIMINATORS, without=())


TABLES: dict[str, Callable[[], str]] = {
    "recipes": _recipes,
    "prepare": _prepare,
    "presets": _presets,
    "steps": _steps,
    "train": _train,
    "networks": _networks,
    "discriminators": _discriminators,
}
"""Name of a table to what generates it."""


def _keys_table(keys: Iterable[Key]) -> str:
    rows = ((key.name, key.type, key.default, key.meaning) for key in keys)
    return _table(("key", "type", "default", "meaning"), rows)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    cells = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _builders(
    title: str, builders: dict[str, Callable[..., Any]], *, without: Iterable[str]
) -> str:
    """Return a table of networks and the arguments that a recipe may give them."""
    rows = []
    for name in [name for name in builders if name not in set(without)]:
        parameters = inspect.signature(builders[name]).parameters.values()
        arguments = [
            f"`{p.name} = {toml_value(p.default)}`"
            for p in parameters
            if p.name not in {"scale", "channels", "patch_px"}
        ]
        rows.append((f"`{name}`", ", ".join(arguments) or "none"))
    return _table((title, "arguments and their defaults"), rows)


def _type(part: Field[Any]) -> str:
    words, limits = words_of(part), range_of(part)
    if words is not None:
        several = " or a list" if "tuple" in str(part.type) else ""
        return ", ".join(f"`{word}`" for word in words) + several
    name = _TYPES[str(part.type)]
    return name if limits is None else f"{name}, {limits}"


def _default(part: Field[Any]) -> str:
    value = part.default
    if part.default_factory is not MISSING:
        value = part.default_factory()
    if value is MISSING:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, Uniform):
        value = value.plain
    text = toml_value(list(value) if isinstance(value, tuple) else value)
    if len(text) > _LONGEST_DEFAULT:
        text = f"{text[: _LONGEST_DEFAULT - 4].rstrip()}..."
    return f"`{text.replace('{  }', '{}')}`"


def _markdown(text: str) -> str:
    """Return a docstring as Markdown on one line, fit for a table."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _first_comment(recipe: str) -> str:
    """Return the first sentence of the comment that a recipe's file begins with."""
    lines = []
    for line in (RECIPES_DIR / f"{recipe}.toml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return f"{re.split(r'(?<=[^0-9])[.] ', ' '.join(lines))[0].rstrip('.')}."


def main(paths: Iterable[str]) -> None:
    """Generate the tables of documents again, in place."""
    for path in map(Path, paths):
        path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or ["docs/recipes.md"])
