"""The report: one page that shows what a job did, how well, and what failed.

Here belongs what a report says of a job and in which order. How a picture is made small is in
`portraits`, what a cell of a map says in `tile_maps`, and how all of it looks in the template. The
page is one file that loads nothing: it can be mailed, or opened years later.
"""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.compute.status import JobStatus, read_status
from pipeline.compute.threads import in_threads
from pipeline.errors import ArchiveError
from pipeline.geometry import Rect, TileGrid
from pipeline.jobs.choice import Chosen, chosen_models
from pipeline.jobs.item_images import lr_image, sr_image
from pipeline.jobs.scores import ItemScores, read_scores
from pipeline.reports import portraits as preview
from pipeline.reports import tile_maps as tilemap
from pipeline.reports.html import render
from pipeline.reports.tile_maps import FAILED, PENDING, SCORED, UNSCORED, Cell, Figures, TileState
from pipeline.storage.archive_group import is_archive
from pipeline.storage.atomic import write_atomic
from pipeline.storage.ledger import DONE, INGESTED, ItemCount, ItemRow, Ledger
from pipeline.storage.own_files import check_own, is_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipeline.jobs.job import Job
    from pipeline.storage.store import Place

MAX_PORTRAITS = 24
MAX_LINES = 5_000
MAX_FAILURES = 500
MAX_NOTES = 500

_NOT_BEGUN = "Not upscaled yet; repeat `upres upscale` to continue."
_BOXES = ((190.0, 440.0), (400.0, 210.0))
"""Rows and columns, in CSS pixels, for overview and tile map each: stacked, or side by side."""

_FILTERS: dict[str, Callable[..., str]] = {
    "psnr": tilemap.psnr,
    "ssim": tilemap.ssim,
    "signed": tilemap.signed,
    "px": lambda length: f"{length:.2f}".rstrip("0").rstrip("."),
}


@dataclass(frozen=True, slots=True)
class ItemLine:
    """One item as the table shows it."""

    row: ItemRow
    count: ItemCount
    state: str
    figures: Figures
    worst: TileState | None
    chosen: Chosen | None = None
    """The model of this item, where it was chosen for it and not named for all."""

    @property
    def rank(self) -> tuple[bool, float, bool, str]:
        """Return a key that sorts the worst scored first, then the unscored, failed ones first."""
        value = self.figures.value
        unscored = value is None
        return (unscored, value or 0.0, self.state != FAILED, self.row.item)


@dataclass(frozen=True, slots=True)
class Means:
    """Means over the items whose figures are all finite; `left_out` have infinite PSNR."""

    figures: Figures
    items: int
    left_out: int

    @classmethod
    def of(cls, measured: Iterable[Figures]) -> Means:
        """Return the means of items that were all compared with the same kind of thing."""
        known = [f for f in measured if f.psnr is not None]
        finite = [f for f in known if all(map(math.isfinite, (f.psnr or 0, f.bicubic_psnr or 0)))]
        names = ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim")
        means = {name: _mean(getattr(f, name) for f in finite) for name in names}
        against_bicubic = any(f.against_bicubic for f in known)
        figures = Figures(**means, against_bicubic=against_bicubic)
        return cls(figures, len(finite), len(known) - len(finite))


@dataclass(frozen=True, slots=True)
class TileMap:
    """The tiles of one item, drawn `unit` CSS pixels large for each LR pixel."""

    cells: Sequence[Cell]
    height: float
    width: float
    unit: float


@dataclass(frozen=True, slots=True)
class Portrait:
    """One item in pictures; what could not be made is None, and `reasons` say why."""

    line: ItemLine
    scale: int = 1
    overview: str | None = None
    bicubic: str | None = None
    sr: str | None = None
    window_lr: Rect | None = None
    map: TileMap | None = None
    reasons: tuple[str, ...] = ()

    @property
    def width(self) -> float:
        """Return how wide overview and map are on the page, in CSS pixels."""
        return self.line.row.width * _unit(self.line.row.height, self.line.row.width)


