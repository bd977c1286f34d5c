"""Preparing on a worker: a survey of some pictures, or a chunk of patches.

Both depend on the pictures and the recipe alone, so it does not matter which worker does them, in
which order, or how often. The driver's side is `pipeline.dataset.prepare`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.compute.deadline import Deadline
from pipeline.compute.outcomes import failed_unit, outcome_of, reason_of
from pipeline.compute.picture_tasks import PictureTask, ingested_row, rejected_row
from pipeline.compute.silence import each_unless_silent, waited_in_vain
from pipeline.compute.worker import worker_name, worker_state
from pipeline.dataset.extract import Cut, cut, patches, whole
from pipeline.dataset.originals import Original, Pictures, check_pairs, decode
from pipeline.degradation.apply import degrade_patches
from pipeline.errors import SourceError, StoreError
from pipeline.recipes.preparing import PrepareRecipe
from pipeline.storage.dataset import HR, LR_PREFIX, Dataset
from pipeline.storage.ledger import DONE, ItemRow, UnitRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pipeline.storage.manifest import Manifest
    from pipeline.storage.store import Place

    Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SurveyTask(PictureTask[Original]):
    """Some pictures to find the patches of."""

    recipe: PrepareRecipe
    known: Mapping[str, str]
    """Content hashes, by item, of pictures whose patches are placed already."""
    unchecked: bool = False
    """Whether LR files are taken for what their names say, whatever they show."""

    def failed(self, error: BaseException) -> list[Surveyed]:
        """Return that no picture could be surveyed: a worker died, or the disk is full."""
        return [Surveyed(rejected(ingested_row(picture), error)) for picture in self.pictures]


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a picture gives: `cut` is None where nothing is to be done with it.

    That is: its patches are placed already (`row` is in state ingested), or it was rejected.
    """

    row: ItemRow
    cut: Cut | None = None
    copyright: str = ""
    colour: str = ""
    """What was done about ICC profiles, as `Pictures.colour`."""


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """Some chunks of a dataset to make, with the pictures that their patches are cut from."""

    dataset_dir: Place
    chunks: Mapping[int, str]
    """By number: the content hash of the manifest that the outcome is recorded under."""
    originals: Mapping[str, Original]
    """By item."""
    limit_s: float
    """How long one chunk may take before its worker is ended."""

    def one_by_one(self) -> Iterator[PrepareTask]:
        """Yield a task for each chunk."""
        for chunk, content in self.chunks.items():
            yield replace(self, chunks={chunk: content})

    def failed(self, error: BaseException) -> list[UnitRow]:
        """Return the outcomes of chunks that all failed for one reason."""
        return [failed_unit(unit_row(chunk, text), error) for chunk, text in self.chunks.items()]


def open_bench() -> Deadline:
    """Return what a worker keeps between tasks, and settle how it computes."""
    # Chunks are what runs in parallel; and sums never depend on how threads share them.
    torch.set_num_threads(1)
    return Deadline()


def survey_pictures(task: SurveyTask) -> list[Surveyed]:
    """Return what each picture of a task gives; a broken one is rejected, with the reason."""
    surveyed = each_unless_silent(
        task.pictures,
        lambda original: _surveyed(original, task),
        *(original.place for original in task.pictures[:1]),
        row_of=lambda one: one.row,
        failed=lambda original, why: Surveyed(rejected(ingested_row(original), why)),
    )
    return list(surveyed)


def prepare_chunks(task: PrepareTask, *, key: str) -> list[UnitRow]:
    """Make the chunks of a task; safe to run twice."""
    deadline: Deadline = worker_state(key)
    dataset = Dataset.open(task.dataset_dir)
    recipe = PrepareRecipe.from_json(dataset.spec.recipe)
    source = PatchSource(recipe, task.originals)
    rows = []
    for chunk, content in task.chunks.items():
        row = replace(unit_row(chunk, content), worker=worker_name())
        work = partial(_prepare_chunk, dataset, chunk, source)
        rows.append(outcome_of(row, partial(deadline.run, task.limit_s, work)))
    return rows


def unit_row(chunk: int, content: str) -> UnitRow:
    """Return the outcome of a chunk that was made."""
    return UnitRow(item=chunk_name(chunk), number=0, fingerprint=content, state=DONE)


def chunk_name(chunk: int) -> str:
    """Return what the ledger calls a chunk."""
    return f"chunk {chunk}"


@dataclass(slots=True)
class ChunkPatches:
    """Patches ``(m, c, y, x)`` by array, which of them are there, and why others are not."""

    pixels: dict[str, Pixels]
    present: NDArray[np.bool_]
    errors: list[Exception]


