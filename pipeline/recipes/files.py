"""Recipes and degradations as files: those that come with upres, and those of the user.

What their keys mean is in `pipeline.recipes.preparing` and `pipeline.recipes.training`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.degradation.chain import Degradation
from pipeline.degradation.presets import PRESETS
from pipeline.errors import RecipeError
from pipeline.storage.store import place_of
from pipeline.tables import nearest, read_toml

if TYPE_CHECKING:
    from pipeline.storage.store import Place

COMMON = ("name", "scale", "channels", "seed")
"""Keys that preparing and training have in common."""

RECIPES_DIR = Path(__file__).parent


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with upres."""
    return sorted(p.stem for p in RECIPES_DIR.glob("*.toml"))


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """Return what a recipe says, by its name or from a file.

    Raises:
        RecipeError: if there is none.
        TomlError: if the file is not TOML.
    """
    path: Place = RECIPES_DIR / f"{name_or_file}.toml"
    if not path.is_file():
        path = place_of(name_or_file)
    if not path.is_file():
        raise RecipeError(
            f"no recipe is called {name_or_file!r} and no such file exists; "
            f"{nearest(name_or_file, recipe_names())}"
        )
    return read_toml(path)


def read_degradation(name_or_file: str, *, scale: int) -> Degradation:
    """Return a degradation by the name of its preset, or from a file that holds its table.

    Raises:
        RecipeError: if there is none, or what the file says cannot be; see `Degradation`.
        TomlError: if the file is not TOML.
    """
    if name_or_file in PRESETS:
        return Degradation.from_table({"name": name_or_file}, scale=scale)
    path = Path(name_or_file)
    if not path.is_file():
        raise RecipeError(
            f"no degradation is called {name_or_file!r} and no such file exists; "
            f"{nearest(name_or_file, sorted(PRESETS))}"
        )
    return Degradation.from_table(read_toml(path), scale=scale)
