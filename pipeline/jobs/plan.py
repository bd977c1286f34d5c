"""Plan: which units a run would compute, by what ledger and SR archive hold.

Nothing is changed here; what is done about a plan is in `pipeline.jobs.upscale`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.errors import ArchiveError
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import DONE, INGESTED, VANISHED, ItemRow
from pipeline.storage.stack import Kind, Stack, content_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pipeline.geometry import TileGrid
    from pipeline.jobs.job import Job
    from pipeline.jobs.spec import UpscaleSpec
    from pipeline.storage.ledger import Ledger


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """The units of one item that a run would compute."""

    row: ItemRow
    grid: TileGrid
    tiles: tuple[int, ...]
    fresh: bool
    """Whether the SR array must be made (anew) first: nothing of this fingerprint is in it."""
    declared: bool
    """Whether the ledger has `row` as it is."""


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """One chunk of a stack that a run would compute: `tiles` is its number, or nothing."""

    stack: str
    chunk: int
    rows: tuple[ItemRow, ...]
    """Its items, wanted as they are to be."""
    content: str
    """Content hash of the LR chunk."""
    tiles: tuple[int, ...]
    fresh: bool
    """Whether the SR stack must be made (anew) first."""
    wipes: bool
    """Whether that deletes one of another size, with all its chunks."""
    replaced: bool
    """Whether SR pixels of another content or spec will be written anew."""
    declared: bool
    """Whether the ledger has `rows` as they are."""
    kept: tuple[int, ...] = ()
    """Places of the SR chunk to keep, where it only holds images too many; nothing to compute."""

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint that all its items have."""
        return self.rows[0].fingerprint


def items_in(plan: UnitPlan) -> int:
    """Return how many items a part of a plan makes."""
    return len(plan.rows) if isinstance(plan, ChunkPlan) else 1


UnitPlan: TypeAlias = ItemPlan | ChunkPlan


class Plan:
    """The items and chunks that have units to compute, or that the ledger is still to be told of.

    Only their names are kept: going through it reads ledger and archive again, so that a million
    items take little memory.
    """

    def __init__(
        self,
        everything: Iterable[UnitPlan],
        again: Callable[[Iterable[str], Iterable[tuple[str, int]]], Iterator[UnitPlan]],
    ) -> None:
        self._again = again
        self._items: list[str] = []
        self._chunks: list[tuple[str, int]] = []
        for plan in everything:
            if isinstance(plan, ItemPlan):
                if plan.tiles or not plan.declared:
                    self._items.append(plan.row.item)
            elif plan.tiles or plan.kept or not plan.declared:
                self._chunks.append((plan.stack, plan.chunk))

    def __len__(self) -> int:
        return len(self._items) + len(self._chunks)

    def __iter__(self) -> Iterator[UnitPlan]:
        return self._again(self._items, self._chunks)

    def narrowed(self, keep: Callable[[UnitPlan], UnitPlan | None]) -> Plan:
        """Return what `keep` leaves of each part."""

        def again(items: Iterable[str], chunks: Iterable[tuple[str, int]]) -> Iterator[UnitPlan]:
            kept = map(keep, self._again(items, chunks))
            return (plan for plan in kept if plan is not None)

        return Plan(again(self._items, self._chunks), again)


def plan_upscale(
    rows: Iterable[ItemRow],
    *,
    spec: UpscaleSpec,
    done: Callable[[ItemRow], set[int]],
    holds: Callable[[ItemRow], bool],
) -> Iterator[ItemPlan]:
    """Yield, for each ingested item, the tiles that are not done under its fingerprint.

    `done` tells the tiles that the ledger knows done, `holds` whether the SR archive holds the
    item under that fingerprint; where it does not, all its tiles are to be done.
    """
    for row in rows:
        if row.state != INGESTED or row.stack:
            continue
        grid = spec.grid(row.height, row.width)
        rules = spec.rules_of(channels=row.channels, height=row.height, width=row.width)
        fingerprint = spec.item_fingerprint(row.sha256, rules=rules)
        wanted = replace(row, fingerprint=fingerprint, units=len(grid))
        fresh = not holds(wanted)
        finished = set() if fresh else done(wanted)
        tiles = tuple(t for t in grid if t not in finished)
        yield ItemPlan(wanted, grid, tiles, fresh, declared=wanted == row)


def plan_job(job: Job, *, spec: UpscaleSpec, ledger: Ledger) -> Plan:
    """Return what upscaling the whole job by `spec` would compute now."""
    planner = _Planner(job, spec, ledger, Archive.open_or_create(job.sr_dir))

    def everything() -> Iterator[UnitPlan]:
        yield from planner.items(ledger.each_item(INGESTED))
        yield from planner.chunks(ledger.each_chunk(INGESTED))

    def again(items: Iterable[str], chunks: Iterable[tuple[str, int]]) -> Iterator[UnitPlan]:
        yield from planner.items(ledger.items_named(items))
        yield from planner.chunks(chunks)

    return Plan(everything(), again)


