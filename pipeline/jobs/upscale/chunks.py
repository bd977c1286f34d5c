"""Chunks of a stack as units: which ones a run computes, and how their results are kept.

The driver's side; the worker's is `pipeline.jobs.upscale.chunk_task`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchiveError
from pipeline.jobs.spec import UpscaleSpec
from pipeline.jobs.upscale.chunk_task import ChunkTask
from pipeline.jobs.upscale.sr_provenance import computed_by
from pipeline.jobs.upscale.units import done_unit
from pipeline.storage.chunk_members import content_sha256
from pipeline.storage.ledger import DONE, INGESTED, LR, SR, VANISHED, says
from pipeline.storage.stack_kind import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pipeline.jobs.choice import Chooser, Chosen
    from pipeline.jobs.job import Job
    from pipeline.jobs.upscale.rerun import Rerun
    from pipeline.storage.archive import Archive
    from pipeline.storage.ledger import ItemRow, Ledger, UnitRow
    from pipeline.storage.stack import Stack


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """One chunk of a stack, as a run would compute, keep or only record it."""

    stack: str
    chunk: int
    rows: tuple[ItemRow, ...]
    """Its items, as the ledger is to record them."""
    content: str
    """Content hash of the LR chunk."""
    computes: bool
    """Whether its pixels are to be computed."""
    fresh: bool
    """Whether the SR stack must be created first."""
    wipes: bool
    """Whether that deletes a stack of another size, with all its chunks."""
    replaces: bool
    """Whether SR pixels of another content or spec will be replaced."""
    declared: bool
    """Whether the ledger has `rows` as they are."""
    chosen: Chosen
    """What all its images are upscaled by."""
    kept: tuple[int, ...] = ()
    """Places of the SR chunk to keep, where it only has too many images; nothing to compute."""
    lacks_lr: bool = False
    """Whether the LR pixels of `rows` were let go."""

    @property
    def key(self) -> tuple[str, int]:
        """Return the id of the stack and the number of the chunk."""
        return (self.stack, self.chunk)

    @property
    def name(self) -> str:
        """Return the id of the stack."""
        return self.stack

    @property
    def spec(self) -> UpscaleSpec:
        """Return what its pixels are computed by."""
        return self.chosen.spec

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the number of the chunk, or nothing where nothing is to be computed."""
        return (self.chunk,) if self.computes else ()

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint that all its items have."""
        return self.rows[0].fingerprint

    @property
    def has_work(self) -> bool:
        """Return whether the chunk is to be computed, kept or recorded."""
        return self.computes or bool(self.kept) or not self.declared

    @property
    def outdated(self) -> tuple[int, ...]:
        """Return the chunk that is to be computed: its pixels are about to go."""
        return self.numbers

    def replaced_items(self, sr: Archive) -> int:
        """Return how many of its images have SR pixels that will be replaced."""
        return len(self.rows) * self.replaces

    def keep(self, sr: Archive, ledger: Ledger) -> None:
        """Leave holes in an SR chunk where images left the LR chunk; the others stay as they are.

        Their scores stay too, and are moved first: once the chunk has its new fingerprint, the old
        one is not known any more.
        """
        if not self.kept:
            return
        stack = sr.stack(self.stack)
        before = str(fingerprint_of(stack, self.chunk))
        ledger.carry_scores((row.item for row in self.rows), before=before, now=self.fingerprint)
        stack.retain(self.chunk, self.kept, {"fingerprint": self.fingerprint})
        ledger.put_units([done_unit(self, self.chunk)])

    def create_target(self, sr: Archive, source: Archive, spec: UpscaleSpec) -> None:
        """Create the SR stack where there is none of its size, with room for the LR's chunks."""
        lr = source.stack(self.stack)
        kind = enlarged(lr.kind, spec.scale)
        if not sr.has_stack(self.stack) or sr.stack(self.stack).kind != kind:
            size = lr.chunk_members
            sr.create_stack(self.stack, kind, chunk_members=size, chunks=lr.chunks)
        sr.stack(self.stack).grow(lr.chunks)
        for row in self.rows:
            sr.delete_own(row.item)  # It was an image of its own before.

    def seals(self, sr: Archive) -> tuple[()]:
        """Return nothing: what a chunk holds is read each time, once for all its images."""
        return ()

    def tasks(
        self, job: Job, spec: UpscaleSpec, *, limit_s: float, together_px: int
    ) -> Iterator[ChunkTask]:
        """Yield the one task of a chunk that is to be computed."""
        if not self.computes:
            return
        facts = {
            **computed_by(spec, self.fingerprint, because=self.chosen.because),
            "spec": stack_spec(spec, self.stack),
        }
        yield ChunkTask(
            stack=self.stack,
            chunk=self.chunk,
            fingerprint=self.fingerprint,
            lr_pixels=sum(row.height * row.width for row in self.rows),
            halo_px=spec.halo_px,
            source_dir=job.source_dir,
            sr_dir=job.sr_dir,
            source_sha256=self.content,
            facts=facts,
            limit_s=limit_s,
        )

    def whole_units(self, sr: Archive) -> list[UnitRow]:
        """Return the outcome of the chunk if its SR pixels can be read back, else nothing."""
        stack = sr.stack(self.stack)
        there = fingerprint_of(stack, self.chunk) == self.fingerprint
        return [done_unit(self, self.chunk)] if there and stack.is_whole(self.chunk) else []

    def narrowed(self, rerun: Rerun) -> ChunkPlan | None:
        """Return the chunk where it failed or is stale and asked for, or goes with its stack."""
        if self.kept:
            due = rerun.asks_for(self)
        elif not self.computes:
            due = False
        elif self.stack in rerun.wiped:
            due = True
        else:
            failed = rerun.failed_under(self.stack).get(self.chunk) == self.fingerprint
            due = (rerun.stale or failed) and rerun.asks_for(self)
        return self if due else None


