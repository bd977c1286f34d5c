"""Recipes: named files that fix the training of one system, checked key by key."""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RECIPES_DIR = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """Everything that decides the weights that training ends with, beside the pictures."""

    name: str
    architecture: str
    scale: int
    channels: int = 3
    arguments: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    licence: str = "unknown: say it in the recipe, or with --set licence=..."
    """Of the weights; whoever trains decides, within what the pictures' licences allow."""
    patch_hr_px: int = 96
    batch: int = 64
    candidates: int = 4
    steps: int = 24_000
    warmup_steps: int = 100
    decay_share: float = 0.4
    learning_rate: float = 5e-3
    ema: float = 0.999
    seed: int = 1
    precision: str = "fp32"
    compile: bool = False
    validation_pictures: int = 8
    validate_every: int = 1_000
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in (
            "scale",
            "channels",
            "batch",
            "candidates",
            "steps",
            "validate_every",
            "checkpoint_every",
            "patch_hr_px",
        ):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("warmup_steps", "validation_pictures", "seed"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected at least 0")
        for name in ("decay_share", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if self.seed >= 2**63:
            raise RecipeError(f"seed is {self.seed}, expected less than 2**63")
        if not 0 < self.learning_rate < math.inf:
            raise RecipeError(f"learning_rate is {self.learning_rate}, expected more than 0")
        if self.precision not in ("fp32", "bf16"):
            raise RecipeError(f"precision is {self.precision!r}, expected 'fp32' or 'bf16'")
        if self.patch_hr_px % self.scale:
            raise RecipeError(
                f"patch_hr_px is {self.patch_hr_px}, expected a multiple of the scale {self.scale}"
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of `step`: linear warm-up, constant, linear fall to zero."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (self.steps - step) / max(1.0, self.steps * self.decay_share)
        return self.learning_rate * warm * min(1.0, left)

    def to_toml(self) -> str:
        """Return the recipe as a file that `load_recipe` reads back unchanged."""
        return "".join(f"{name} = {_toml(value)}\n" for name, value in asdict(self).items())


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with upres."""
    return sorted(p.stem for p in RECIPES_DIR.glob("*.toml"))


def load_recipe(name_or_file: str, *, settings: Iterable[str] = ()) -> TrainRecipe:
    """Return a recipe by name or file, with ``KEY=VALUE`` settings put over its values.

    Raises:
        RecipeError: for an unknown recipe or key (the message names the nearest right one), or a
            value that cannot be.
    """
    path = RECIPES_DIR / f"{name_or_file}.toml"
    if not path.is_file():
        path = Path(name_or_file)
    if not path.is_file():
        raise RecipeError(
            f"no recipe is called {name_or_file!r} and no such file exists; "
            f"recipes are {', '.join(recipe_names())}"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no TOML file: {error}") from error
    return _checked(values, settings)


def with_steps(recipe: TrainRecipe, steps: int) -> TrainRecipe:
    """Return the recipe with another length."""
    return replace(recipe, steps=steps)


def _checked(values: Mapping[str, Any], settings: Iterable[str]) -> TrainRecipe:
    types = {f.name: f.type for f in fields(TrainRecipe)}
    values = dict(values)
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign:
            raise RecipeError(f"setting is {setting!r}, expected KEY=VALUE")
        values[name] = _value(text, str(types.get(name, "")))
    for name, value in values.items():
        if name not in types:
            near = difflib.get_close_matches(name, types, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(types)}"
            raise RecipeError(f"recipe has no key {name!r}; {hint}")
        values[name] = _typed(name, value, str(types[name]))
    missing = [n for n in ("name", "architecture", "scale") if n not in values]
    if missing:
        raise RecipeError(f"recipe lacks {', '.join(missing)}")
    return TrainRecipe(**values)


def _value(text: str, wanted: str) -> Any:
    """Read the right side of KEY=VALUE as TOML, or as plain text where that is wanted or found."""
    try:
        values = tomllib.loads(f"x = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A second key would come from a line break in the text.
    plain = len(values) > 1 or (wanted == "str" and not isinstance(values["x"], str))
    return text if plain else values["x"]


def _typed(name: str, value: Any, wanted: str) -> Any:
    if wanted == "float" and type(value) is int:
        return float(value)
    found = type(value).__name__
    if found != wanted.split("[")[0]:
        raise RecipeError(f"{name} is {value!r} ({found}), expected {wanted}")
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        # JSON's escapes are TOML's too; but TOML wants DEL escaped, which JSON leaves.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _toml(name)