@dataclass(frozen=True, slots=True)
class _Planner:
    """Compares what is wanted with what ledger and SR archive hold."""

    job: Job
    spec: UpscaleSpec
    ledger: Ledger
    sr: Archive

    def items(self, rows: Iterable[ItemRow]) -> Iterator[ItemPlan]:
        return plan_upscale(rows, spec=self.spec, done=self._done, holds=self._holds)

    def _holds(self, row: ItemRow) -> bool:
        return (self.sr.provenance(row.item) or {}).get("fingerprint") == row.fingerprint

    def _done(self, row: ItemRow) -> set[int]:
        # What the ledger knows done and a person has deleted since is to be done again.
        columns = self.spec.grid(row.height, row.width).shape[1]
        present = {r * columns + c for r, c in self.sr.image(row.item).shards_present()}
        return present & self.ledger.tiles_of(row, DONE)

    def chunks(self, wanted: Iterable[tuple[str, int]]) -> Iterator[ChunkPlan]:
        for stack, chunks in groupby(wanted, key=lambda place: place[0]):
            held = self.sr.stack(stack) if self.sr.has_stack(stack) else None
            done = self.ledger.chunks(stack, DONE)
            for _, chunk in chunks:
                plan = self._chunk(stack, chunk, held)
                known = done.get(chunk)
                found = None if held is None else fingerprint_of(held, chunk)
                if known is None or known != found or plan.fresh:
                    yield plan
                elif found == plan.fingerprint:
                    yield replace(plan, tiles=())
                else:
                    kept = () if held is None else self._kept(held, plan)
                    yield replace(plan, tiles=(), kept=kept, replaced=False) if kept else plan

    def _chunk(self, stack: str, chunk: int, held: Stack | None) -> ChunkPlan:
        """Return a chunk as one that is to be computed."""
        lr = _members(self.job.open_source(), stack, chunk)
        # What vanished stays in the chunk and is computed with it, unless a fault took it.
        rows = [
            row
            for row in self.ledger.chunk_items(stack, chunk, INGESTED, VANISHED)
            if row.state == INGESTED or _is_at(row, lr)
        ]
        content = _content(lr, rows)
        kind = Kind.of(stack)
        rules = self.spec.rules_of(channels=kind.channels, height=kind.height, width=kind.width)
        fingerprint = self.spec.item_fingerprint(content, rules=rules)
        found = None if held is None else fingerprint_of(held, chunk)
        wrong = held is not None and held.kind != enlarged(kind, self.spec.scale)
        wanted = [replace(row, fingerprint=fingerprint, units=1) for row in rows]
        return ChunkPlan(
            stack=stack,
            chunk=chunk,
            rows=tuple(wanted),
            content=content,
            tiles=(chunk,),
            fresh=held is None or wrong,
            wipes=wrong,
            replaced=found not in (None, fingerprint),
            declared=wanted == rows,
        )

    def _kept(self, held: Stack, plan: ChunkPlan) -> tuple[int, ...]:
        """Return the places of the LR chunk, if the SR chunk holds them all by the wanted spec."""
        sr = held.chunk(plan.chunk)
        lr = self.job.open_source().stack(plan.stack).chunk(plan.chunk)
        if sr is None or lr is None or lr.sha256 != plan.content:
            return ()
        made = {place: (m["item"], m["sha256"]) for place, m in sr.members.items()}
        wanted = {place: (m["item"], m["sha256"]) for place, m in lr.members.items()}
        same_spec = sr.facts.get("spec") == stack_spec(self.spec, plan.stack)
        return tuple(sorted(wanted)) if same_spec and wanted.items() <= made.items() else ()


def stack_spec(spec: UpscaleSpec, stack: str) -> dict[str, Any]:
    """Return the spec of the images of a stack: each is one tile, whatever those of larger are."""
    kind = Kind.of(stack)
    return {**asdict(spec), "tile_px": max(spec.tile_px, kind.height, kind.width)}


def _members(source: Archive, stack: str, chunk: int) -> Mapping[int, Mapping[str, Any]]:
    """Return the members of an LR chunk, by place; none where it cannot be read."""
    try:
        found = source.stack(stack).chunk(chunk)
    except ArchiveError:
        return {}
    return {} if found is None else found.members


def _is_at(row: ItemRow, members: Mapping[int, Mapping[str, Any]]) -> bool:
    member = members.get(row.place, {})
    return (member.get("item"), member.get("sha256")) == (row.item, row.sha256)


def _content(members: Mapping[int, Mapping[str, Any]], rows: Iterable[ItemRow]) -> str:
    """Return the content hash of an LR chunk, if it holds what the ledger says.

    Else that of what the ledger says: the unit will fail, as the chunk was changed.
    """
    rows = list(rows)
    if all(_is_at(row, members) for row in rows):
        return content_sha256((place, str(m["sha256"])) for place, m in members.items())
    return content_sha256((row.place, row.sha256) for row in rows)


def fingerprint_of(stack: Stack, chunk: int) -> str | None:
    """Return the fingerprint of the chunk that an SR stack holds, None where it holds none."""
    try:
        found = stack.chunk(chunk)
    except ArchiveError:
        return None
    if found is None or not stack.has_pixels(chunk):
        return None
    return str(found.facts.get("fingerprint"))


def enlarged(kind: Kind, scale: int) -> Kind:
    """Return the kind of the SR images of LR images of this one."""
    return replace(kind, height=kind.height * scale, width=kind.width * scale)
