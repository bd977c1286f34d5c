"""The report: one page that shows what a job did, how well, and what failed.

Here belongs what a report says of a job and in which order. How a picture is made small is in
`portraits`, what a cell of a map says in `tile_maps`, and how all of it looks in the template. The
page is one file that loads nothing: it can be mailed, or opened years later.
"""

from __future__ import annotations

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
from pipeline.jobs.overview import overview
from pipeline.jobs.scores import ItemScores, read_scores
from pipeline.reports import portraits, tile_maps
from pipeline.reports.html import render
from pipeline.reports.means import Means
from pipeline.reports.remains import COPY_GONE, Remains
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
    "psnr": tile_maps.psnr,
    "ssim": tile_maps.ssim,
    "signed": tile_maps.signed,
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
    specs = _specs(job, ledger, shown)
    return {
        "job": job,
        "name": job.folder.resolve().name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "runs": ledger.runs(),
        "specs": specs,
        "scale": specs[0]["spec"]["scale"] if specs else None,
        "status": status,
        "means": means,
        "colours": tile_maps.GAIN if means.figures.against_bicubic else tile_maps.AGREEMENT,
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
    remains = Remains.of(job, ledger, [line.row.item for line in lines])
    for line in lines:
        row = line.row
        done = ledger.tiles_of(row, DONE)
        scored = scored_tiles(scores[row.item]) if row.item in scores else {}
        # The state comes first: a tile that is pending again may still have an earlier score.
        known = {t: scored.get(t) or TileState(t, UNSCORED, Figures()) for t in done}
        why = reasons[row.stack].get(row.chunk, "")
        own = {0: why} if row.stack and why else reasons[row.item]
        failed = {t: TileState(t, FAILED, Figures(), reason) for t, reason in own.items()}
        portraits.append(_portrait(job, line, done, known | failed, remains))
    return portraits


def _has_pixels(job: Job, row: ItemRow) -> bool:
    """Return whether the SR archive holds anything of an item."""
    return bool(row.stack) or (
        is_archive(job.sr_dir) and job.open_sr().provenance(row.item) is not None
    )


def _portrait(
    job: Job,
    line: ItemLine,
    done: set[int],
    known: Mapping[int, TileState],
    remains: Remains,
) -> Portrait:
    """Return the item in pictures; damage costs the pictures it concerns, and no others."""
    item, portrait = line.row.item, Portrait(line)
    if (made_by := remains.made_by(item)) is not None:
        portrait = _with_map(portrait, made_by["spec"], known)
        words = remains.words(item)
        return replace(portrait, overview=remains.preview(line.row), reasons=(words,))
    try:
        if item in remains.lr:
            sr = sr_image(job.open_sr(), line.row)
            portrait = _with_map(portrait, sr.provenance["spec"], known)
            shown = portraits.data_uri(overview(sr))
            return replace(portrait, overview=shown, reasons=(COPY_GONE,))
        lr = lr_image(job.open_source(), line.row)
        small = overview(lr)
    except ArchiveError as error:
        return replace(portrait, reasons=(str(error),))
    portrait = replace(portrait, overview=portraits.data_uri(small))
    if line.state == PENDING and not done and not _has_pixels(job, line.row):
        return replace(portrait, reasons=(_NOT_BEGUN,))
    try:
        sr = sr_image(job.open_sr(), line.row)
    except ArchiveError as error:
        return replace(portrait, reasons=(str(error),))
    spec = sr.provenance["spec"]
    portrait = _with_map(portrait, spec, known)
    grid = _grid(line.row, spec)
    try:
        found = portraits.compare(lr, sr, scale=spec["scale"], grid=grid, done=done, small=small)
    except ArchiveError as error:
        return replace(portrait, reasons=(str(error),))
    if found is None:
        return replace(portrait, reasons=("No tile is done yet, so there is nothing to compare.",))
    return replace(
        portrait,
        bicubic=portraits.data_uri(found.bicubic),
        sr=portraits.data_uri(found.sr),
        window_lr=found.window_lr,
    )


def _grid(row: ItemRow, spec: Mapping[str, Any]) -> TileGrid:
    return TileGrid(row.height, row.width, spec["tile_px"], spec["halo_px"])


def _with_map(
    portrait: Portrait, spec: Mapping[str, Any], known: Mapping[int, TileState]
) -> Portrait:
    """Return a portrait with the map of its tiles, those that nothing is known of pending."""
    grid = _grid(portrait.line.row, spec)
    tiles = [known.get(tile) or TileState(tile, PENDING, Figures()) for tile in grid]
    return replace(portrait, scale=spec["scale"], map=_map_of(grid, tiles))


def _map_of(grid: TileGrid, tiles: Iterable[TileState]) -> TileMap:
    unit = _unit(grid.height, grid.width)
    cells = tile_maps.tile_map(grid, tiles)
    return TileMap(cells, grid.height * unit, grid.width * unit, unit)


def _unit(height: int, width: int) -> float:
    """Return how many CSS pixels an LR pixel takes in the box where the picture is largest."""
    return max(min(rows / height, cols / width) for rows, cols in _BOXES)


def _specs(job: Job, ledger: Ledger, lines: Sequence[ItemLine]) -> list[Mapping[str, Any]]:
    """Return the distinct provenances of the items shown: one, or one for each model."""
    specs: dict[str, Mapping[str, Any]] = {}
    try:
        sr = job.open_sr()
    except ArchiveError:
        return []
    remains = Remains.of(job, ledger, [line.row.item for line in lines])
    for line in lines:
        with suppress(ArchiveError):
            found = remains.made_by(line.row.item) or sr_image(sr, line.row).provenance
            specs.setdefault(repr((found["spec"], found.get("upres_version"))), found)
    return list(specs.values())
