"""Recipes: named files that fix dataset and training of one system, checked key by key."""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.degradation.chain import Degradation
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PREPARE = "prepare"
"""Name of the table of a recipe that says how its dataset is prepared."""

EXTRACTIONS = ("random", "grid", "whole", "crops")
"""Ways to cut patches: places drawn; a grid; the picture resized; its middle cut up."""

_COMMON = ("name", "scale", "channels", "seed")
"""Keys that preparing and training have in common."""

HASH_BLOCKS = (8, 9)
"""Rows and columns of blocks that a perceptual hash compares: patches must hold as many pixels."""

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
        return _lines(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRecipe:
    """Everything that decides the patches of a dataset, beside the pictures."""

    name: str
    scale: int
    channels: int = 3
    """1 for grey, 3 for RGB; pictures of the other kind are converted."""
    seed: int = 1
    extract: str
    """How patches are cut: one of `EXTRACTIONS`."""
    patch_hr_px: int | list[int]
    """Side of an HR patch, or its rows and columns."""
    count: int = 10
    """random: patches a picture."""
    candidates: int = 1
    """random: of so many places drawn, the most textured one becomes the patch."""
    corner: str = "anywhere"
    """random: where the top left corner may lie: anywhere, or in the inner-half of each side."""
    stride_px: int | list[int] = 0
    """grid: from one patch to the next; 0 stands for the patch's own size."""
    crop_px: list[int] = field(default_factory=list)
    """crops: rows and columns of the middle of each picture, which is cut into patches."""
    fit: str = "stretch"
    """whole: how a picture becomes a patch: stretch both sides, or crop the longer one first."""
    least_variance: float = 0.0
    """Patches with a smaller variance of luma (in squared levels of 0..255) are left out."""
    least_gradient: float = 0.0
    """Patches with a smaller mean gradient of luma (in levels) are left out."""
    duplicate_bits: int = -1
    """Patches whose perceptual hash (64 bits) is so near to an earlier one's are left out."""
    degradations: list[dict[str, Any]] = field(default_factory=lambda: [{"name": "bicubic"}])
    """The LR versions of each patch that are computed from it."""
    pairs: list[str] = field(default_factory=list)
    """Names of the LR versions that come as files beside the HR ones."""
    split: dict[str, Any] = field(default_factory=dict)
    """Of pictures: fractions, counts, lists of globs, or files of names, by split."""

    def __post_init__(self) -> None:
        for name in ("scale", "count", "candidates"):
            _require_least(self, name, 1)
        for name in ("seed", "least_variance", "least_gradient"):
            _require_least(self, name, 0)
        if self.seed >= 2**63:
            raise RecipeError(f"seed is {self.seed}, expected less than 2**63")
        if not -1 <= self.duplicate_bits <= 16:
            raise RecipeError(
                f"duplicate_bits is {self.duplicate_bits}, expected 0 to 16, or -1 to keep all"
            )
        _require_one_of(self, "channels", (1, 3))
        _require_one_of(self, "extract", EXTRACTIONS)
        _require_one_of(self, "corner", ("anywhere", "inner-half"))
        _require_one_of(self, "fit", ("stretch", "crop"))
        self._check_sides()
        for name in self.pairs:
            _check_pair(name)
        names = self.lr_names
        if not names or len(set(names)) < len(names):
            raise RecipeError(f"LR versions are {list(names)}, expected one or more, each once")

    def _check_sides(self) -> None:
        rows, cols = self.patch_px
        if rows % self.scale or cols % self.scale:
            raise RecipeError(
                f"patch_hr_px is {rows}x{cols}, expected multiples of the scale {self.scale}"
            )
        if self.duplicate_bits >= 0 and (rows < HASH_BLOCKS[0] or cols < HASH_BLOCKS[1]):
            raise RecipeError(
                f"patch_hr_px is {rows}x{cols}, expected at least {HASH_BLOCKS[0]}x"
                f"{HASH_BLOCKS[1]} to tell duplicates; take larger patches, or duplicate_bits = -1"
            )
        stride = self.stride
        if self.pairs and self.extract == "whole":
            raise RecipeError(
                "extract is 'whole', which LR files cannot follow; cut patches instead"
            )
        if self.pairs and (stride[0] % self.scale or stride[1] % self.scale):
            raise RecipeError(
                f"stride_px is {self.stride_px}, expected multiples of the scale {self.scale}, as "
                "LR files are cut too"
            )
        if self.extract != "crops":
            return
        crop = pair("crop_px", self.crop_px or 0)
        if crop[0] % rows or crop[1] % cols:
            raise RecipeError(
                f"crop_px is {crop[0]}x{crop[1]}, expected multiples of patch_hr_px {rows}x{cols}"
            )

    @property
    def patch_px(self) -> tuple[int, int]:
        """Return rows and columns of an HR patch."""
        return pair("patch_hr_px", self.patch_hr_px)

    @property
    def stride(self) -> tuple[int, int]:
        """Return rows and columns from one patch of the grid to the next."""
        rows, cols = pair("stride_px", self.stride_px, least=0)
        return rows or self.patch_px[0], cols or self.patch_px[1]

    @property
    def crop(self) -> tuple[int, int]:
        """Return rows and columns of the middle that is cut into patches."""
        return pair("crop_px", self.crop_px)

    @property
    def lr_versions(self) -> tuple[Degradation, ...]:
        """Return the degradations that make them."""
        return tuple(Degradation.from_table(d, scale=self.scale) for d in self.degradations)

    @property
    def lr_names(self) -> tuple[str, ...]:
        """Return the names of all LR versions of each patch."""
        return (*(degradation.name for degradation in self.lr_versions), *self.pairs)

    def paired(self, names: Iterable[str]) -> PrepareRecipe:
        """Return the recipe whose LR versions `names` come as files; others are computed still."""
        names = list(names)
        own = [table for table in self.degradations if table.get("name") not in names]
        return replace(self, degradations=own, pairs=names)

    def to_json(self) -> dict[str, Any]:
        """Return every value; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PrepareRecipe:
        """Read what `to_json` gave.

        Raises:
            RecipeError: if it is of another upres, or damaged.
        """
        return _checked(cls, values, ())

    def to_toml(self) -> str:
        """Return the recipe as a file that `load_prepare_recipe` reads back unchanged."""
        values = asdict(self)
        common = {name: values.pop(name) for name in _COMMON}
        return f"{_lines(common)}\n[{PREPARE}]\n{_lines(values)}"


Recipe = TypeVar("Recipe", TrainRecipe, PrepareRecipe)


def pair(name: str, value: int | list[int], *, least: int = 1) -> tuple[int, int]:
    """Return (rows, columns) of one number or two.

    Raises:
        RecipeError: if it is neither, or less than `least`.
    """
    sides = [value, value] if isinstance(value, int) else value
    if len(sides) != 2 or any(type(side) is not int or side < least for side in sides):
        raise RecipeError(f"{name} is {value!r}, expected one or two numbers of at least {least}")
    return sides[0], sides[1]


def _check_pair(name: Any) -> None:
    """Refuse a name that no degradation could have: it becomes that of an array too."""
    if not isinstance(name, str):
        raise RecipeError(f"pairs has {name!r}, expected names of LR versions")
    Degradation(name=name, steps=())


def _require_least(recipe: Any, name: str, least: int) -> None:
    value = getattr(recipe, name)
    if not least <= value < math.inf:
        raise RecipeError(f"{name} is {value}, expected at least {least}")


def _require_one_of(recipe: Any, name: str, known: Sequence[Any]) -> None:
    value = getattr(recipe, name)
    if value not in known:
        raise RecipeError(f"{name} is {value!r}, expected one of {', '.join(map(str, known))}")


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with upres."""
    return sorted(p.stem for p in RECIPES_DIR.glob("*.toml"))


def load_recipe(name_or_file: str, *, settings: Iterable[str] = ()) -> TrainRecipe:
    """Return a recipe by name or file, with ``KEY=VALUE`` settings put over its values.

    Raises:
        RecipeError: for an unknown recipe or key (the message names the nearest right one), or a
            value that cannot be.
    """
    values = _read(name_or_file)
    settings = list(settings)
    named = {setting.partition("=")[0] for setting in settings} | values.keys()
    if PREPARE in values and "architecture" not in named:
        raise RecipeError(
            f"recipe {name_or_file} only says how to prepare a dataset, expected architecture and "
            "what else training takes; use it with `upres prepare`, or name another recipe"
        )
    values.pop(PREPARE, None)
    return _checked(TrainRecipe, values, settings)


def load_prepare_recipe(name_or_file: str, *, settings: Iterable[str] = ()) -> PrepareRecipe:
    """Return how a recipe prepares its dataset: the table ``[prepare]``, and what is common.

    Settings may reach into tables: ``split.test=0.1``.

    Raises:
        RecipeError: as `load_recipe`, and if the recipe says nothing of preparing.
    """
    values = _read(name_or_file)
    prepare = values.pop(PREPARE, None)
    if not isinstance(prepare, dict):
        raise RecipeError(
            f"recipe {name_or_file} does not say how to prepare a dataset, expected a table "
            f"[{PREPARE}] with extract and patch_hr_px"
        )
    _refuse_unknown(values, [f.name for f in fields(TrainRecipe)])
    shared = {name: value for name, value in values.items() if name in _COMMON}
    twice = sorted(shared.keys() & prepare.keys())
    if twice:
        raise RecipeError(f"recipe has {twice[0]} twice; leave it out of [{PREPARE}]")
    return _checked(PrepareRecipe, {**shared, **prepare}, settings)


def with_steps(recipe: TrainRecipe, steps: int) -> TrainRecipe:
    """Return the recipe with another length."""
    return replace(recipe, steps=steps)


def _read(name_or_file: str) -> dict[str, Any]:
    path = RECIPES_DIR / f"{name_or_file}.toml"
    if not path.is_file():
        path = Path(name_or_file)
    if not path.is_file():
        raise RecipeError(
            f"no recipe is called {name_or_file!r} and no such file exists; "
            f"recipes are {', '.join(recipe_names())}"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no TOML file: {error}") from error


def _checked(kind: type[Recipe], given: Mapping[str, Any], settings: Iterable[str]) -> Recipe:
    types = {f.name: str(f.type) for f in fields(kind)}
    values = copy.deepcopy(dict(given))
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign:
            raise RecipeError(f"setting is {setting!r}, expected KEY=VALUE")
        _put(values, name.split("."), _value(text, types.get(name, "")), types)
    _refuse_unknown(values, types)
    values = {name: _typed(name, value, types[name]) for name, value in values.items()}
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise RecipeError(f"recipe lacks {', '.join(missing)}")
    return kind(**values)


def _put(values: dict[str, Any], path: list[str], value: Any, types: Mapping[str, str]) -> None:
    """Put a value under a key, or (``split.test``) under a key of one of its tables."""
    *tables, last = path
    if tables:
        _refuse_unknown(tables[:1], types)
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise RecipeError(f"{'.'.join(path)} is set, but {table} is no table")
    values[last] = value


def _refuse_unknown(names: Iterable[str], known: Iterable[str]) -> None:
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
    # A second key would come from a line break in the text.
    plain = len(values) > 1 or (wanted == "str" and not isinstance(values["x"], str))
    return text if plain else values["x"]


def _typed(name: str, value: Any, wanted: str) -> Any:
    if wanted == "float" and type(value) is int:
        return float(value)
    found = type(value).__name__
    if found not in [kind.split("[")[0] for kind in wanted.split(" | ")]:
        raise RecipeError(f"{name} is {value!r} ({found}), expected {wanted}")
    return value


def _lines(values: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


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
