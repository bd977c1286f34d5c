"""Upscale: how the units of a plan are carried to the workers, and their outcomes recorded.

The driver's side; which units these are is in `pipeline.jobs.plan`, what a worker does with one in
`pipeline.jobs.worker`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any

from models.registry import is_interpolation
from pipeline.compute.cluster import on_every_worker, submit_windowed
from pipeline.compute.inference import resolve_device
from pipeline.compute.outcomes import failed_unit, recorded
from pipeline.constants import DEFAULT_LIMIT_S
from pipeline.errors import ArchiveError
from pipeline.jobs.item_images import sr_image
from pipeline.jobs.plan import (
    ChunkPlan,
    ItemPlan,
    Plan,
    UnitPlan,
    enlarged,
    fingerprint_of,
    plan_job,
    stack_spec,
)
from pipeline.jobs.spec import UpscaleSpec
from pipeline.jobs.worker import (
    COPIED,
    ModelAddress,
    StackTask,
    UpscaleTask,
    batch_px,
    open_workbench,
    upscale_units,
)
from pipeline.storage.archive import Archive
from pipeline.storage.image import Layout
from pipeline.storage.ledger import DONE, FAILED, INGESTED, UnitRow
from pipeline.storage.stack import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.compute.cluster import Client, Outcome, Stop
    from pipeline.jobs.job import Job
    from pipeline.storage.ledger import Ledger

_UNITS_A_TASK = 16
_DECLARED_AT_ONCE = 2_000
_INTERPOLATED = (
    "Pixels of this image were interpolated from a smaller picture; no detail was added to it."
)
_SYNTHESISED = (
    "Pixels of this image were synthesised by a neural network from a smaller picture; detail in "
    "it may never have existed. Do not use it to identify a person."
)


@dataclass(frozen=True, slots=True)
class UpscaleProgress:
    """Where a run is; `megapixels` of SR were written so far."""

    units_done: int
    units_failed: int
    units_planned: int
    megapixels: float


def run_upscale(
    job: Job,
    plans: Plan | Sequence[UnitPlan],
    *,
    spec: UpscaleSpec,
    model: ModelAddress,
    ledger: Ledger,
    client: Client,
    run: str,
    limit_s: float = DEFAULT_LIMIT_S,
    stop: Stop | None = None,
    report: Callable[[UpscaleProgress], None] = lambda _: None,
) -> int:
    """Compute every unit of `plans`; return how many were computed.

    Whatever fails is recorded with its reason and does not stop the others.
    """
    planned = _declare(plans, ledger, job.open_sr())
    _drop_orphans(job)
    report(UpscaleProgress(0, 0, planned, 0.0))
    if not planned:
        return 0
    key = spec.fingerprint()
    on_every_worker(client, key, partial(open_workbench, model, spec))
    tasks = _tasks(
        plans,
        job,
        spec=spec,
        ledger=ledger,
        limit_s=limit_s,
        together_px=batch_px(resolve_device(model.device)),
    )
    work = partial(upscale_units, key=key)
    outcomes = submit_windowed(client, work, tasks, stop=stop, split=_unit_by_unit)
    return _record(outcomes, ledger, spec=spec, run=run, planned=planned, report=report)


def adopt_shards(job: Job, *, spec: UpscaleSpec, ledger: Ledger) -> int:
    """Record as done every shard that the SR archive holds under `spec`; return how many.

    For a job whose ledger was lost: a shard is written in one piece, and each is read back here,
    so that a damaged one is computed again.
    """
    sr = Archive.open_or_create(job.sr_dir)
    adopted = 0
    for plan in plan_job(job, spec=spec, ledger=ledger):
        if not plan.fresh:
            rows = _whole_chunk(plan, sr) if isinstance(plan, ChunkPlan) else _whole_tiles(plan, sr)
            ledger.put_items(plan.rows if isinstance(plan, ChunkPlan) else [plan.row])
            ledger.put_units(rows)
            adopted += len(rows)
    return adopted


def _whole_tiles(plan: ItemPlan, sr: Archive) -> list[UnitRow]:
    """Return the units of an item whose pixels are there."""
    image = sr.image(plan.row.item)
    scale = image.size[0] // plan.row.height
    done = UnitRow(item=plan.row.item, tile=0, fingerprint=plan.row.fingerprint, state=DONE)
    whole = (t for t in plan.tiles if image.is_whole(plan.grid.core(t).scaled(scale)))
    return [replace(done, tile=tile) for tile in whole]


def _whole_chunk(plan: ChunkPlan, sr: Archive) -> list[UnitRow]:
    """Return the unit of a chunk, if its pixels are there."""
    stack = sr.stack(plan.stack)
    if fingerprint_of(stack, plan.chunk) != plan.fingerprint or not stack.is_whole(plan.chunk):
        return []
    return [UnitRow(item=plan.stack, tile=plan.chunk, fingerprint=plan.fingerprint, state=DONE)]


def mark_damaged(job: Job, item: str, ledger: Ledger) -> int:
    """Record as failed every done tile of `item` that cannot be read back; return how many."""
    (row,) = (row for row in ledger.items(INGESTED) if row.item == item)
    error = ArchiveError(f"{item}: the shard is damaged or missing; rerun computes it again")
    done = sorted(ledger.tiles_of(row, DONE))
    try:
        image = sr_image(job.open_sr(), row)
        grid = UpscaleSpec.from_json(image.provenance["spec"]).grid(row.height, row.width)
        scale = image.size[0] // row.height
        damaged = [t for t in done if not image.is_whole(grid.core(t).scaled(scale))]
    except ArchiveError:
        damaged = done
    if row.stack:
        ledger.put_units(_failed(row.stack, row.fingerprint, [row.chunk] if damaged else [], error))
    else:
        ledger.put_units(_failed(item, row.fingerprint, damaged, error))
    return len(damaged)


def _declare(plans: Iterable[UnitPlan], ledger: Ledger, sr: Archive) -> int:
    """Make the ledger agree with the plan: what is to be made anew has no outcome any more.

    Before any pixel goes: a kill in between leaves units pending, never done without pixels.
    Return how many units there are.
    """
    planned = 0
    forgotten: set[str] = set()
    waiting = iter(plans)
    while batch := list(islice(waiting, _DECLARED_AT_ONCE)):
        items = [plan for plan in batch if isinstance(plan, ItemPlan)]
        ledger.forget_units(plan.row.item for plan in items if plan.fresh)
        ledger.put_items(plan.row for plan in items)
        for plan in (plan for plan in batch if isinstance(plan, ChunkPlan)):
            if plan.fresh and plan.stack not in forgotten:
                ledger.forget_units([plan.stack])
                forgotten.add(plan.stack)
            ledger.forget_chunks(plan.stack, plan.tiles)
            ledger.put_items(plan.rows)
            if plan.kept:
                _keep(plan, sr, ledger)
        planned += sum(len(plan.tiles) for plan in batch)
    return planned


def _keep(plan: ChunkPlan, sr: Archive, ledger: Ledger) -> None:
    """Leave holes in an SR chunk where images left the LR chunk; the others are as they are.

    So are their scores, which are carried first: once the chunk has its new fingerprint, nobody
    knows the one that they were measured under.
    """
    stack = sr.stack(plan.stack)
    before = str(fingerprint_of(stack, plan.chunk))
    ledger.carry_scores((row.item for row in plan.rows), before=before, now=plan.fingerprint)
    stack.retain(plan.chunk, plan.kept, {"fingerprint": plan.fingerprint})
    ledger.put_units(
        [UnitRow(item=plan.stack, tile=plan.chunk, fingerprint=plan.fingerprint, state=DONE)]
    )


def _drop_orphans(job: Job) -> None:
    """Remove the SR chunks whose LR chunks hold no image any more: all are elsewhere now."""
    sr = job.open_sr()
    for stack in map(sr.stack, sr.stacks()):
        with suppress(ArchiveError):  # Where the LR stack cannot be read, nobody knows.
            lr = job.open_source().stack(stack.id)
            for number in stack.numbers():
                chunk = lr.chunk(number)
                if chunk is not None and not chunk.members:
                    stack.remove(number)


def _tasks(
    plans: Iterable[UnitPlan],
    job: Job,
    *,
    spec: UpscaleSpec,
    ledger: Ledger,
    limit_s: float,
    together_px: int,
) -> Iterator[UpscaleTask | StackTask]:
    """Yield the tasks of all plans, few pixels or few units in each.

    SR arrays are made when their first unit is due, so that a large job starts at once.
    """
    sr, source = job.open_sr(), job.open_source()
    for plan in plans:
        try:
            if isinstance(plan, ChunkPlan):
                _create_target_stack(sr, source, plan, spec=spec)
            elif plan.fresh:
                _create_target(sr, source, plan, spec=spec)
        except (ArchiveError, OSError) as error:
            # One item that cannot be made must not stop the others.
            where = plan if isinstance(plan, ChunkPlan) else plan.row
            name = plan.stack if isinstance(plan, ChunkPlan) else plan.row.item
            ledger.put_units(_failed(name, where.fingerprint, plan.tiles, error))
            continue
        if isinstance(plan, ChunkPlan):
            yield _chunk_task(plan, job, spec=spec, limit_s=limit_s)
        else:
            yield from _item_tasks(plan, job, limit_s=limit_s, together_px=together_px)


def _item_tasks(
    plan: ItemPlan, job: Job, *, limit_s: float, together_px: int
) -> Iterator[UpscaleTask]:
    own = job.source_dir.parent == job.folder
    side = plan.grid.tile_px + 2 * plan.grid.halo_px
    many = max(1, min(_UNITS_A_TASK, together_px // (side * side)))
    for start in range(0, len(plan.tiles), many):
        yield UpscaleTask(
            item=plan.row.item,
            tiles=plan.tiles[start : start + many],
            fingerprint=plan.row.fingerprint,
            grid=plan.grid,
            source_dir=job.source_dir,
            sr_dir=job.sr_dir,
            source_sha256="" if own else plan.row.sha256,
            limit_s=limit_s,
        )


def _chunk_task(plan: ChunkPlan, job: Job, *, spec: UpscaleSpec, limit_s: float) -> StackTask:
    kind = Kind.of(plan.stack)
    return StackTask(
        item=plan.stack,
        tiles=plan.tiles,
        fingerprint=plan.fingerprint,
        chunk_pixels=len(plan.rows) * kind.height * kind.width,
        halo_px=spec.halo_px,
        source_dir=job.source_dir,
        sr_dir=job.sr_dir,
        source_sha256=plan.content,
        facts={**_facts(spec, plan.fingerprint), "spec": stack_spec(spec, plan.stack)},
        limit_s=limit_s,
    )


def _unit_by_unit(task: UpscaleTask | StackTask) -> Iterator[UpscaleTask | StackTask]:
    """Yield a task for each unit: one that kills its worker must not take others with it."""
    for tile in task.tiles:
        yield replace(task, tiles=(tile,))


def _create_target(sr: Archive, source: Archive, plan: ItemPlan, *, spec: UpscaleSpec) -> None:
    row, scale = plan.row, spec.scale
    height, width = row.height * scale, row.width * scale
    origin = source.provenance(row.item) or {}
    sr.create(
        row.item,
        shape=(row.channels, height, width),
        dtype=row.dtype,
        layout=Layout.of(height=height, width=width, shard_px=spec.tile_px * scale),
        provenance={
            **{name: origin[name] for name in COPIED if name in origin},
            **_facts(spec, row.fingerprint),
        },
    )


def _create_target_stack(
    sr: Archive, source: Archive, plan: ChunkPlan, *, spec: UpscaleSpec
) -> None:
    """Make the SR stack where there is none of its size, with room for the chunks of the LR."""
    lr = source.stack(plan.stack)
    kind = enlarged(lr.kind, spec.scale)
    if not sr.has_stack(plan.stack) or sr.stack(plan.stack).kind != kind:
        size = lr.chunk_members
        sr.create_stack(plan.stack, kind, chunk_members=size, chunks=lr.chunks)
    sr.stack(plan.stack).grow(lr.chunks)
    for row in plan.rows:
        sr.delete_own(row.item)  # Of the time when it was an image of its own.


def _facts(spec: UpscaleSpec, fingerprint: str) -> dict[str, Any]:
    """Return what the provenance of SR pixels says of how they were made."""
    return {
        "fingerprint": fingerprint,
        "spec": asdict(spec),
        "upres_version": version("upres"),
        "statement": _INTERPOLATED if is_interpolation(spec.model) else _SYNTHESISED,
    }


def _record(
    outcomes: Iterable[Outcome[UpscaleTask | StackTask, list[UnitRow]]],
    ledger: Ledger,
    *,
    spec: UpscaleSpec,
    run: str,
    planned: int,
    report: Callable[[UpscaleProgress], None],
) -> int:
    """Write outcomes to the ledger; return how many units were done."""
    done = failed = pixels = 0
    for task, rows in recorded(outcomes, ledger, run=run, failed=_failed_whole):
        done += sum(row.state == DONE for row in rows)
        failed += sum(row.state == FAILED for row in rows)
        pixels += sum(task.pixels(row.tile) for row in rows if row.state == DONE)
        report(UpscaleProgress(done, failed, planned, pixels * spec.scale**2 / 1e6))
    return done


def _failed_whole(task: UpscaleTask | StackTask, error: BaseException) -> list[UnitRow]:
    return _failed(task.item, task.fingerprint, task.tiles, error)


def _failed(
    item: str, fingerprint: str, tiles: Iterable[int], error: BaseException
) -> list[UnitRow]:
    """Return the rows of tiles of one item (chunks of one stack) that failed for one reason."""
    rows = (UnitRow(item=item, tile=tile, fingerprint=fingerprint, state=FAILED) for tile in tiles)
    return [failed_unit(row, error) for row in rows]
