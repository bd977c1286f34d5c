"""What is to be prepared from what, and how: all that a user can ask of preparing, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path  # noqa: TC003 - flows make their forms of the annotations.
from typing import TYPE_CHECKING

from pipeline.compute.cluster import ClusterSettings
from pipeline.compute.deadline import check_limit
from pipeline.constants import DEFAULT_LIMIT_S
from pipeline.dataset.licences import read_licences
from pipeline.dataset.originals import list_originals
from pipeline.dataset.splits import check_split, with_lists_read
from pipeline.errors import UsageError
from pipeline.recipes.files import recipe_names
from pipeline.recipes.preparing import PrepareRecipe, load_prepare_recipe, says_colour
from pipeline.sources.overlap import check_outside_source
from pipeline.storage.dataset import Dataset, is_dataset
from pipeline.storage.locks import resolved_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.dataset.originals import Original
    from pipeline.sources.listing import Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRequest:
    """A dataset to prepare, as it is asked for; nothing is read before its methods are called.

    A request that contradicts itself cannot be built; what contradicts the disk, `check` refuses.
    """

    source: str = field(
        metadata={"help": "Pictures: a file, folder, glob, .zip, .tar, or an archive of upres."}
    )
    dataset_dir: Path = field(metadata={"help": "The dataset, which is created or continued."})
    recipe: str | None = None
    """Name or file; None goes on with the recipe of the dataset that is there."""
    settings: tuple[str, ...] = ()
    """``KEY=VALUE``, put over the recipe's values."""
    lr_sources: tuple[str, ...] = ()
    """``NAME=SRC``: LR versions that come as files, and where these are."""
    licence: str | None = None
    """Licence of the pictures, or a file that lists them."""
    names: str = ""
    """Encoding of names in a zip or tar that does not say it."""
    read_back: bool = False
    """Whether what is there is read back, and made again where it is damaged."""
    prune: bool = False
    """Whether patches of pictures that are gone from the source are taken out."""
    unchecked: bool = False
    """Whether LR files are taken whatever they show; a dataset remembers it."""
    limit_s: float = DEFAULT_LIMIT_S
    """Seconds that one chunk may take before it counts as hanging."""
    cluster: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        check_limit(self.limit_s)
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
    def place(self) -> Path:
        """Return where the dataset is, links followed.

        Raises:
            UsageError: if no folder can be called so.
        """
        return resolved_store(self.dataset_dir)

    def check(self) -> None:
        """Refuse a dataset among its own pictures: its files would be taken for some of them.

        Raises:
            UsageError: if it is, or is in, what is read at `source` or one of `lr_sources`.
        """
        for src in (self.source, *self.pairs.values()):
            check_outside_source(self.place, src=src, what="dataset")

    def load_recipe(self) -> PrepareRecipe:
        """Return the recipe with its settings, as the dataset and the LR files have it.

        Raises:
            RecipeError, UsageError: if it cannot be, or LR files are missing that it takes.
        """
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
        return read_licences(self.licence)

    def list_originals(self, *, scale: int) -> Listing[Original]:
        """List the pictures, with their LR versions.

        Raises:
            SourceError: if there is nothing at a source.
        """
        return list_originals(self.source, self.pairs, scale=scale, names=self.names)

    def _named_recipe(self) -> PrepareRecipe:
        """Return the recipe that is named, or else that of the dataset.

        Where a named recipe does not say what becomes of colours, a dataset's own way stays.
        """
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
        return PrepareRecipe.from_json(Dataset.open(self.dataset_dir).spec.recipe)
