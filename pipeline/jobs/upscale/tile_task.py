"""Tiles on the worker that computes them: read a window, run the network, write a shard."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compute.outcomes import failed_unit
from pipeline.compute.silence import each_unless_silent
from pipeline.compute.transparency import has_alpha, with_hidden, without_hidden
from pipeline.errors import ArchiveError
from pipeline.jobs.upscale.units import failed_units
from pipeline.jobs.upscale.worker import outcome_here, unit_here
from pipeline.storage.archive import Archive

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.geometry import TileGrid
    from pipeline.jobs.upscale.worker import Workbench
    from pipeline.storage.ledger import UnitRow
    from pipeline.storage.store import Place


@dataclass(frozen=True, slots=True)
class TileTask:
    """Some tiles of one item, as a worker gets them: addresses only."""

    name: str
    """Id of the item."""
    numbers: tuple[int, ...]
    fingerprint: str
    grid: TileGrid
    source_dir: Place
    sr_dir: Place
    source_sha256: str
    """Hash of the content that the LR item must have; "" where the lock of the job protects it."""
    limit_s: float
    """How long one tile may take before its worker is ended: a unit that hangs never returns."""

    def pixels(self, number: int) -> int:
        """Return how many LR pixels a tile owns."""
        return self.grid.core(number).pixels

    def one_by_one(self) -> Iterator[TileTask]:
        """Yield a task for each tile."""
        for number in self.numbers:
            yield replace(self, numbers=(number,))

    def compute(self, bench: Workbench) -> list[UnitRow]:
        """Compute and write the tiles; return what became of each."""
        together = _compute_together(self, bench) if len(self.numbers) > 1 else []
        written = {row.number for row in together}
        alone = [number for number in self.numbers if number not in written]
        return together + list(_one_by_one(self, alone, bench))

    def failed(self, error: BaseException) -> list[UnitRow]:
        """Return the outcomes of units that all failed for one reason."""
        return failed_units(self, error)


def _one_by_one(task: TileTask, tiles: Sequence[int], bench: Workbench) -> Iterator[UnitRow]:
    """Compute tiles; those behind one that waited for its store in vain fail without a try."""
    return each_unless_silent(
        tiles,
        lambda tile: outcome_here(task, tile, bench, partial(_upscale_tile, task, tile, bench)),
        task.sr_dir,
        row_of=lambda row: row,
        failed=lambda tile, why: failed_unit(unit_here(task, tile), why),
    )


def _compute_together(task: TileTask, bench: Workbench) -> list[UnitRow]:
    """Compute equal windows in batches; where anything fails, return those written until then.

    The others then run one at a time, which shows which of them fails.
    """
    began = time.perf_counter()
    written: list[int] = []
    with suppress(Exception), bench.deadline.within(task.limit_s * len(task.numbers)):
        for tile in _upscale_tiles(task, bench):
            written.append(tile)  # noqa: PERF402 - what was written before an error counts.
    seconds = (time.perf_counter() - began) / max(1, len(written))
    return [replace(unit_here(task, tile), seconds=seconds) for tile in written]


def _upscale_tile(task: TileTask, tile: int, bench: Workbench) -> None:
    """Compute and write one tile."""
    grid, scale = task.grid, bench.inference.scale
    core, window = grid.core(tile), grid.window(tile)
    try:
        pixels, shown = _window(task, tile, bench)
    finally:
        # Checked first even if reading fails: that the item was replaced is the better reason.
        _check_unchanged(task)
    context = bench.inference.context(grid.height, grid.width)
    sr = bench.enlarge_core(
        context.around(shown), context.core(core), context.window(window), grid.halo_px
    )
    sr = with_hidden(sr, pixels[core.within(window)], scale)
    bench.image(task.sr_dir, task.name, task.fingerprint).replace(core.scaled(scale), sr)


def _window(task: TileTask, tile: int, bench: Workbench) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the pixels of a tile's window as they are, and as the network is to see them.

    Where alpha hides colours, a wider window is read, so that the colours that replace the hidden
    ones are the same in every tile.
    """
    grid, window = task.grid, task.grid.window(tile)
    source = bench.image(task.source_dir, task.name, task.fingerprint)
    depth_px = bench.inference.depth_px if has_alpha(source.channels) else 0
    wider = window.grown(depth_px, limit=(grid.height, grid.width))
    pixels, inner = source.read(wider), window.within(wider)
    return pixels[inner], without_hidden(pixels, depth_px)[inner]


def _upscale_tiles(task: TileTask, bench: Workbench) -> Iterator[int]:
    """Compute and write all tiles of a task, equal windows at once; yield each once written."""
    target = bench.image(task.sr_dir, task.name, task.fingerprint)
    scale = bench.inference.scale
    context = bench.inference.context(task.grid.height, task.grid.width)
    equal: dict[tuple[int, int], list[int]] = defaultdict(list)
    for tile in task.numbers:
        equal[task.grid.window(tile).shape].append(tile)
    for tiles in equal.values():
        windows, shown = zip(*(_window(task, tile, bench) for tile in tiles), strict=True)
        _check_unchanged(task)
        enlarged = bench.enlarge_all(context.around(np.stack(shown)), task.grid.halo_px)
        for tile, lr, sr in zip(tiles, windows, context.cut(enlarged, scale), strict=True):
            core, window = task.grid.core(tile), task.grid.window(tile)
            of_core = sr[core.scaled(scale).within(window.scaled(scale))]
            whole = with_hidden(np.ascontiguousarray(of_core), lr[core.within(window)], scale)
            target.replace(core.scaled(scale), whole)
            yield tile


def _check_unchanged(task: TileTask) -> None:
    """Make sure that what was just read is of the picture that the unit was planned for.

    An item is replaced by removing its provenance first and writing the new one last, so pixels
    read before this holds are the old ones.

    Raises:
        ArchiveError: if the item was replaced or removed meanwhile.
    """
    if not task.source_sha256:
        return
    found = (Archive.open(task.source_dir).provenance(task.name) or {}).get("sha256")
    if found != task.source_sha256:
        raise ArchiveError(
            f"{task.name} was changed in {task.source_dir} during the run; upscale it again"
        )