@dataclass(frozen=True, slots=True)
class ChunkPlanner:
    """Compares the chunks of a job's stacks with what ledger and SR archive hold."""

    chooser: Chooser
    ledger: Ledger
    sr: Archive
    source: Callable[[], Archive]
    """Opens the LR archive."""

    def every(self) -> Iterator[ChunkPlan]:
        """Yield a plan for each chunk that holds an ingested image."""
        return self.again(self.ledger.each_chunk(INGESTED))

    def again(self, keys: Iterable[tuple[str, int]]) -> Iterator[ChunkPlan]:
        """Yield the plans of the chunks with these keys; those of a stack stand together."""
        for stack, chunks in groupby(keys, key=lambda key: key[0]):
            sr_stack = self.sr.stack(stack) if self.sr.has_stack(stack) else None
            done = self.ledger.chunks(stack, DONE)
            for _, chunk in chunks:
                yield self._planned(stack, chunk, sr_stack, done.get(chunk))

    def _planned(
        self, stack: str, chunk: int, sr_stack: Stack | None, recorded: str | None
    ) -> ChunkPlan:
        """Return the plan of a chunk that the ledger knows done under `recorded`."""
        present = None if sr_stack is None else fingerprint_of(sr_stack, chunk)
        plan = self._without_let_go(self._computing(stack, chunk, sr_stack, present), recorded)
        if not plan.computes:
            return plan
        if sr_stack is None or plan.fresh or recorded is None or recorded != present:
            return plan
        if present == plan.fingerprint:
            return replace(plan, computes=False)
        kept = self._kept(sr_stack, plan)
        if not kept:
            return plan
        return replace(plan, computes=False, kept=kept, replaces=False, lacks_lr=False)

    def _computing(
        self, stack: str, chunk: int, sr_stack: Stack | None, present: str | None
    ) -> ChunkPlan:
        """Return the plan that computes a chunk, whose SR pixels are `present` so far."""
        lr = _members(self.source(), stack, chunk)
        # What vanished stays in the chunk and is computed with it, unless a fault took it.
        rows = [
            row
            for row in self.ledger.chunk_items(stack, chunk, INGESTED, VANISHED)
            if row.state == INGESTED or _is_at(row, lr)
        ]
        content = _content(lr, rows)
        kind = Kind.of(stack)
        chosen = self.chooser.of_chunk(rows)
        spec = chosen.spec
        fingerprint = spec.item_fingerprint(content, rules=_rules(spec, rows))
        of_other_size = sr_stack is not None and sr_stack.kind != enlarged(kind, spec.scale)
        planned = [replace(row, fingerprint=fingerprint, units=1) for row in rows]
        return ChunkPlan(
            stack=stack,
            chunk=chunk,
            rows=tuple(planned),
            content=content,
            computes=True,
            fresh=sr_stack is None or of_other_size,
            wipes=of_other_size,
            replaces=present not in (None, fingerprint),
            declared=planned == rows,
            chosen=chosen,
        )

    def _without_let_go(self, plan: ChunkPlan, recorded: str | None) -> ChunkPlan:
        """Return a plan without the images that were done and let go: they are settled."""
        items = [row.item for row in plan.rows]
        gone, gone_lr = (self.ledger.let_go_of(archive, items) for archive in (SR, LR))
        if not gone and not gone_lr:
            return plan
        spec = UpscaleSpec.from_json(stack_spec(plan.spec, plan.stack))
        known = {row.item for row in self.ledger.items_named(items) if row.fingerprint == recorded}
        rows = tuple(
            row
            for row in plan.rows
            if not (row.item in known and says(gone, row.item) == spec.fingerprint_of(row))
        )
        if not rows:
            return replace(plan, computes=False, declared=True)
        lacks_lr = any(says(gone_lr, row.item) == row.sha256 for row in rows)
        return replace(plan, rows=rows, lacks_lr=True) if lacks_lr else plan

    def _kept(self, sr_stack: Stack, plan: ChunkPlan) -> tuple[int, ...]:
        """Return the places of the LR chunk, if the SR chunk has them all by the present spec."""
        sr = sr_stack.chunk(plan.chunk)
        lr = self.source().stack(plan.stack).chunk(plan.chunk)
        if sr is None or lr is None or (lr.sha256 != plan.content and not plan.lacks_lr):
            return ()
        computed = {place: (m["item"], m["sha256"]) for place, m in sr.members.items()}
        planned = {place: (m["item"], m["sha256"]) for place, m in lr.members.items()}
        if plan.lacks_lr:
            planned = {row.place: (row.item, row.sha256) for row in plan.rows}
        same_spec = sr.facts.get("spec") == stack_spec(plan.spec, plan.stack)
        return tuple(sorted(planned)) if same_spec and planned.items() <= computed.items() else ()


def stack_spec(spec: UpscaleSpec, stack: str) -> dict[str, Any]:
    """Return the spec of the images of a stack: each is one tile, however large tiles are."""
    kind = Kind.of(stack)
    return {**spec.to_json(), "tile_px": max(spec.tile_px, kind.height, kind.width)}


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


def _members(source: Archive, stack: str, chunk: int) -> Mapping[int, Mapping[str, Any]]:
    """Return the members of an LR chunk, by place; none where it cannot be read."""
    try:
        found = source.stack(stack).chunk(chunk)
    except ArchiveError:
        return {}
    return {} if found is None else found.members


def _rules(spec: UpscaleSpec, rows: Iterable[ItemRow]) -> str:
    """Return the rules that apply to any of the images of a chunk."""
    shapes = {(row.channels, row.height, row.width) for row in rows}
    rules = {spec.rules_of(channels=c, height=h, width=w) for c, h, w in shapes}
    return "".join(sorted(rules))


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
