"""A look at what a recipe would make of some pictures, before anything is prepared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.dataset.extract import Cut, Texture, cut, seed_of, whole
from pipeline.dataset.originals import check_pairs
from pipeline.dataset.run import addresses
from pipeline.dataset.splits import assign_splits
from pipeline.dataset.worker import PatchSource, decoded
from pipeline.errors import SourceError
from pipeline.reports.contact_sheet import Example, draw_sheet
from pipeline.storage.access import readers
from pipeline.storage.atomic import write_atomic
from pipeline.storage.dataset import HR, LR_PREFIX
from pipeline.storage.disk import make_folders
from pipeline.storage.manifest import Manifest, Origin
from pipeline.storage.own_files import check_own, is_signed_png, signed_png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.dataset.originals import Original
    from pipeline.dataset.request import PrepareRequest
    from pipeline.recipes.preparing import PrepareRecipe
    from pipeline.sources.left_out import LeftOut
    from pipeline.storage.store import Place

EXAMPLES = 8
_PICTURES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewResult:
    """A contact sheet that was drawn, and the number of pictures of its source."""

    path: Place
    pictures: int
    broken: Mapping[str, str]
    """Why pictures gave nothing, by item."""
    files_left_out: LeftOut
    remarks: Sequence[str]
    """On the listing of the source as a whole."""
    patches: int = EXAMPLES
    """Shown at most."""

    def to_json(self) -> dict[str, Any]:
        """Return the document that `upres prepare --preview` prints."""
        return {
            "preview": str(self.path),
            "failures": [{"item": i, "message": reason} for i, reason in self.broken.items()],
            "files_left_out": self.files_left_out.to_json(),
        }


def preview_dataset(request: PrepareRequest) -> PreviewResult:
    """Draw a contact sheet beside the dataset that would be prepared, and nothing else.

    Raises:
        UsageError, RecipeError, SourceError: if nothing can be prepared as asked.
        OccupiedError: if a file is there that upres did not draw.
    """
    request.check()
    recipe, place = request.load_recipe(), request.place
    path = place.with_name(f"{place.name}.preview.png")
    check_own(path, is_signed_png)
    originals = request.list_originals(scale=recipe.scale)
    # For its errors: what the pictures give is not known yet.
    items = [original.item for original in originals]
    assign_splits(items, recipe.split, seed=recipe.seed, before={}, group=recipe.group)
    sheet, broken = preview(originals, recipe, unchecked=request.unchecked)
    make_folders(place.parent)
    write_atomic(path, signed_png(sheet), readers=readers(addresses(originals), near=path))
    return PreviewResult(
        path=path,
        pictures=len(originals),
        broken=broken,
        files_left_out=originals.left_out,
        remarks=originals.remarks(),
    )


def preview(
    originals: Sequence[Original], recipe: PrepareRecipe, *, unchecked: bool = False
) -> tuple[bytes, dict[str, str]]:
    """Return a contact sheet (PNG) of a few pictures, and why others of them gave nothing.

    24 pictures at most are read, evenly spaced among all; 8 of their patches are shown. The
    histogram is of all their patches, also those that the recipe leaves out as flat.

    Raises:
        SourceError: if none of them gives a patch.
    """
    evenly = np.linspace(0, len(originals) - 1, _PICTURES).round().astype(int)
    chosen = np.unique(evenly) if originals else evenly[:0]
    everything = replace(recipe, least_variance=0.0, least_gradient=0.0, duplicate_bits=-1)
    broken: dict[str, str] = {}
    variances: list[NDArray[np.float64]] = []
    kept: list[tuple[Original, str, Cut]] = []
    for original in (originals[n] for n in chosen.tolist()):
        try:
            contents = original.contents()
            pictures = decoded(original, contents, recipe)
            if not unchecked:
                check_pairs(pictures, original, scale=recipe.scale)
            pixels = pictures.hr
            align = recipe.scale if recipe.pairs else 1
            all_of = cut(pixels, everything, item=original.item, align=align)
            good = cut(pixels, recipe, item=original.item, align=align)
        except Exception as error:
            broken[original.item] = f"{type(error).__name__}: {error}"
            continue
        variances.append(_variances(pixels, all_of, recipe))
        kept.append((original, original.sha256(contents), good))
    examples = _examples(kept, recipe)
    if not examples:
        raise SourceError(f"none of {len(chosen)} pictures gives a patch: {_why(broken, kept)}")
    sheet = draw_sheet(
        examples,
        np.concatenate(variances),
        title=f"{recipe.name}: {len(chosen)} of {len(originals)} pictures",
        least_variance=recipe.least_variance,
    )
    return sheet, broken


def _why(broken: Mapping[str, str], kept: Sequence[tuple[Original, str, Cut]]) -> str:
    flat = f"{len(kept)} are flat, lower least_variance or least_gradient" if kept else ""
    first = f"{len(broken)} cannot be used, the first for {next(iter(broken.values()), '')}"
    return "; ".join(filter(None, (flat, first if broken else ""))) or "there are none"


def _variances(pixels: NDArray[np.uint8], found: Cut, recipe: PrepareRecipe) -> NDArray[np.float64]:
    if recipe.extract == "whole":
        pixels = whole(pixels, recipe)
    return Texture.of(pixels, recipe.patch_px).variance(found.corners)


def _examples(kept: Sequence[tuple[Original, str, Cut]], recipe: PrepareRecipe) -> list[Example]:
    """Return the first patches of pictures in turn, until there are enough."""
    turns = sorted(
        (turn, number) for number, (_, _, found) in enumerate(kept) for turn in range(len(found))
    )
    by_item = {original.item: original for original, _, _ in kept}
    return [
        _example(*kept[number][:2], kept[number][2].corners[turn], by_item, recipe)
        for turn, number in turns[:EXAMPLES]
    ]


def _example(
    original: Original,
    sha256: str,
    corner: NDArray[np.int64],
    by_item: Mapping[str, Original],
    recipe: PrepareRecipe,
) -> Example:
    top, left = corner.tolist()
    none = np.array([], dtype=np.uint64)
    manifest = Manifest(
        (Origin(item=original.item, sha256=sha256, split="train"),),
        np.zeros(1, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        corner[np.newaxis],
        np.array([seed_of(recipe.seed, original.item, top, left)], dtype=np.int64),
        none,
    )
    found = PatchSource(recipe, by_item).patches(manifest, np.ones(1, dtype=bool))
    if found.errors:
        raise found.errors[0]
    pixels = found.pixels
    lr = {n.removeprefix(LR_PREFIX): found[0] for n, found in pixels.items() if n != HR}
    return Example(pixels[HR][0], lr, f"{original.item}, row {top}, column {left}")