def write_report(job: Job) -> Place:
    """Write the report of `job`, whole or not at all, and return where it is.

    A job in any state has one: empty, half done, not scored, or with damaged archives. At most 24
    items are shown in pictures; of a larger job these are the worst scored.

    Raises:
        LedgerError: if the ledger cannot be read.
        OccupiedError: if a page of somebody else is in its place.
        OSError: if the page cannot be written.
    """
    check_own(job.report_path, is_report)
    ledger = job.open_ledger_to_read()
    try:
        with in_threads(1):
            page = render("report.html", _facts(job, ledger), filters=_FILTERS)
    finally:
        ledger.close()
    write_atomic(job.report_path, page, readers=job.readers)
    return job.report_path


def portraits_of(job: Job, *, most: int) -> list[Portrait]:
    """Return the items most worth a look in pictures: all, or the `most` worst scored."""
    with closing(job.open_ledger_to_read()) as ledger, in_threads(1):
        scores = {found.item: found for found in read_scores(ledger)}
        status, chosen = read_status(job.folder, ledger), chosen_models(ledger)
        lines = _item_lines(status, ledger.items(), scores, chosen)
        shown = _most_telling([line for line in lines if line.row.state == INGESTED], most)
        return _portraits(job, ledger, shown, scores)


def _facts(job: Job, ledger: Ledger) -> dict[str, Any]:
    """Return all the values of the template."""
    status = read_status(job.folder, ledger)
    scores = {found.item: found for found in read_scores(ledger)}
    chosen = chosen_models(ledger)
    lines = _item_lines(status, ledger.items(), scores, chosen)
    shown = _most_telling([line for line in lines if line.row.state == INGESTED], MAX_PORTRAITS)
    portraits = _portraits(job, ledger, shown, scores)
    means = Means.of(line.figures for line in lines if line.row.state == INGESTED)
    specs = _specs(job, shown)
    return {
        "job": job,
        "name": job.folder.resolve().name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "runs": ledger.runs(),
        "specs": specs,
        "scale": specs[0]["spec"]["scale"] if specs else None,
        "status": status,
        "means": means,
        "colours": tilemap.GAIN if means.figures.against_bicubic else tilemap.AGREEMENT,
        "scored": means.items + means.left_out,
        "lines": _most_telling(lines, MAX_LINES),
        "lines_total": len(lines),
        "chosen": bool(chosen),
        "stacked": any(line.row.stack for line in lines),
        "unscored": sum(line.state == "done" and line.figures.psnr is None for line in lines),
        "portraits": portraits,
        "portraits_total": status.items.total()
        - status.items["rejected"]
        - status.items["vanished"],
        "failures": status.failures[:MAX_FAILURES],
        "failures_total": len(status.failures),
        "notes": status.notes[:MAX_NOTES],
        "notes_total": len(status.notes),
    }


def _item_lines(
    status: JobStatus,
    rows: Iterable[ItemRow],
    scores: Mapping[str, ItemScores],
    chosen: Mapping[str, Chosen],
) -> list[ItemLine]:
    counts = {count.item: count for count in status.counts}
    lines = []
    for row in rows:
        found = scores.get(row.item)
        figures = Figures() if found is None else Figures.of(found.kinds)
        worst = None if found is None else _worst_tile(found)
        count = counts[row.item]
        state = status.item_state(count)
        lines.append(ItemLine(row, count, state, figures, worst, chosen.get(row.item)))
    return lines


def _worst_tile(scores: ItemScores) -> TileState | None:
    tiles = [tile for tile in scored_tiles(scores).values() if tile.state == SCORED]
    return min(tiles, key=lambda tile: tile.badness, default=None)


def scored_tiles(scores: ItemScores) -> dict[int, TileState]:
    """Return the tiles of an item that were scored, or were too small to be."""
    numbers = sorted({tile for tiles in scores.tiles.values() for tile in tiles})
    measured = {
        tile: Figures.of(
            {kind: tiles[tile] for kind, tiles in scores.tiles.items() if tile in tiles}
        )
        for tile in numbers
    }
    return {
        tile: TileState(tile, UNSCORED if figures.value is None else SCORED, figures)
        for tile, figures in measured.items()
    }


