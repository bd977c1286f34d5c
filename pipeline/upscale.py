"""Upscale: from the LR archive to the SR archive, unit by unit.

A unit is one tile. A worker reads the tile's window, runs the network, crops the core and writes
the one shard that the core is; the driver records it once the pixels are durable.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from models.reach import reach_px
from pipeline.cluster import (
    Outcome,
    Stop,
    on_every_worker,
    submit_windowed,
    torch_threads,
    worker_name,
    worker_state,
)
from pipeline.errors import ModelError, UpresError, UsageError
from pipeline.geometry import TileGrid
from pipeline.inference import Inference, load_model, resolve_device, resolve_precision
from pipeline.storage.archive import Archive, Layout, StoredImage
from pipeline.storage.ledger import DONE, FAILED, INGESTED, ItemRow, Ledger, UnitRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from pipeline.cluster import Client
    from pipeline.job import Job

DEFAULT_TILE_PX = 512
_BATCH_S = 2.0
"""How long outcomes may wait in memory before they are recorded: what a kill costs at most."""
_UNITS_A_TASK = 16
_PIXELS_A_TASK = 512 * 512
_STATEMENT = (
    "Pixels of this image were synthesised by a neural network from a smaller picture; detail in "
    "it may never have existed. Do not use it to identify a person."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleSpec:
    """Everything that decides pixels, and how they are cut into shards."""

    model: str
    weights_sha256: str
    scale: int
    tile_px: int
    halo_px: int
    precision: str
    format: int = 1
    """Raised when the engine itself changes what it writes."""

    def __post_init__(self) -> None:
        if self.tile_px < 16:
            raise UsageError(f"tile is {self.tile_px} px, expected at least 16")
        if self.halo_px < 0:
            raise UsageError(f"halo is {self.halo_px} px, expected at least 0")

    def fingerprint(self) -> str:
        """Return a hash of every field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def item_fingerprint(self, source_sha256: str) -> str:
        """Return the fingerprint of upscaling the picture with this content by this spec."""
        return hashlib.sha256(f"{self.fingerprint()} {source_sha256}".encode()).hexdigest()

    def grid(self, height: int, width: int) -> TileGrid:
        """Return the tiles of an LR picture."""
        return TileGrid(height, width, self.tile_px, self.halo_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAddress:
    """Where a worker finds the model of a spec, and what it runs it on."""

    name_or_file: str
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class UpscaleTask:
    """Some units of one item, as a worker gets them: addresses only."""

    item: str
    tiles: tuple[int, ...]
    fingerprint: str
    grid: TileGrid
    source_dir: Path
    sr_dir: Path


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


def make_spec(
    name_or_file: str, *, tile_px: int, halo: str | int, precision: str, device: str
) -> UpscaleSpec:
    """Return the spec of upscaling with a model; its halo defaults to the network's own reach.

    Raises:
        ModelError: if the model is unknown or damaged, or cannot be tiled (then give a halo).
        UsageError: if an option is outside its range.
    """
    model = load_model(name_or_file)
    if halo == "auto":
        reach = reach_px(model.network, channels=model.spec.channels)
        if reach is None:
            raise ModelError(
                f"{model.spec.name} looks at the whole picture, so no halo is wide enough to tile "
                "it exactly; give --halo PX to accept seams"
            )
        halo = reach
    return UpscaleSpec(
        model=model.spec.name,
        weights_sha256=model.sha256,
        scale=model.spec.scale,
        tile_px=tile_px,
        halo_px=int(halo),
        precision=resolve_precision(precision, device=resolve_device(device)),
    )


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
        wanted = replace(row, fingerprint=spec.item_fingerprint(row.sha256))
        grid = spec.grid(row.height, row.width)
        wanted = replace(wanted, units=len(grid))
        fresh = not holds(wanted)
        finished = set() if fresh else done(wanted)
        yield ItemPlan(wanted, grid, tuple(t for t in grid if t not in finished), fresh)


def run_upscale(
    job: Job,
    *,
    spec: UpscaleSpec,
    model: ModelAddress,
    ledger: Ledger,
    client: Client,
    run: str,
    only: Callable[[str, int], bool] = lambda _item, _tile: True,
    stop: Stop | None = None,
    report: Callable[[UpscaleProgress], None] = lambda _: None,
) -> int:
    """Compute every planned unit that `only` lets through; return how many were computed.

    Whatever fails is recorded with its reason and does not stop the others.
    """
    Archive.open_or_create(job.sr_dir)
    plans = _open_plans(job, spec=spec, ledger=ledger)
    plans = [replace(p, tiles=tuple(t for t in p.tiles if only(p.row.item, t))) for p in plans]
    planned = sum(len(p.tiles) for p in plans)
    report(UpscaleProgress(0, 0, planned, 0.0))
    if not planned:
        return 0
    build = partial(load_inference, model, spec)
    on_every_worker(client, spec.fingerprint(), build)
    tasks = _tasks(plans, job)
    work = partial(upscale_units, key=spec.fingerprint())
    outcomes = submit_windowed(client, work, tasks, stop=stop)
    return _record(outcomes, ledger, spec=spec, run=run, planned=planned, report=report)


def load_inference(address: ModelAddress, spec: UpscaleSpec) -> Inference:
    """Return the network of `spec`, ready to run on this machine.

    Raises:
        ModelError: if this machine finds other weights than the spec names.
    """
    threads = torch_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(address.name_or_file)
    if model.sha256 != spec.weights_sha256:
        raise ModelError(
            f"weights of {address.name_or_file} on {socket.gethostname()} have sha256 "
            f"{model.sha256[:12]}, expected {spec.weights_sha256[:12]}; copy the same file there"
        )
    return Inference.of(
        model.network,
        scale=spec.scale,
        channels=model.spec.channels,
        precision=spec.precision,
        device=resolve_device(address.device),
    )


def upscale_units(task: UpscaleTask, *, key: str) -> list[UnitRow]:
    """Compute the units of one task on the worker that runs it; safe to run twice."""
    inference: Inference = worker_state(key)
    source = Archive.open(task.source_dir).image(task.item)
    target = Archive.open(task.sr_dir).image(task.item)
    return [upscale_unit(task, tile, inference, source, target) for tile in task.tiles]


def upscale_unit(
    task: UpscaleTask, tile: int, inference: Inference, source: StoredImage, target: StoredImage
) -> UnitRow:
    """Compute and write one tile; return its outcome, with the reason where it failed."""
    began = time.perf_counter()
    row = UnitRow(
        item=task.item,
        tile=tile,
        fingerprint=task.fingerprint,
        state=DONE,
        worker=worker_name(),
    )
    try:
        core, window = task.grid.core(tile), task.grid.window(tile)
        sr = inference.enlarge(source.read(window))
        scale = inference.scale
        inside = core.scaled(scale).within(window.scaled(scale))
        target.replace(core.scaled(scale), sr[inside])
    except Exception as error:
        row = replace(row, state=FAILED, error=type(error).__name__, message=_reason(error))
    return replace(row, seconds=time.perf_counter() - began)


def _open_plans(job: Job, *, spec: UpscaleSpec, ledger: Ledger) -> list[ItemPlan]:
    """Return the plan of a run, once ledger and SR archive agree with it."""
    sr, source = job.open_sr(), job.open_source()
    plans = list(
        plan_upscale(
            ledger.items(INGESTED),
            spec=spec,
            done=lambda row: ledger.tiles(row.item, fingerprint=row.fingerprint, state=DONE),
            holds=lambda row: (sr.provenance(row.item) or {}).get("fingerprint") == row.fingerprint,
        )
    )
    for plan in plans:
        if plan.fresh:
            # In this order: a kill in between leaves units pending, never done without pixels.
            ledger.forget_units(plan.row.item)
            _create_target(sr, source, plan, spec=spec)
    ledger.put_items(plan.row for plan in plans)
    return plans


def _create_target(sr: Archive, source: Archive, plan: ItemPlan, *, spec: UpscaleSpec) -> None:
    row, scale = plan.row, spec.scale
    height, width = row.height * scale, row.width * scale
    described = {
        name: value
        for name, value in source.image(row.item).provenance.items()
        if name
        in (
            "source",
            "sha256",
            "size_bytes",
            "mtime_ns",
            "format",
            "mode",
            "icc",
            "exif",
            "xmp",
            "dpi",
        )
    }
    sr.create(
        row.item,
        shape=(row.channels, height, width),
        dtype=row.dtype,
        layout=Layout.of(height=height, width=width, shard_px=spec.tile_px * scale),
        provenance={
            **described,
            "fingerprint": row.fingerprint,
            "spec": asdict(spec),
            "upres_version": version("upres"),
            "statement": _STATEMENT,
        },
    )


def _tasks(plans: Sequence[ItemPlan], job: Job) -> Iterator[UpscaleTask]:
    """Yield the tasks of all plans: few pixels or few units in each."""
    for plan in plans:
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
    done = failed = 0
    pixels = 0
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
    task = outcome.task
    error: Any = outcome.error
    return [
        UnitRow(
            item=task.item,
            tile=tile,
            fingerprint=task.fingerprint,
            state=FAILED,
            error=type(error).__name__,
            message=_reason(error),
        )
        for tile in task.tiles
    ]


def _reason(error: BaseException) -> str:
    """Return one line that says why."""
    if isinstance(error, UpresError):
        return str(error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
