"""Prepare: from pictures to a dataset of patches. The driver's side.

First a survey: every picture is read, and says which patches it gives. From that follows, in the
order of the items, which rows of the dataset they get: manifests, one a chunk, which are the plan.
Then the chunks are made, whole and alone. The work of both is in `pipeline.dataset.worker`.

What was placed stays where it is: new and changed pictures get chunks behind the others, and the
rows that a changed picture had are left empty.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compute.cluster import on_every_worker, submit_windowed, workers_of
from pipeline.compute.outcomes import failed_unit, recorded
from pipeline.dataset.extract import DUPLICATE, seed_of
from pipeline.dataset.hashes import SeenHashes
from pipeline.dataset.licences import licence_of
from pipeline.dataset.splits import assign_splits
from pipeline.dataset.worker import (
    ChunkTask,
    Surveyed,
    SurveyTask,
    chunk_name,
    item_row,
    open_bench,
    prepare_chunks,
    rejected,
    survey_pictures,
    unit_row,
)
from pipeline.errors import DatasetError, SourceError
from pipeline.sources.listing import check_same_source
from pipeline.storage.dataset import Dataset, DatasetSpec
from pipeline.storage.ledger import DONE, FAILED, INGESTED, VANISHED, ItemRow, UnitRow
from pipeline.storage.manifest import Manifest, Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pipeline.compute.cluster import Client, Outcome, Stop
    from pipeline.dataset.originals import Original
    from pipeline.recipes.preparing import PrepareRecipe
    from pipeline.storage.ledger import Ledger

NO_ROOM = "no room in any split"
"""Why the patches of a picture are left out where counts say how many each split takes."""

DEFAULT_LIMIT_S = 1800.0
_PICTURES_A_TASK = 32
_BYTES_A_TASK = 4 * 2**20
_CHUNKS_A_TASK = 4
_BENCH = "prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledgers:
    """The two ledgers of a dataset, in one database: of its pictures, and of its chunks."""

    pictures: Ledger
    chunks: Ledger


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
        found = self._surveyed(tasks, len(originals), report)
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
        outcomes = submit_windowed(
            self._client,
            partial(prepare_chunks, key=_BENCH),
            self._tasks(due, {original.item: original for original in originals}),
            stop=self._stop,
            split=_chunk_by_chunk,
        )
        failed = 0
        for _, rows in recorded(outcomes, self._chunks, run=self._run, failed=_failed_whole):
            self.computed += sum(row.state == DONE for row in rows)
            failed += sum(row.state == FAILED for row in rows)
            report(self.computed, failed, len(due))

    def _surveyed(
        self, tasks: Iterator[SurveyTask], pictures: int, report: Callable[[int, int], None]
    ) -> list[Surveyed]:
        found: list[Surveyed] = []
        outcomes = submit_windowed(
            self._client, survey_pictures, tasks, stop=self._stop, split=_picture_by_picture
        )
        for outcome in outcomes:
            found += _results(outcome)
            report(len(found), pictures)
        return found

    def _place(
        self, fresh: Sequence[Surveyed], placed: Placed, licences: Mapping[str, str]
    ) -> None:
        """Write the manifests of new chunks, and take changed pictures out of older ones."""
        fresh = self._without_duplicates(fresh, placed)
        items = [one.row.item for one in fresh if len(_cut(one))]
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
        plans = [_Placement.of(one, splits, licences, self.recipe) for one in fresh]
        total = sum(len(plan.corners) for plan in plans)
        many, first = self.dataset.spec.chunk_patches, self.dataset.chunks
        if total:
            for number, manifest in enumerate(_manifests(plans, many), first):
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
        return [replace(one, cut=_distinct(one, seen)) for one in fresh]

    def _retire(self, items_of: Mapping[int, Iterable[str]]) -> None:
        """Take the patches of items out of chunks, without making the chunks' others anew."""
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
        with suppress(DatasetError):  # Damaged: it will be made anew.
            self.dataset.retain(chunk)

    def _record(self, found: Sequence[Surveyed], gone: Iterable[str]) -> None:
        known = {row.item: row for row in self._pictures.items()}
        rows = [one.row for one in found]
        listed = {row.item for row in rows}
        gone = set(gone)
        # Without patches there is nothing left to tell of: it was rejected, or another dataset's.
        self._pictures.forget_items(known.keys() - listed - gone)
        rows += [
            replace(row, state=VANISHED, message=f"{row.source} is gone from the source")
            for item, row in known.items()
            if item in gone - listed and row.state != VANISHED
        ]
        rows += [
            ItemRow(item=item, state=VANISHED, message=f"{item} is gone from the source")
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
        except DatasetError:  # Damaged: it will be made anew.
            return False

    def _adopt(self, chunk: int) -> None:
        """Record a chunk as made, as it lies there, and mark its patches."""
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
    ) -> Iterator[ChunkTask]:
        # Neighbours share pictures, so a worker gets some together, but no worker goes without.
        many = max(1, min(_CHUNKS_A_TASK, len(due) // (4 * workers_of(self._client))))
        numbers = sorted(due)
        for start in range(0, len(numbers), many):
            chunks = {number: due[number] for number in numbers[start : start + many]}
            items = {o.item for n in chunks for o in self.dataset.manifest(n).origins}
            yield ChunkTask(
                self.dataset.path,
                chunks,
                {item: originals[item] for item in sorted(items) if item in originals},
                self._limit_s,
            )


def foreign_chunks(dataset: Dataset, chunks: Ledger) -> list[str]:
    """Return the chunks that a ledger tells of, and the dataset does not have: another one's."""
    own = set(map(chunk_name, range(dataset.chunks)))
    return [row.item for row in chunks.items() if row.item not in own]


@dataclass(frozen=True, slots=True)
class Placed:
    """What the manifests of a dataset say already.

    `outdated` are, by chunk, items whose patches were cut from an older content than a later
    chunk's: what an interruption left.
    """

    shas: Mapping[str, str]
    splits: Mapping[str, str]
    hashes: Sequence[tuple[str, Any]]
    outdated: Mapping[int, set[str]]

    @classmethod
    def of(cls, dataset: Dataset) -> Placed:
        """Read all manifests."""
        shas: dict[str, str] = {}
        splits: dict[str, str] = {}
        chunks: dict[str, list[int]] = defaultdict(list)
        hashes = []
        outdated: dict[int, set[str]] = defaultdict(set)
        for chunk, manifest in enumerate(dataset.manifests()):
            for number, origin in enumerate(manifest.origins):
                item = origin.item
                if shas.get(item, origin.sha256) != origin.sha256:
                    for older in chunks.pop(item):
                        outdated[older].add(item)
                shas[item] = origin.sha256
                chunks[item].append(chunk)
                if origin.split:
                    splits[item] = origin.split
                if len(manifest.hashes):
                    hashes.append((item, manifest.hashes[manifest.pictures == number]))
        return cls(shas, splits, hashes, outdated)


@dataclass(frozen=True, slots=True)
class _Placement:
    """The patches that a picture gets rows for."""

    origin: Origin
    corners: Any
    seeds: Any
    hashes: Any

    @classmethod
    def of(
        cls,
        one: Surveyed,
        splits: Mapping[str, str],
        licences: Mapping[str, str],
        recipe: PrepareRecipe,
    ) -> _Placement:
        found, item = _cut(one), one.row.item
        split, left_out = splits.get(item, ""), Counter(found.left_out)
        if not split:
            left_out[NO_ROOM] += len(found)
            found = found.kept(np.zeros(len(found), dtype=bool))
        seeds = [seed_of(recipe.seed, item, top, left) for top, left in found.corners.tolist()]
        origin = Origin(
            item=item,
            sha256=one.row.sha256,
            split=split,
            licence=licence_of(item, licences),
            copyright=one.copyright,
            colour=one.colour,
            left_out={reason: n for reason, n in sorted(left_out.items()) if n},
        )
        return cls(origin, found.corners, np.array(seeds, dtype=np.int64), found.hashes)


def _manifests(plans: Sequence[_Placement], many: int) -> Iterator[Manifest]:
    """Yield what consecutive chunks of `many` patches hold, pictures in their order.

    A picture without patches is named where it would stand.
    """
    waiting: list[tuple[_Placement, slice]] = []
    held = 0
    for plan in plans:
        start = 0
        while True:
            # Only for a patch: a picture without any goes with those before it.
            if held == many and start < len(plan.corners):
                yield _manifest(waiting)
                waiting, held = [], 0
            take = min(len(plan.corners) - start, many - held)
            waiting.append((plan, slice(start, start + take)))
            start, held = start + take, held + take
            if start == len(plan.corners):
                break
    if waiting:
        yield _manifest(waiting)


def _manifest(parts: Sequence[tuple[_Placement, slice]]) -> Manifest:
    # What was left out of a picture is said once, with its first patch.
    origins = tuple(p.origin if not s.start else replace(p.origin, left_out={}) for p, s in parts)
    counts = [s.stop - s.start for _, s in parts]
    return Manifest(
        origins,
        np.arange(sum(counts), dtype=np.int64),
        np.repeat(np.arange(len(parts), dtype=np.int64), counts),
        np.concatenate([p.corners[s] for p, s in parts]).reshape(-1, 2),
        np.concatenate([p.seeds[s] for p, s in parts]),
        np.concatenate([p.hashes[s] for p, s in parts]),
    )


def _distinct(one: Surveyed, seen: SeenHashes) -> Any:
    found = _cut(one)
    kept = np.array([seen.is_new(value) for value in found.hashes.tolist()], dtype=bool)
    left = found.kept(kept)
    left.left_out.update({DUPLICATE: int((~kept).sum())} if not kept.all() else {})
    return left


def _cut(one: Surveyed) -> Any:
    if one.cut is None:
        raise DatasetError(f"{one.row.item} was not surveyed; prepare again")
    return one.cut


def _survey_tasks(
    originals: Sequence[Original],
    recipe: PrepareRecipe,
    known: Mapping[str, str],
    *,
    unchecked: bool,
) -> Iterator[SurveyTask]:
    """Yield tasks of few pictures or few bytes that hold each original once, in their order."""
    group: list[Original] = []
    size = 0

    def task() -> SurveyTask:
        items = [original.item for original in group]
        placed = {item: known[item] for item in items if item in known}
        return SurveyTask(tuple(group), recipe, placed, unchecked)

    for original in originals:
        size += original.size_bytes
        if group and (len(group) == _PICTURES_A_TASK or size > _BYTES_A_TASK):
            yield task()
            group, size = [], original.size_bytes
        group.append(original)
    if group:
        yield task()


def _picture_by_picture(task: SurveyTask) -> Iterator[SurveyTask]:
    """Yield a task for each picture: one that kills its worker must not take others with it."""
    for original in task.originals:
        yield replace(task, originals=(original,))


def _chunk_by_chunk(task: ChunkTask) -> Iterator[ChunkTask]:
    for chunk, content in task.chunks.items():
        yield replace(task, chunks={chunk: content})


def _results(outcome: Outcome[SurveyTask, list[Surveyed]]) -> list[Surveyed]:
    if outcome.result is not None:
        return outcome.result
    error = outcome.error or SourceError("was not surveyed")
    return [Surveyed(rejected(item_row(original), error)) for original in outcome.task.originals]


def _failed_whole(task: ChunkTask, error: BaseException) -> list[UnitRow]:
    return [failed_unit(unit_row(chunk, content), error) for chunk, content in task.chunks.items()]
