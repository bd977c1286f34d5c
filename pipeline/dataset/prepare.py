"""Prepare: from pictures to a dataset of patches. The driver's side.

First a survey: every picture is read, and says which patches it gives. From that follows, in the
order of the items, which rows of the dataset they get: manifests, one a chunk, which are the plan.
Then the chunks are made, whole and alone. The work of both is in `pipeline.dataset.worker`.

What was placed stays where it is: new and changed pictures get chunks after the others, and the
rows that a changed picture had are left empty.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pipeline.compute.cluster import workers_of
from pipeline.compute.driver import work_through
from pipeline.compute.outcomes import record_outcomes
from pipeline.compute.picture_tasks import small_groups, vanished_rows
from pipeline.compute.silence import Silence
from pipeline.compute.worker import on_every_worker
from pipeline.constants import DEFAULT_LIMIT_S
from pipeline.dataset.extract import seed_of
from pipeline.dataset.hashes import SeenHashes
from pipeline.dataset.licences import licence_of
from pipeline.dataset.placement import Placed, Placement, cut_of, distinct, manifests
from pipeline.dataset.splits import assign_splits
from pipeline.dataset.worker import (
    PrepareTask,
    Surveyed,
    SurveyTask,
    chunk_name,
    open_bench,
    prepare_chunks,
    survey_pictures,
    unit_row,
)
from pipeline.errors import DatasetError
from pipeline.sources.listing import check_same_source
from pipeline.storage.dataset import Dataset, DatasetSpec
from pipeline.storage.ledger import DONE, FAILED, INGESTED, VANISHED, ItemRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pipeline.compute.cluster import Client
    from pipeline.compute.stop import Stop
    from pipeline.dataset.ledgers import Ledgers
    from pipeline.dataset.originals import Original
    from pipeline.recipes.preparing import PrepareRecipe
    from pipeline.storage.ledger import Ledger
    from pipeline.storage.manifest import Manifest

_CHUNKS_A_TASK = 4
_BENCH = "prepare"
_GONE = "is gone from the source"


def dataset_spec(recipe: PrepareRecipe) -> DatasetSpec:
    """Return the spec of the datasets that a recipe prepares."""
    # Presets are written out: what they mean may change with upres, what was made does not.
    tables = [degradation.to_table() for degradation in recipe.chains]
    values = replace(recipe, degradations=tables).to_json()
    return DatasetSpec(
        scale=recipe.scale,
        channels=recipe.channels,
        hr_px=recipe.patch_px,
        degradations=tuple(recipe.lr_versions),
        recipe=values,
        fingerprint=f"{seed_of(json.dumps(values, sort_keys=True)):016x}",
    )


class Preparation:
    """One run that prepares a dataset."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: PrepareRecipe,
        *,
        ledgers: Ledgers,
        client: Client,
        run: str,
        stop: Stop,
        limit_s: float = DEFAULT_LIMIT_S,
    ) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self.computed = 0
        """Chunks made."""
        self.unplaced: Counter[str] = Counter()
        """Patches left out, by reason, of pictures that no manifest names: none gave any."""
        self._pictures = ledgers.pictures
        self._chunks = ledgers.chunks
        self._client = client
        self._run = run
        self._stop = stop
        self._limit_s = limit_s
        self._done = {row.item: row.fingerprint for row in self._chunks.done_units()}

    def survey(
        self,
        source: str,
        originals: Sequence[Original],
        licences: Mapping[str, str],
        report: Callable[[int, int], None],
        *,
        prune: bool = False,
        unchecked: bool = False,
    ) -> bool:
        """Read all pictures of a source, and give patches of new and changed ones their rows.

        LR files whose content cannot be that of their HR file are rejected, unless `unchecked`.
        With `prune`, patches of pictures that are gone are taken out. Nothing is placed, and False
        returned, where the run is stopped meanwhile.

        Raises:
            SourceError: if the source holds none of the pictures that were placed before.
        """
        self.dataset.drop_manifests()
        placed = Placed.of(self.dataset)
        check_same_source(source, (original.item for original in originals), placed.shas)
        self._retire(placed.outdated)
        tasks = _survey_tasks(originals, self.recipe, placed.shas, unchecked=unchecked)
        found = self._surveyed(tasks, originals, report)
        if self._stop.requested:
            return False
        fresh = sorted((one for one in found if one.cut is not None), key=lambda one: one.row.item)
        self._place(fresh, placed, licences)
        self._license(licences)
        gone = placed.shas.keys() - {o.item for o in originals}
        if prune and gone:
            self._retire(dict.fromkeys(range(self.dataset.chunks), gone))
        self._record(found, gone)
        return True

    def compute(
        self,
        originals: Sequence[Original],
        report: Callable[[int, int, int], None],
        *,
        check: bool = False,
    ) -> None:
        """Make every chunk that is not made; with `check`, also those that cannot be read back.

        `report` hears of chunks done, failed and planned.
        """
        due = self._plan(check=check)
        if not due or self._stop.requested:
            return
        on_every_worker(self._client, _BENCH, open_bench)
        worked = work_through(
            self._client,
            partial(prepare_chunks, key=_BENCH),
            self._tasks(due, {original.item: original for original in originals}),
            stop=self._stop,
        )
        failed = 0
        silence = Silence(*(one.place for one in originals[:1]), self.dataset.path)
        for _, rows in record_outcomes(worked, self._chunks, run=self._run):
            self.computed += sum(row.state == DONE for row in rows)
            failed += sum(row.state == FAILED for row in rows)
            report(self.computed, failed, len(due))
            silence.hear(row.error for row in rows)

    def _surveyed(
        self,
        tasks: Iterator[SurveyTask],
        originals: Sequence[Original],
        report: Callable[[int, int], None],
    ) -> list[Surveyed]:
        surveyed: list[Surveyed] = []
        silence = Silence(*(one.place for one in originals[:1]))
        for _, results in work_through(self._client, survey_pictures, tasks, stop=self._stop):
            surveyed += results
            report(len(surveyed), len(originals))
            silence.hear(one.row.error for one in results)
        return surveyed

    def _place(
        self, fresh: Sequence[Surveyed], placed: Placed, licences: Mapping[str, str]
    ) -> None:
        """Write the manifests of new chunks, and take changed pictures out of older ones."""
        fresh = self._without_duplicates(fresh, placed)
        items = [one.row.item for one in fresh if len(cut_of(one))]
        splits = {
            **assign_splits(
                items,
                self.recipe.split,
                seed=self.recipe.seed,
                before=placed.splits,
                group=self.recipe.group,
                contents={**placed.shas, **{one.row.item: one.row.sha256 for one in fresh}},
            ),
            **{item: placed.splits[item] for item in items if item in placed.splits},
        }
        plans = [Placement.of(one, splits, licences, self.recipe) for one in fresh]
        total = sum(len(plan.corners) for plan in plans)
        many, first = self.dataset.spec.chunk_patches, self.dataset.chunks
        if total:
            for number, manifest in enumerate(manifests(plans, many), first):
                self.dataset.put_manifest(number, manifest)
            self.dataset.grow(first * many + total)
        else:
            for plan in plans:
                self.unplaced.update(plan.origin.left_out)
        changed = {plan.origin.item for plan in plans} & placed.shas.keys()
        if changed:
            self._retire(dict.fromkeys(range(first), changed))

    def _without_duplicates(self, fresh: Sequence[Surveyed], placed: Placed) -> list[Surveyed]:
        bits = self.recipe.duplicate_bits
        if bits < 0:
            return list(fresh)
        changed = {one.row.item for one in fresh}
        seen = SeenHashes(bits)
        for item, hashes in placed.hashes:
            if item not in changed:
                seen.add(hashes)
        return [replace(one, cut=distinct(one, seen)) for one in fresh]

    def _retire(self, items_of: Mapping[int, Iterable[str]]) -> None:
        """Take the patches of items out of chunks, without making the chunks' others again."""
        for chunk, items in items_of.items():
            manifest = self.dataset.manifest(chunk)
            mine = frozenset(items) & {origin.item for origin in manifest.origins}
            if mine:
                self._rewrite(chunk, manifest.without(mine))

    def _license(self, licences: Mapping[str, str]) -> None:
        """Say the licences of pictures that were placed before, where others are given now."""
        for chunk in range(self.dataset.chunks) if licences else ():
            manifest = self.dataset.manifest(chunk)
            now = tuple(
                replace(o, licence=licence_of(o.item, licences) or o.licence)
                for o in manifest.origins
            )
            if now != manifest.origins:
                self._rewrite(chunk, replace(manifest, origins=now))

    def _rewrite(self, chunk: int, manifest: Manifest) -> None:
        """Say less, or something else, of a chunk; its patches stay as they are."""
        self.dataset.put_manifest(chunk, manifest)
        with suppress(DatasetError):  # Damaged: it will be made again.
            self.dataset.retain(chunk)

    def _record(self, found: Sequence[Surveyed], gone: Iterable[str]) -> None:
        known = {row.item: row for row in self._pictures.items()}
        rows = [one.row for one in found]
        listed = {row.item for row in rows}
        gone = set(gone)
        # Without patches there is nothing left to record: it was rejected, or another dataset's.
        self._pictures.forget_items(known.keys() - listed - gone)
        placed = {item: row for item, row in known.items() if item in gone}
        rows += vanished_rows(placed, listed, _GONE)
        rows += [
            ItemRow(item=item, state=VANISHED, message=f"{item} {_GONE}")
            for item in sorted(gone - known.keys())
        ]
        self._pictures.put_items(rows)

    def _plan(self, *, check: bool) -> dict[int, str]:
        """Return the chunks to make, each with the content hash of its manifest."""
        due = {}
        self._chunks.forget_items(foreign_chunks(self.dataset, self._chunks))
        self._declare(range(self.dataset.chunks))
        for chunk in range(self.dataset.chunks):
            content = self.dataset.content(chunk)
            if self._is_made(chunk, check=check):
                self._adopt(chunk)
            else:
                due[chunk] = content
        return due

    def _is_made(self, chunk: int, *, check: bool = False) -> bool:
        """Return whether every patch of a chunk is there.

        What the ledger does not know, as it was lost, is read back, and with `check` all.
        """
        try:
            if not self.dataset.is_made(chunk):
                return False
            known = self._done.get(chunk_name(chunk)) == self.dataset.content(chunk)
            return (known and not check) or bool(self.dataset.readable(chunk).all())
        except DatasetError:  # Damaged: it will be made again.
            return False

    def _adopt(self, chunk: int) -> None:
        """Record a chunk as made, as it is there, and mark its patches."""
        if not self._is_marked(chunk):
            self.dataset.retain(chunk)
        row = unit_row(chunk, self.dataset.content(chunk))
        if self._done.get(row.item) != row.fingerprint:
            self._chunks.put_units([row])
            self._done[row.item] = row.fingerprint

    def _is_marked(self, chunk: int) -> bool:
        with suppress(DatasetError):
            return self.dataset.is_marked(chunk)
        return False

    def _declare(self, chunks: Iterable[int]) -> None:
        self._chunks.put_items(
            ItemRow(
                item=chunk_name(chunk),
                state=INGESTED,
                fingerprint=self.dataset.content(chunk),
                units=1,
            )
            for chunk in chunks
        )

    def _tasks(
        self, due: Mapping[int, str], originals: Mapping[str, Original]
    ) -> Iterator[PrepareTask]:
        # Neighbours share pictures, so a worker gets some together, but no worker goes without.
        many = max(1, min(_CHUNKS_A_TASK, len(due) // (4 * workers_of(self._client))))
        numbers = sorted(due)
        for start in range(0, len(numbers), many):
            chunks = {number: due[number] for number in numbers[start : start + many]}
            items = {o.item for n in chunks for o in self.dataset.manifest(n).origins}
            yield PrepareTask(
                self.dataset.path,
                chunks,
                {item: originals[item] for item in sorted(items) if item in originals},
                self._limit_s,
            )


def foreign_chunks(dataset: Dataset, chunks: Ledger) -> list[str]:
    """Return the chunks that a ledger has, and the dataset does not have: another one's."""
    own = set(map(chunk_name, range(dataset.chunks)))
    return [row.item for row in chunks.items() if row.item not in own]


def _survey_tasks(
    originals: Iterable[Original],
    recipe: PrepareRecipe,
    known: Mapping[str, str],
    *,
    unchecked: bool,
) -> Iterator[SurveyTask]:
    """Yield tasks of few pictures or few bytes that hold each original once, in their order."""
    for group in small_groups(originals):
        placed = {o.item: known[o.item] for o in group if o.item in known}
        yield SurveyTask(group, recipe, placed, unchecked)
