"""How a dataset is prepared: the keys of a recipe's table ``[prepare]``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.constants import PREPARE
from pipeline.degradation.chain import Degradation
from pipeline.errors import RecipeError
from pipeline.recipes.files import COMMON, read_recipe
from pipeline.recipes.training import TrainRecipe
from pipeline.tables import (
    checked,
    pair,
    refuse_unknown,
    require_least,
    require_one_of,
    require_seed,
    toml_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HASH_BLOCKS = (8, 9)
"""Rows and columns of blocks that a perceptual hash compares: patches must hold as many pixels."""

SRGB, STORED = "srgb", "stored"
"""What becomes of colours that are not sRGB: they are converted, or stay as the file has them."""

EXTRACTIONS = ("random", "grid", "whole", "crops")
"""Ways to cut patches: places drawn; a grid; the picture resized; its middle cut up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRecipe:
    """Everything that decides the patches of a dataset, beside the pictures."""

    name: str
    """Name of the recipe."""
    scale: int
    """Factor from LR to HR; 1 for denoising and deblurring."""
    channels: int = 3
    """1 for grey, 3 for RGB; pictures of the other kind are converted."""
    seed: int = 1
    """Seed of everything random."""
    extract: str
    """How patches are cut: `random`, `grid`, `whole` or `crops`."""
    patch_hr_px: int | list[int]
    """Side of an HR patch in pixels, or `[rows, columns]`."""
    count: int = 10
    """`random`: patches per picture."""
    candidates: int = 1
    """`random`: places to draw for each patch; the one with most texture is taken."""
    corner: str = "anywhere"
    """`random`: where top left corners may be: `anywhere`, or `inner-half` of each side."""
    stride_px: int | list[int] = 0
    """`grid`: pixels from one patch to the next; 0 means the size of a patch."""
    crop_px: list[int] = field(default_factory=list)
    """`crops`: rows and columns of each picture's middle, which is cut into patches."""
    fit: str = "stretch"
    """`whole`: `stretch` both sides to the patch, or first `crop` the longer one."""
    least_variance: float = 0.0
    """Patches with a smaller variance of luma (squared levels of 0..255) are left out."""
    least_gradient: float = 0.0
    """Patches with a smaller mean gradient of luma (levels) are left out."""
    duplicate_bits: int = -1
    """Bits of 64 by which perceptual hashes of duplicates may differ; -1 keeps them."""
    degradations: list[dict[str, Any]] = field(default_factory=lambda: [{"name": "bicubic"}])
    """LR versions to compute: each a preset, or a name and `steps`."""
    colour: str = SRGB
    """`srgb` converts pictures that have another ICC profile; `stored` ignores profiles."""
    pairs: list[str] = field(default_factory=list)
    """LR versions that come as files; `--lr` sets it."""
    split: dict[str, Any] = field(default_factory=dict)
    """Pictures of each split: a fraction, a count, a list of globs, or a file of names."""
    group: str = ""
    """Regular expression: pictures for which it finds the same text share a split."""

    NEEDS: ClassVar[tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...]] = (
        (("count", "candidates", "corner"), "extract", ("random",)),
        (("stride_px",), "extract", ("grid",)),
        (("crop_px",), "extract", ("crops",)),
        (("fit",), "extract", ("whole",)),
        (("group",), "split", ()),
    )
    """Keys, and the key with the values that they need to count; no values: any but 0 or empty."""

    def __post_init__(self) -> None:
        for name in ("scale", "count", "candidates"):
            require_least(self, name, 1)
        for name in ("least_variance", "least_gradient"):
            require_least(self, name, 0)
        require_seed(self.seed)
        if not -1 <= self.duplicate_bits <= 16:
            raise RecipeError(
                f"duplicate_bits is {self.duplicate_bits}, expected 0 to 16, or -1 to keep all"
            )
        require_one_of(self, "channels", (1, 3))
        require_one_of(self, "extract", EXTRACTIONS)
        require_one_of(self, "corner", ("anywhere", "inner-half"))
        require_one_of(self, "fit", ("stretch", "crop"))
        require_one_of(self, "colour", (SRGB, STORED))
        self._check_sides()
        for name in self.pairs:
            _check_pair(name)
        names = self.lr_versions
        if not names or len(set(names)) < len(names):
            raise RecipeError(f"LR versions are {names}, expected one or more, each once")

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
    def chains(self) -> tuple[Degradation, ...]:
        """Return the degradations that compute LR versions."""
        return tuple(Degradation.from_table(d, scale=self.scale) for d in self.degradations)

    @property
    def lr_versions(self) -> list[str]:
        """Return the names of all LR versions of each patch, computed ones first."""
        return [*(chain.name for chain in self.chains), *self.pairs]

    def paired(self, names: Iterable[str]) -> PrepareRecipe:
        """Return the recipe whose LR versions `names` come as files; others are computed still."""
        names = list(names)
        own = [table for table in self.degradations if table.get("name") not in names]
        return replace(self, degradations=own, pairs=names)

    def to_json(self) -> dict[str, Any]:
        """Return every value; `from_json` reads it back.

        `colour` is left out where profiles are ignored, as they all were before it was a key.
        """
        values = asdict(self)
        if self.colour == STORED:
            del values["colour"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PrepareRecipe:
        """Read what `to_json` gave.

        Raises:
            RecipeError: if it is of another upres, or damaged.
        """
        return checked(cls, {"colour": STORED, **values}, ())

    def to_toml(self) -> str:
        """Return the recipe as a file that `load_prepare_recipe` reads back unchanged."""
        values = asdict(self)
        common = {name: values.pop(name) for name in COMMON}
        return f"{toml_lines(common)}\n[{PREPARE}]\n{toml_lines(values)}"


def load_prepare_recipe(name_or_file: str, *, settings: Iterable[str] = ()) -> PrepareRecipe:
    """Return how a recipe prepares its dataset: the table ``[prepare]``, and what is common.

    Settings may reach into tables, ``split.test=0.1``, and may say where a recipe has their key,
    ``prepare.count=20``.

    Raises:
        RecipeError: as `load_recipe`, and if the recipe says nothing of preparing.
    """
    values = read_recipe(name_or_file)
    prepare = values.pop(PREPARE, None)
    if not isinstance(prepare, dict):
        raise RecipeError(
            f"recipe {name_or_file} does not say how to prepare a dataset, expected a table "
            f"[{PREPARE}] with extract and patch_hr_px"
        )
    refuse_unknown(values, [f.name for f in fields(TrainRecipe)])
    shared = {name: value for name, value in values.items() if name in COMMON}
    twice = sorted(shared.keys() & prepare.keys())
    if twice:
        raise RecipeError(f"recipe has {twice[0]} twice; leave it out of [{PREPARE}]")
    settings = [setting.removeprefix(f"{PREPARE}.") for setting in settings]
    return checked(PrepareRecipe, {**shared, **prepare}, settings)


def says_colour(name_or_file: str, settings: Iterable[str]) -> bool:
    """Return whether a recipe, or a setting, says what becomes of colours that are not sRGB."""
    keys = {setting.partition("=")[0].removeprefix(f"{PREPARE}.") for setting in settings}
    return "colour" in keys or "colour" in read_recipe(name_or_file).get(PREPARE, {})


def _check_pair(name: Any) -> None:
    """Refuse a name that no degradation could have: it becomes that of an array too."""
    if not isinstance(name, str):
        raise RecipeError(f"pairs has {name!r}, expected names of LR versions")
    Degradation(name=name, steps=())