def _most_telling(lines: list[ItemLine], most: int) -> list[ItemLine]:
    """Return all lines in the order of their items, or the `most` worst where there are more."""
    if len(lines) <= most:
        return lines
    return sorted(lines, key=lambda line: line.rank)[:most]


def _portraits(
    job: Job, ledger: Ledger, lines: Sequence[ItemLine], scores: Mapping[str, ItemScores]
) -> list[Portrait]:
    reasons: dict[str, dict[int, str]] = defaultdict(dict)
    for unit in ledger.failures():
        reasons[unit.item][unit.number] = f"{unit.error}: {unit.message}"
    portraits = []
    for line in lines:
        row = line.row
        done = ledger.tiles_of(row, DONE)
        scored = scored_tiles(scores[row.item]) if row.item in scores else {}
        # The state comes first: a tile that is pending again may still have an earlier score.
        known = {t: scored.get(t) or TileState(t, UNSCORED, Figures()) for t in done}
        why = reasons[row.stack].get(row.chunk, "")
        own = {0: why} if row.stack and why else reasons[row.item]
        failed = {t: TileState(t, FAILED, Figures(), reason) for t, reason in own.items()}
        portraits.append(_portrait(job, line, done, known | failed))
    return portraits


def _has_pixels(job: Job, row: ItemRow) -> bool:
    """Return whether the SR archive holds anything of an item."""
    return bool(row.stack) or (
        is_archive(job.sr_dir) and job.open_sr().provenance(row.item) is not None
    )


def _portrait(job: Job, line: ItemLine, done: set[int], known: Mapping[int, TileState]) -> Portrait:
    """Return the item in pictures; damage costs the pictures it concerns, and no others."""
    portrait = Portrait(line)
    try:
        lr = lr_image(job.open_source(), line.row)
        small = preview.overview(lr)
    except ArchiveError as error:
        return replace(portrait, reasons=(str(error),))
    portrait = replace(portrait, overview=preview.data_uri(small))
    if line.state == PENDING and not done and not _has_pixels(job, line.row):
        return replace(portrait, reasons=(_NOT_BEGUN,))
    try:
        sr = sr_image(job.open_sr(), line.row)
    except ArchiveError as error:
        return replace(portrait, reasons=(str(error),))
    spec = sr.provenance["spec"]
    grid = TileGrid(*lr.size, spec["tile_px"], spec["halo_px"])
    tiles = [known.get(tile) or TileState(tile, PENDING, Figures()) for tile in grid]
    portrait = replace(portrait, scale=spec["scale"], map=_map_of(grid, tiles))
    try:
        found = preview.compare(lr, sr, scale=spec["scale"], grid=grid, done=done, small=small)
    except ArchiveError as error:
        return replace(portrait, reasons=(str(error),))
    if found is None:
        return replace(portrait, reasons=("No tile is done yet, so there is nothing to compare.",))
    return replace(
        portrait,
        bicubic=preview.data_uri(found.bicubic),
        sr=preview.data_uri(found.sr),
        window_lr=found.window_lr,
    )


def _map_of(grid: TileGrid, tiles: Iterable[TileState]) -> TileMap:
    unit = _unit(grid.height, grid.width)
    cells = tilemap.tile_map(grid, tiles)
    return TileMap(cells, grid.height * unit, grid.width * unit, unit)


def _unit(height: int, width: int) -> float:
    """Return how many CSS pixels an LR pixel takes in the box where the picture is largest."""
    return max(min(rows / height, cols / width) for rows, cols in _BOXES)


def _specs(job: Job, lines: Sequence[ItemLine]) -> list[Mapping[str, Any]]:
    """Return the distinct provenances of the items shown: one, or one for each model."""
    specs: dict[str, Mapping[str, Any]] = {}
    try:
        sr = job.open_sr()
    except ArchiveError:
        return []
    for line in lines:
        with suppress(ArchiveError):
            found = sr_image(sr, line.row).provenance
            specs.setdefault(repr((found["spec"], found.get("upres_version"))), found)
    return list(specs.values())


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
