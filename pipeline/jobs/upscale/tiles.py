"""Tiles of an image as units: which ones a run computes, and how their results are kept.

The driver's side; the worker's is `pipeline.jobs.upscale.tile_task`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.jobs.upscale.sr_provenance import computed_by, inherited
from pipeline.jobs.upscale.tile_task import TileTask
from pipeline.jobs.upscale.units import done_unit
from pipeline.storage.image import Layout
from pipeline.storage.ledger import DONE, INGESTED, LR, SR, SealRow, says

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pipeline.geometry import TileGrid
    from pipeline.jobs.choice import Chooser, Chosen
    from pipeline.jobs.job import Job
    from pipeline.jobs.spec import UpscaleSpec
    from pipeline.jobs.upscale.rerun import Rerun
    from pipeline.storage.archive import Archive
    from pipeline.storage.ledger import ItemRow, Ledger, LetGoRow, UnitRow

_TILES_A_TASK = 16
_ITEMS_AT_ONCE, _TILES_AT_ONCE = 1_000, 50_000
"""How many items, and tiles of them, are looked up in the ledger at once, at most."""


@dataclass(frozen=True, slots=True)
class TilePlan:
    """The tiles of one image that a run would compute."""

    row: ItemRow
    """The item, as the ledger is to record it."""
    grid: TileGrid
    numbers: tuple[int, ...]
    fresh: bool
    """Whether the SR array must be created first: nothing of this fingerprint is in it."""
    declared: bool
    """Whether the ledger has `row` as it is."""
    chosen: Chosen
    """What it is upscaled by."""
    lacks_lr: bool = False
    """Whether its LR pixels were let go."""

    @property
    def key(self) -> str:
        """Return the item's id."""
        return self.row.item

    @property
    def name(self) -> str:
        """Return the item's id."""
        return self.row.item

    @property
    def fingerprint(self) -> str:
        """Return the item's fingerprint."""
        return self.row.fingerprint

    @property
    def spec(self) -> UpscaleSpec:
        """Return what decides the pixels of any item of these."""
        return self.chosen.spec

    @property
    def rows(self) -> tuple[ItemRow, ...]:
        """Return the one item."""
        return (self.row,)

    @property
    def has_work(self) -> bool:
        """Return whether a tile is to be computed, or the item to be recorded."""
        return bool(self.numbers) or not self.declared

    @property
    def wipes(self) -> bool:
        """Return False: no other plan has pixels in the array of an item."""
        return False

    @property
    def outdated(self) -> tuple[int, ...]:
        """Return nothing: an item whose pixels change is `fresh`, and loses all its outcomes."""
        return ()

    def replaced_items(self, sr: Archive) -> int:
        """Return 1 if there are SR pixels of this item that will be replaced, else 0."""
        return int(self.fresh and sr.provenance(self.name) is not None)

    def keep(self, sr: Archive, ledger: Ledger) -> None:
        """Do nothing: tiles that are right as they are keep their fingerprint."""

    def create_target(self, sr: Archive, source: Archive, spec: UpscaleSpec) -> None:
        """Create the SR array of a fresh item, with a shard for each tile."""
        if not self.fresh:
            return
        row, scale = self.row, spec.scale
        height, width = row.height * scale, row.width * scale
        sr.create(
            row.item,
            shape=(row.channels, height, width),
            dtype=row.dtype,
            layout=Layout.of(height=height, width=width, shard_px=spec.tile_px * scale),
            provenance={
                **inherited(source.provenance(row.item) or {}),
                **computed_by(spec, row.fingerprint, because=self.chosen.because),
            },
        )

    def seals(self, sr: Archive) -> tuple[SealRow, ...]:
        """Return the seal of an array that was just created."""
        return _seals(self.row, sr.seal(self.name)) if self.fresh else ()

    def tasks(
        self, job: Job, spec: UpscaleSpec, *, limit_s: float, together_px: int
    ) -> Iterator[TileTask]:
        """Yield tasks of few tiles, and of few pixels."""
        guarded = job.owns_source
        side = self.grid.tile_px + 2 * self.grid.halo_px
        many = max(1, min(_TILES_A_TASK, together_px // (side * side)))
        for start in range(0, len(self.numbers), many):
            yield TileTask(
                name=self.name,
                numbers=self.numbers[start : start + many],
                fingerprint=self.fingerprint,
                grid=self.grid,
                source_dir=job.source_dir,
                sr_dir=job.sr_dir,
                source_sha256="" if guarded else self.row.sha256,
                limit_s=limit_s,
            )

    def whole_units(self, sr: Archive) -> list[UnitRow]:
        """Return an outcome for each planned tile whose SR pixels can be read back."""
        image = sr.image(self.name)
        scale = image.size[0] // self.row.height
        whole = (n for n in self.numbers if image.is_whole(self.grid.core(n).scaled(scale)))
        return [done_unit(self, number) for number in whole]

    def narrowed(self, rerun: Rerun) -> TilePlan | None:
        """Return the failed tiles of an item that is asked for, or all of a stale one."""
        if not self.numbers or not rerun.asks_for(self):
            return None
        failed = rerun.failed_under(self.name)
        if self.fresh:
            return self if rerun.stale or self.fingerprint in failed.values() else None
        numbers = tuple(number for number in self.numbers if number in failed)
        return replace(self, numbers=numbers) if numbers else None


def plan_tiles(
    rows: Iterable[tuple[ItemRow, Chosen]],
    *,
    done: Callable[[ItemRow], set[int]],
    holds: Callable[[ItemRow], bool],
    lacks_lr: Callable[[ItemRow], bool] = lambda _row: False,
) -> Iterator[TilePlan]:
    """Yield, for each ingested image, the tiles that are not done under its fingerprint.

    ``done(row)`` returns the tiles that are done, ``holds(row)`` whether the SR archive holds the
    item under that fingerprint, or did until it let it go; where it does not, all its tiles are to
    be computed. ``lacks_lr(row)`` says whether the LR archive let it go.
    """
    for row, chosen in rows:
        spec = chosen.spec
        if row.state != INGESTED or row.stack:
            continue
        grid = spec.grid(row.height, row.width)
        planned = replace(row, fingerprint=spec.fingerprint_of(row), units=len(grid))
        fresh = not holds(planned)
        finished = set() if fresh else done(planned)
        numbers = tuple(number for number in grid if number not in finished)
        yield TilePlan(planned, grid, numbers, fresh, planned == row, chosen, lacks_lr(row))


@dataclass(frozen=True, slots=True)
class TilePlanner:
    """Compares the tiles of a job's images with what ledger and SR archive hold.

    An image is opened only where its metadata is not as the ledger saw it last.
    """

    chooser: Chooser
    ledger: Ledger
    sr: Archive

    def every(self) -> Iterator[TilePlan]:
        """Yield a plan for each image that is not in a stack."""
        return self._planned(self.ledger.each_item(INGESTED))

    def again(self, keys: Iterable[str]) -> Iterator[TilePlan]:
        """Yield the plans of the items with these ids."""
        return self._planned(self.ledger.items_named(keys))

    def _planned(self, rows: Iterable[ItemRow]) -> Iterator[TilePlan]:
        for few in _few_at_once(rows):
            recorded = _Recorded.of(few, self.ledger, self.sr, self.chooser.spec)
            chosen = self.chooser.of_each(few)
            yield from plan_tiles(
                chosen, done=recorded.done, holds=recorded.holds, lacks_lr=recorded.lacks_lr
            )
            self.ledger.put_seals(recorded.new)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What the ledger knows of the SR arrays and tiles of some items, beside what there is."""

    sr: Archive
    spec: UpscaleSpec
    seals: Mapping[str, SealRow]
    tiles: Mapping[tuple[str, str], set[int]]
    """The done tiles of an item under a fingerprint."""
    gone: Mapping[str, LetGoRow]
    """What was let go of the SR archive."""
    gone_lr: Mapping[str, LetGoRow]
    new: list[SealRow] = field(default_factory=list)
    """The seals of what was opened."""

    @classmethod
    def of(
        cls, rows: Sequence[ItemRow], ledger: Ledger, sr: Archive, spec: UpscaleSpec
    ) -> _Recorded:
        """Look the items up, whose tiles are as large as `spec` says."""
        items = [row.item for row in rows]
        return cls(
            sr,
            spec,
            ledger.seals_of(SR, items),
            ledger.tiles_of_all(items, DONE),
            ledger.let_go_of(SR, items),
            ledger.let_go_of(LR, items),
        )

    def holds(self, row: ItemRow) -> bool:
        """Return whether the SR archive holds an item under its fingerprint, or let it go."""
        if self._is_gone(row):
            return True
        stamp, before = self.sr.seal(row.item), self.seals.get(row.item)
        if stamp and before and (before.stamp, before.says) == (stamp, row.fingerprint):
            return True
        found = (self.sr.provenance(row.item) or {}).get("fingerprint") == row.fingerprint
        if found:
            self.new.extend(_seals(row, stamp))
        return found

    def done(self, row: ItemRow) -> set[int]:
        """Return the tiles that are done and whose shards are there."""
        recorded = self.tiles.get((row.item, row.fingerprint), set())
        if not recorded or self._is_gone(row):
            return recorded
        # A shard that was done and that a person has deleted since is computed again.
        rows, columns = self.spec.grid(row.height, row.width).shape
        if rows == columns == 1:
            return recorded if self.sr.has_first_shard(row.item) else set()
        return recorded & {r * columns + c for r, c in self.sr.shards_of(row.item)}

    def lacks_lr(self, row: ItemRow) -> bool:
        """Return whether the LR archive let go of an item as it is now."""
        return says(self.gone_lr, row.item) == row.sha256

    def _is_gone(self, row: ItemRow) -> bool:
        return says(self.gone, row.item) == row.fingerprint


def _seals(row: ItemRow, stamp: str) -> tuple[SealRow, ...]:
    """Return the seal of an SR array of this row; none where nothing can be said."""
    return (SealRow(archive=SR, item=row.item, stamp=stamp, says=row.fingerprint),) * bool(stamp)


def _few_at_once(rows: Iterable[ItemRow]) -> Iterator[list[ItemRow]]:
    """Yield all rows in their order: few items and few tiles at once."""
    few: list[ItemRow] = []
    tiles = 0
    for row in rows:
        few.append(row)
        tiles += row.units
        if len(few) == _ITEMS_AT_ONCE or tiles >= _TILES_AT_ONCE:
            yield few
            few, tiles = [], 0
    if few:
        yield few
