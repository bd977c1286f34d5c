"""What is to be prepared from what, and how: all that a user can ask of preparing, as one value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.compute.request import LimitedWorkersRequest
from pipeline.errors import UsageError
from pipeline.request_fields import needed, optional, same_as
from pipeline.sources.request import SourceRequest
from pipeline.storage.store import Place, check_stores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.dataset.ledgers import LedgerPlace
    from pipeline.dataset.originals import Original
    from pipeline.recipes.preparing import PrepareRecipe
    from pipeline.sources.listing import Listing


@dataclass(frozen=True, kw_only=True)
class PrepareRequest(LimitedWorkersRequest):
    """A dataset to prepare, as it is asked for; nothing is read before its methods are called.

    A request that contradicts itself cannot be built; what contradicts the disk, `check` refuses.
    """

    src: str = same_as(SourceRequest, "src")
    dataset_dir: Place = needed(  # noqa: RUF009 - it is a field.
        "The dataset, a folder or s3://BUCKET/PREFIX, which is created or continued."
    )
    recipe: str | None = optional(
        None, "How patches are cut and degraded.  [default: the recipe of the dataset]"
    )
    settings: tuple[str, ...] = optional((), "Override a value of the recipe.")
    lr_sources: tuple[str, ...] = optional(
        (), "Take the LR version NAME from files that are matched by name: 0001.png and 0001x4.png."
    )
    licence: str | None = optional(
        None, "Licence of all pictures, or a .json or .csv file with the licence of each."
    )
    names: str | None = same_as(SourceRequest, "names")
    read_back: bool = optional(False, "Read every patch back, and rebuild what is damaged.")
    prune: bool = optional(False, "Remove the patches of pictures that are gone from the source.")
    unchecked: bool = optional(False, "Do not compare the LR files of --lr with their HR pictures.")
    """A dataset remembers it."""
    ledger: str | None = optional(
        None, "Database of the ledger, for a dataset in a bucket.  [default: that of the dataset]"
    )

    def __post_init__(self) -> None:
        self.check_limit()
        if self.unchecked and not self.pairs:
            raise UsageError("--unchecked goes with --lr: nothing else is compared; leave it out")

    @property
    def pairs(self) -> dict[str, str]:
        """Return the sources of the LR versions that come as files, by name.

        Raises:
            UsageError: if they are not written ``NAME=SRC``, or a name comes twice.
        """
        pairs: dict[str, str] = {}
        for text in self.lr_sources:
            name, sign, source = text.partition("=")
            if not (name and sign and source):
                raise UsageError(
                    f"--lr is {text!r}, expected NAME=SRC such as bicubic=DIV2K/LR_bicubic/X4"
                )
            if name in pairs:
                raise UsageError(f"--lr names {name!r} twice; give each LR version one source")
            pairs[name] = source
        return pairs

    @property
    def place(self) -> Place:
        """Return where the dataset is, links followed.

        Raises:
            UsageError: if nothing can be called so.
        """
        from pipeline.dataset.ledgers import dataset_place

        return dataset_place(self.dataset_dir)

    def ledger_place(self) -> LedgerPlace:
        """Return where lock and ledgers of the dataset are, as `LedgerPlace.of`."""
        from pipeline.dataset.ledgers import LedgerPlace

        return LedgerPlace.of(self.dataset_dir, asked=self.ledger)

    def check(self) -> None:
        """Refuse a dataset among its own pictures: its files would be taken for some of them.

        Raises:
            UsageError: if it is, or is in, what is read at `src` or one of `lr_sources`.
            StoreError: if one of them is in a bucket that cannot be used.
        """
        from pipeline.sources.overlap import check_outside_source

        check_stores(self.dataset_dir, self.src, *self.pairs.values())
        for src in (self.src, *self.pairs.values()):
            check_outside_source(self.place, src=src, what="dataset")

    def load_recipe(self) -> PrepareRecipe:
        """Return the recipe with its settings, as the dataset and the LR files have it.

        Raises:
            RecipeError, UsageError: if it cannot be, or LR files are missing that it takes.
        """
        from pipeline.dataset.splits import check_split, with_lists_read

        pairs, recipe = self.pairs, self._named_recipe()
        lacking = [name for name in recipe.pairs if name not in pairs]
        if lacking:
            raise UsageError(
                f"recipe {recipe.name} takes the LR version {lacking[0]!r} from files; say where "
                f"they are with --lr {lacking[0]}=SRC"
            )
        recipe = replace(recipe, split=with_lists_read(recipe.split))
        check_split(recipe.split, group=recipe.group)
        return recipe.paired(pairs) if pairs else recipe

    def load_licences(self) -> Mapping[str, str]:
        """Return the licences of the pictures, as `read_licences` does."""
        from pipeline.dataset.licences import read_licences

        return read_licences(self.licence)

    def list_originals(self, *, scale: int) -> Listing[Original]:
        """List the pictures, with their LR versions.

        Raises:
            SourceError: if there is nothing at a source.
        """
        from pipeline.dataset.originals import list_originals

        return list_originals(self.src, self.pairs, scale=scale, names=self.names or "")

    def _named_recipe(self) -> PrepareRecipe:
        """Return the recipe that is named, or else that of the dataset.

        Where a named recipe does not say what becomes of colours, a dataset's own way stays.
        """
        from pipeline.recipes.files import recipe_names
        from pipeline.recipes.preparing import load_prepare_recipe, says_colour
        from pipeline.storage.dataset import is_dataset

        if self.recipe is not None:
            recipe = load_prepare_recipe(self.recipe, settings=self.settings)
            if not is_dataset(self.dataset_dir) or says_colour(self.recipe, self.settings):
                return recipe
            return replace(recipe, colour=self._own_recipe().colour)
        if not is_dataset(self.dataset_dir):
            raise UsageError(
                f"{self.dataset_dir} is not a dataset yet; say how to prepare it with --recipe, a "
                f"file or one of {', '.join(recipe_names())}"
            )
        if self.settings:
            raise UsageError("--set goes with --recipe; a dataset's own recipe stays as it is")
        return self._own_recipe()

    def _own_recipe(self) -> PrepareRecipe:
        from pipeline.recipes.preparing import PrepareRecipe
        from pipeline.storage.dataset import Dataset

        return PrepareRecipe.from_json(Dataset.open(self.dataset_dir).spec.recipe)
