"""Upscale: which units a run computes, in what order, and how their outcomes are recorded.

The driver's side; what a worker does with a unit is in `pipeline.unit`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from models.registry import is_interpolation
from pipeline.cluster import on_every_worker, submit_windowed
from pipeline.errors import ArchiveError
from pipeline.spec import UpscaleSpec
from pipeline.storage.archive import Archive, Layout
from pipeline.storage.ledger import DONE, FAILED, INGESTED, ItemRow, UnitRow
from pipeline.unit import ModelAddress, UpscaleTask, open_workbench, reason_of, upscale_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.cluster import Client, Outcome, Stop
    from pipeline.geometry import TileGrid
    from pipeline.job import Job
    from pipeline.storage.ledger import Ledger

DEFAULT_LIMIT_S = 1800.0
_BATCH_S = 2.0
"""How long outcomes may wait in memory before they are recorded: what a kill costs at most."""
_UNITS_A_TASK = 16
_PIXELS_A_TASK = 512 * 512
_COPIED = (
    "source", "sha256", "size_bytes", "mtime_ns", "format", "mode", "icc", "exif", "xmp", "dpi",
)  # fmt: skip
_INTERPOLATED = (
    "Pixels of this image were interpolated from a smaller picture; no detail was added to it."
)
_SYNTHESISED = (
    "Pixels of this image were synthesised by a neural network from a smaller picture; detail in "
    "it may never have existed. Do not use it to identify a person."
)


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """The units of one item that a run would compute."""

    row: ItemRow
    grid: TileGrid
    tiles: tuple[int, ...]
    fresh: bool
    """Whether the SR array must be made (anew) first: nothing of this fingerprint is in it."""


@dataclass(frozen=True, slots=True)
class UpscaleProgress:
    """Where a run is; `megapixels` of SR were written so far."""

    units_done: int
    units_failed: int
    units_planned: int
    megapixels: float


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
        if row.state != INGESTED:
            continue
        grid = spec.grid(row.height, row.width)
        wanted = replace(row, fingerprint=spec.item_fingerprint(row.sha256), units=len(grid))
        fresh = not holds(wanted)
        finished = set() if fresh else done(wanted)
        yield ItemPlan(wanted, grid, tuple(t for t in grid if t not in finished), fresh)


def plan_job(job: Job, *, spec: UpscaleSpec, ledger: Ledger) -> list[ItemPlan]:
    """Return what upscaling the whole job by `spec` would compute now."""
    sr = Archive.open_or_create(job.sr_dir)

    def done(row: ItemRow) -> set[int]:
        # What the ledger knows done and a person has deleted since is to be done again.
        columns = spec.grid(row.height, row.width).shape[1]
        present = {r * columns + c for r, c in sr.image(row.item).shards_present()}
        return present & ledger.tiles(row.item, fingerprint=row.fingerprint, state=DONE)

    return list(
        plan_upscale(
            ledger.items(INGESTED),
            spec=spec,
            done=done,
            holds=lambda row: (sr.provenance(row.item) or {}).get("fingerprint") == row.fingerprint,
        )
    )


def run_upscale(
    job: Job,
    plans: Sequence[ItemPlan],
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
    _declare(plans, ledger)
    planned = sum(len(plan.tiles) for plan in plans)
    report(UpscaleProgress(0, 0, planned, 0.0))
    if not planned:
        return 0
    key = spec.fingerprint()
    on_every_worker(client, key, partial(open_workbench, model, spec))
    tasks = _tasks(plans, job, spec=spec, ledger=ledger, limit_s=limit_s)
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
        if plan.fresh:
            continue
        image = sr.image(plan.row.item)
        cores = ((t, plan.grid.core(t).scaled(spec.scale)) for t in plan.tiles)
        whole = [t for t, core in cores if image.is_whole(core)]
        ledger.put_items([plan.row])
        ledger.put_units(
            UnitRow(item=plan.row.item, tile=t, fingerprint=plan.row.fingerprint, state=DONE)
            for t in whole
        )
        adopted += len(whole)
    return adopted


def mark_damaged(job: Job, item: str, ledger: Ledger) -> int:
    """Record as failed every done tile of `item` that cannot be read back; return how many."""
    try:
        image = job.open_sr().image(item)
    except ArchiveError:
        return 0  # Nothing of the item can be read: the next `upscale` makes it anew.
    (row,) = (row for row in ledger.items(INGESTED) if row.item == item)
    grid = UpscaleSpec.from_json(image.provenance["spec"]).grid(row.height, row.width)
    scale = image.size[0] // row.height
    done = ledger.tiles(item, fingerprint=row.fingerprint, state=DONE)
    damaged = [t for t in sorted(done) if not image.is_whole(grid.core(t).scaled(scale))]
    error = ArchiveError(f"{item}: the shard is damaged or missing; rerun computes it again")
    ledger.put_units(_failed(row, damaged, error))
    return len(damaged)


def _declare(plans: Sequence[ItemPlan], ledger: Ledger) -> None:
    """Make the ledger agree with the plan: what is to be made anew has no outcome any more.

    Before any pixel goes: a kill in between leaves units pending, never done without pixels.
    """
    ledger.forget_units(plan.row.item for plan in plans if plan.fresh)
    ledger.put_items(plan.row for plan in plans)


def _tasks(
    plans: Sequence[ItemPlan], job: Job, *, spec: UpscaleSpec, ledger: Ledger, limit_s: float
) -> Iterator[UpscaleTask]:
    """Yield the tasks of all plans, few pixels or few units in each.

    SR arrays are made when their first unit is due, so that a large job starts at once.
    """
    sr, source = job.open_sr(), job.open_source()
    own = job.source_dir.parent == job.folder
    for plan in plans:
        try:
            if plan.fresh:
                _create_target(sr, source, plan, spec=spec)
        except (ArchiveError, OSError) as error:
            # One item that cannot be made must not stop the others.
            ledger.put_units(_failed(plan.row, plan.tiles, error))
            continue
        side = plan.grid.tile_px + 2 * plan.grid.halo_px
        many = max(1, min(_UNITS_A_TASK, _PIXELS_A_TASK // (side * side)))
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


def _unit_by_unit(task: UpscaleTask) -> Iterator[UpscaleTask]:
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
            **{name: origin[name] for name in _COPIED if name in origin},
            "fingerprint": row.fingerprint,
            "spec": asdict(spec),
            "upres_version": version("upres"),
            "statement": _INTERPOLATED if is_interpolation(spec.model) else _SYNTHESISED,
        },
    )


def _record(
    outcomes: Iterable[Outcome[UpscaleTask, list[UnitRow]]],
    ledger: Ledger,
    *,
    spec: UpscaleSpec,
    run: str,
    planned: int,
    report: Callable[[UpscaleProgress], None],
) -> int:
    """Write outcomes to the ledger in batches; return how many units were done."""
    waiting: list[UnitRow] = []
    done = failed = pixels = 0
    written = time.monotonic()
    try:
        for outcome in outcomes:
            rows = [replace(row, run=run) for row in _rows_of(outcome)]
            waiting += rows
            done += sum(row.state == DONE for row in rows)
            failed += sum(row.state == FAILED for row in rows)
            grid = outcome.task.grid
            pixels += sum(grid.core(r.tile).pixels for r in rows if r.state == DONE) * spec.scale**2
            if time.monotonic() - written > _BATCH_S:
                ledger.put_units(waiting)
                waiting, written = [], time.monotonic()
            report(UpscaleProgress(done, failed, planned, pixels / 1e6))
    finally:
        ledger.put_units(waiting)
    return done


def _rows_of(outcome: Outcome[UpscaleTask, list[UnitRow]]) -> list[UnitRow]:
    """Return the rows of a task; where it failed whole, each of its units failed so."""
    if outcome.result is not None:
        return outcome.result
    error: Any = outcome.error
    return _failed(outcome.task, outcome.task.tiles, error)


def _failed(
    where: ItemRow | UpscaleTask, tiles: Iterable[int], error: BaseException
) -> list[UnitRow]:
    """Return the rows of tiles of one item that failed for one reason."""
    return [
        UnitRow(
            item=where.item,
            tile=tile,
            fingerprint=where.fingerprint,
            state=FAILED,
            error=type(error).__name__,
            message=reason_of(error),
        )
        for tile in tiles
    ]