class PatchSource:
    """Makes patches of pictures, and remembers the picture that was read last."""

    def __init__(self, recipe: PrepareRecipe, originals: Mapping[str, Original]) -> None:
        self._recipe = recipe
        self._originals = originals
        self._last: tuple[str, Pictures] | None = None

    def patches(self, manifest: Manifest, which: NDArray[np.bool_]) -> ChunkPatches:
        """Return the pixels of some patches of a manifest: HR and every LR version.

        A picture that cannot be read leaves its patches out, and says why.
        """
        recipe = self._recipe
        found = self._cut_out(manifest, which)
        rows = np.flatnonzero(found.present)
        for degradation in recipe.chains:
            lr = degrade_patches(
                found.pixels[HR][rows],
                manifest.seeds[rows].tolist(),
                degradation,
                scale=recipe.scale,
            )
            small = np.zeros((len(manifest), *lr.shape[1:]), dtype=np.uint8)
            small[rows] = lr
            found.pixels[LR_PREFIX + degradation.name] = small
        return found

    def _cut_out(self, manifest: Manifest, which: NDArray[np.bool_]) -> ChunkPatches:
        recipe, scale = self._recipe, self._recipe.scale
        rows, cols = recipe.patch_px
        small = (rows // scale, cols // scale)
        sizes = {HR: (rows, cols), **{LR_PREFIX + name: small for name in recipe.pairs}}
        pixels = {
            name: np.zeros((len(manifest), recipe.channels, *px), dtype=np.uint8)
            for name, px in sizes.items()
        }
        found = ChunkPatches(pixels, np.zeros(len(manifest), dtype=bool), [])
        for number, origin in enumerate(manifest.origins):
            mine = np.flatnonzero((manifest.pictures == number) & which)
            if not len(mine):
                continue
            began = time.monotonic()
            try:
                pictures = self._read(origin.item, origin.sha256)
            except Exception as error:
                # The picture's border: the others of the chunk go on.
                found.errors.append(error)
                if self._waited(origin.item, error, time.monotonic() - began):
                    break  # Each of the others would wait as long.
                continue
            corners = manifest.corners[mine]
            if recipe.extract == "whole":
                pixels[HR][mine] = whole(pictures.hr, recipe)
            else:
                pixels[HR][mine] = patches(pictures.hr, corners, recipe.patch_px)
            for name in recipe.pairs:
                cuts = patches(pictures.lr[name], corners // scale, small)
                pixels[LR_PREFIX + name][mine] = cuts
            found.present[mine] = True
        return found

    def _waited(self, item: str, error: Exception, seconds: float) -> bool:
        """Return whether reading a picture waited for a store that stays silent."""
        original = self._originals.get(item)
        place = () if original is None else (original.place,)
        return waited_in_vain(type(error).__name__, seconds, *place)

    def _read(self, item: str, sha256: str) -> Pictures:
        if self._last is not None and self._last[0] == item:
            return self._last[1]
        if item not in self._originals:
            raise SourceError(
                f"{item} is gone from the source; restore it, or prepare with --prune, which takes "
                "out its patches"
            )
        original = self._originals[item]
        contents = original.contents()
        if original.sha256(contents) != sha256:
            raise SourceError(f"{item} was changed while it was prepared; prepare again")
        pictures = decoded(original, contents, self._recipe)
        self._last = (item, pictures)
        return pictures


def _prepare_chunk(dataset: Dataset, chunk: int, source: PatchSource) -> None:
    """Make what a chunk lacks, and keep what it holds: that may be of a picture that is gone."""
    manifest, kept = dataset.manifest(chunk), dataset.readable(chunk)
    found = source.patches(manifest, ~kept)
    rows = chunk * dataset.spec.chunk_patches + manifest.places
    if kept.any():
        for name, pixels in found.pixels.items():
            pixels[kept] = dataset.read(name, rows[kept])
    if (kept | found.present).any():
        dataset.write(chunk, found.pixels, kept | found.present)
    if len(found.errors) == 1:
        raise found.errors[0]
    if found.errors:
        first = reason_of(found.errors[0])
        kind = StoreError if isinstance(found.errors[0], StoreError) else SourceError
        raise kind(f"{first}; and {len(found.errors) - 1} more pictures of this chunk")


def _surveyed(original: Original, task: SurveyTask) -> Surveyed:
    recipe, item = task.recipe, original.item
    row = ingested_row(original)
    try:
        contents = original.contents()
        row = replace(row, sha256=original.sha256(contents))
        if task.known.get(item) == row.sha256:
            return Surveyed(row)
        pictures = decoded(original, contents, recipe)
        if not task.unchecked:
            check_pairs(pictures, original, scale=recipe.scale)
        channels, height, width = pictures.hr.shape
        row = replace(row, channels=channels, height=height, width=width, dtype="uint8")
        align = recipe.scale if recipe.pairs else 1
        found = cut(pictures.hr, recipe, item=item, align=align)
        return Surveyed(row, found, pictures.copyright, pictures.colour)
    except Exception as error:
        # The picture's border: whatever went wrong is its outcome, and the others go on.
        return Surveyed(rejected(row, error))


def rejected(row: ItemRow, error: BaseException) -> ItemRow:
    """Return the row of a picture that cannot be used, with a reason that names it."""
    reason = str(error)
    return rejected_row(row, error, reason if row.item in reason else f"{row.item}: {reason}")


def decoded(original: Original, contents: Mapping[str, bytes], recipe: PrepareRecipe) -> Pictures:
    """Return the pixels of a picture as the recipe wants them, as `originals.decode`."""
    return decode(
        original,
        contents,
        channels=recipe.channels,
        scale=recipe.scale,
        pairs=recipe.pairs,
        colour=recipe.colour,
    )
