"""What is to be trained from what, and how: all that a user can ask of training, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path  # noqa: TC003 - flows make their forms of the annotations.
from typing import TYPE_CHECKING, Any

from pipeline.constants import MEMORIES, PREPARE
from pipeline.dataset.request import PrepareRequest
from pipeline.errors import RecipeError, TomlError, UsageError
from pipeline.request_fields import needed, optional, same_as
from pipeline.storage.store import BucketPlace, Place, check_stores, place_of
from pipeline.training.folder import RECIPE, check_folder, check_own_files, files_of_steps

if TYPE_CHECKING:
    from pipeline.recipes.preparing import PrepareRecipe
    from pipeline.recipes.training import TrainRecipe

PATCHES = "patches"
"""Where below the output the dataset is that pictures were prepared into."""

_PREPARING = f"{PREPARE}."
_SHARED = ("scale", "channels")
"""Settings that say how pictures are prepared, too."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A training, as it is asked for; nothing is read before its methods are called.

    A request that contradicts itself cannot be built; what contradicts the disk, `check` refuses.
    """

    src: str = needed(
        "A dataset, or pictures that are prepared into one first: a path, or s3://BUCKET/PREFIX."
    )
    out_dir: Place = needed(  # noqa: RUF009 - it is a field.
        "Result folder, or s3://BUCKET/PREFIX for a DATASET."
    )
    recipe: str | None = optional(
        None, "What to train, and how.  [default with --resume: as it was begun]"
    )
    settings: tuple[str, ...] = same_as(PrepareRequest, "settings")
    """``KEY=VALUE``, put over the recipe's values; ``prepare.KEY=VALUE`` over its table's."""
    features: tuple[Path, ...] = optional(
        (),
        "Features of VGG19, VGG16 or AlexNet for losses and LPIPS: safetensors files, or "
        "torchvision's own, which it may have to download.",
    )
    device: str = optional("auto", "Training device.")
    readers: int = optional(1, "Processes that read patches which do not fit into memory.")
    memory: str = optional(
        "auto", "Where patches are kept; auto is the fastest place that holds them."
    )
    resume: bool = optional(
        False, "Continue exactly where the training in the result folder stopped."
    )

    def __post_init__(self) -> None:
        if self.readers < 0:
            raise UsageError(
                f"--readers is {self.readers}, expected at least 0; leave it out for 1"
            )
        if self.memory not in MEMORIES:
            from pipeline.tables import nearest

            raise UsageError(f"--memory is {self.memory!r}; {nearest(self.memory, MEMORIES)}")

    @property
    def own_settings(self) -> list[str]:
        """Return what is set of the training itself."""
        return [s for s in self.settings if not s.startswith(_PREPARING)]

    @property
    def prepare_settings(self) -> list[str]:
        """Return what is set of how patches are cut and degraded."""
        return [
            setting.removeprefix(_PREPARING)
            for setting in self.settings
            if setting.startswith(_PREPARING) or setting.partition("=")[0].strip() in _SHARED
        ]

    @property
    def takes_dataset(self) -> bool:
        """Return whether the source is a dataset, so that nothing is prepared."""
        from pipeline.storage.dataset import is_dataset

        return is_dataset(place_of(self.src))

    @property
    def begins_after_all(self) -> bool:
        """Return whether what is to go on made no step yet, so that it begins.

        A training that was killed while its pictures were prepared has nothing to go on with.
        """
        left = any((self.out_dir / name).exists() for name in (PATCHES, RECIPE))
        stepped = bool(files_of_steps(self.out_dir))
        return self.resume and self.recipe is not None and left and not stepped

    @property
    def hr_px(self) -> tuple[int, int]:
        """Return rows and columns of the HR patches that a new training learns from."""
        from pipeline.storage.dataset import Dataset

        if self.takes_dataset:
            return Dataset.open(place_of(self.src)).spec.hr_px
        return self._prepare_recipe().patch_px

    def preparing(self) -> PrepareRequest:
        """Return what prepares the pictures into the dataset that is trained on."""
        return PrepareRequest(
            src=self.src,
            dataset_dir=self.out_dir / PATCHES,
            recipe=self.recipe,
            settings=tuple(self.prepare_settings),
        )

    def check(self) -> None:
        """Refuse what contradicts itself or the folder, before anything is written.

        Raises:
            UsageError: if it does.
            StoreError: if the source or the folder is in a bucket that cannot be used.
        """
        from pipeline.sources.overlap import check_outside_source
        from pipeline.storage.dataset import is_dataset

        check_stores(self.src, self.out_dir)
        for place in (self.out_dir, *self.out_dir.resolve().parents):
            if is_dataset(place):
                raise UsageError(f"{place} is a dataset; name another folder with --out")
        preparing = [s for s in self.settings if s.startswith(_PREPARING)]
        if self.takes_dataset:
            if preparing:
                raise UsageError(
                    f"--set {preparing[0]} is for pictures, and {self.src} is a dataset that "
                    "was prepared already; leave it out, or name the pictures"
                )
        elif isinstance(self.out_dir, BucketPlace):
            raise UsageError(
                f"{self.out_dir} is in a bucket, where no pictures are prepared; make a dataset by "
                "`upres prepare`, and train on that"
            )
        elif not self.resume:
            check_outside_source(self.out_dir.resolve(), src=self.src, what="dataset")
        check_folder(self.out_dir, resume=self.resume)
        if not self.resume:
            check_own_files(self.out_dir)

    def check_preparing(self, recipe: TrainRecipe) -> None:
        """Make sure that pictures can be prepared into what `recipe` trains on.

        Raises:
            RecipeError: if it does not say how, or trains on an LR version that it does not make.
        """
        if self.recipe is None or self.resume or self.takes_dataset:
            return
        prepared = self._prepare_recipe()
        for key in _SHARED:
            if getattr(prepared, key) != getattr(recipe, key):
                raise RecipeError(
                    f"{key} is {getattr(recipe, key)}, but {PREPARE}.{key} is "
                    f"{getattr(prepared, key)}; leave the latter out"
                )
        for name in recipe.lr_versions:
            if name not in prepared.lr_versions:
                raise RecipeError(
                    f"lr_versions has {name!r}, but the recipe prepares "
                    f"{', '.join(prepared.lr_versions)}; take one of these, or add it to "
                    f"{PREPARE}.degradations"
                )

    def load_recipe(self) -> TrainRecipe:
        """Return the recipe of a new training, or the one that the training was begun with.

        Raises:
            UsageError: if there is none, or the training was begun with another.
            RecipeError: if it cannot be.
        """
        from pipeline.recipes.files import recipe_names
        from pipeline.recipes.training import load_recipe

        if not self.resume:
            if self.recipe is None:
                raise UsageError(f"--recipe is missing; recipes are {', '.join(recipe_names())}")
            return load_recipe(self.recipe, settings=self.own_settings)
        path = self.out_dir / RECIPE
        if not path.is_file():
            raise UsageError(
                f"{path} is missing, by which the training was begun; write it again, or train "
                "into an empty folder"
            )
        try:
            recipe = load_recipe(str(path), settings=self.own_settings, whole=True)
        except TomlError as error:
            raise UsageError(f"{error}; write it again, or train into an empty folder") from error
        _check_unchanged(path, recipe)
        self._check_same_recipe(recipe)
        return recipe

    def kept_values(self, recipe: TrainRecipe) -> dict[str, Any]:
        """Return the values of `recipe`, by which it was begun, that differ in the named recipe."""
        from pipeline.recipes.training import load_recipe

        if not self.resume or self.recipe is None:
            return {}
        named = load_recipe(self.recipe, settings=self.own_settings)
        return {k: v for k, v in asdict(recipe).items() if getattr(named, k) not in (v, "auto")}

    def _prepare_recipe(self) -> PrepareRecipe:
        from pipeline.recipes.preparing import load_prepare_recipe

        return load_prepare_recipe(str(self.recipe), settings=self.prepare_settings)

    def _check_same_recipe(self, begun: TrainRecipe) -> None:
        from pipeline.recipes.training import load_recipe

        if self.recipe is None:
            return
        named = load_recipe(self.recipe, settings=self.own_settings)
        if named.name != begun.name:
            raise UsageError(
                f"{self.out_dir} was begun with recipe {begun.name}, not {named.name}; leave "
                "--recipe out, or name another folder"
            )


def _check_unchanged(path: Place, recipe: TrainRecipe) -> None:
    """Refuse settings that would be written down, and yet come too late to change a weight."""
    from pipeline.recipes.training import load_recipe

    begun = load_recipe(str(path))
    for key in ("initial", "optimiser"):
        was, now = getattr(begun, key), getattr(recipe, key)
        if was != now:
            raise UsageError(
                f"{key} is {now!r}, and the training was begun with {was!r}; leave it out, or "
                "train into another folder"
            )
