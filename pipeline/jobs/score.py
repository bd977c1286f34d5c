"""Score: PSNR and SSIM of every tile, against originals or against the LR input itself."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from models.interpolation import enlarge
from models.interpolation import reduce as reduce_picture
from pipeline.compute.driver import work_through
from pipeline.compute.inference import from_unit_range, to_unit_range
from pipeline.compute.metrics import timed
from pipeline.compute.outcomes import Failure
from pipeline.compute.silence import Silence
from pipeline.errors import ArchiveError, PictureError, UsageError
from pipeline.geometry import Rect, Span, TileGrid
from pipeline.jobs.item_images import lr_image, sr_image
from pipeline.jobs.scores import BICUBIC, CONSISTENCY, REFERENCE
from pipeline.jobs.together import Done, Together, each, read_ahead, together
from pipeline.pictures.files import decode_picture
from pipeline.pictures.metrics import (
    Scores,
    score_region,
    score_tile,
    score_window,
)
from pipeline.pictures.picture import WHITE
from pipeline.sources.listing import list_source
from pipeline.sources.name_forms import by_form
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import INGESTED, LR, SR, ItemCount, ItemRow, Ledger, ScoreRow
from pipeline.storage.spool import spooling_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from pipeline.compute.stop import Stop
    from pipeline.jobs.job import Job
    from pipeline.sources.source_file import SourceFile
    from pipeline.storage.image import StoredImage
    from pipeline.storage.store import Place

_BICUBIC_REACH_PX = 2


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """One item to score; `reference` is its original, None where there is none."""

    row: ItemRow
    grid: TileGrid
    scale: int
    source_dir: Place
    sr_dir: Place
    reference: SourceFile | None


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """The items that scoring is about to measure, and those that it cannot."""

    tasks: tuple[ScoreTask, ...]
    failures: tuple[Failure, ...]
    let_go: int = 0
    """How many items keep the scores that they have, as their pixels were let go."""


@timed("score")
def run_score(
    plan: ScorePlan,
    *,
    ledger: Ledger,
    client: Client | None,
    stop: Stop | None = None,
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[Failure]:
    """Score the items of a plan; return those that could not be scored.

    Earlier scores of the job are replaced, but for those of items that were let go. `client` may be
    None where there are no tasks.
    """
    tasks, failures = plan.tasks, list(plan.failures)
    if client is None:
        return failures
    fresh = True
    n = 0
    silence = Silence(*(task.sr_dir for task in tasks[:1]))
    for group, outcomes in work_through(client, score_items, together(tasks), stop=stop):
        scored = [score for done in outcomes for score in done.result or ()]
        if fresh and any(done.result is not None for done in outcomes):
            # Only now: earlier scores must not be lost to a reference that fits nothing.
            ledger.forget_scores()
            fresh = False
        ledger.put_scores(scored)
        for task, done in zip(group.tasks, outcomes, strict=True):
            if done.result is None:
                failures.append(Failure.of(task.row.item, done.error))
        n += len(outcomes)
        report(n, len(tasks))
        silence.hear(type(done.error).__name__ if done.error else "" for done in outcomes)
    return sorted(failures, key=lambda failure: failure.item)


def plan_score(job: Job, *, reference: str | None, ledger: Ledger, names: str = "") -> ScorePlan:
    """Return a task for each item that can be scored, and a failure for each that cannot.

    An item is scored once all its tiles are done. With `reference` (a source of HR pictures,
    matched by path, then by path without extension) SR and bicubic are compared with HR; without it
    SR is reduced and compared with its LR.

    Raises:
        SourceError: if there is nothing at `reference`.
        UsageError: if none of the job's items has an original there.
    """
    counts = [c for c in ledger.count_items() if c.state == INGESTED]
    ready = {c.item for c in counts if _is_done(c)}
    gone = {row.item for archive in (LR, SR) for row in ledger.each_let_go(archive)}
    here = ready - gone
    rows = [row for row in ledger.items(INGESTED) if row.item in here]
    originals = None
    if reference is not None:
        originals = match_originals(list_source(reference, names=names), rows)
    if originals is not None and rows and not originals:
        raise UsageError(
            f"none of {len(rows)} items has an original in {reference}; originals are matched by "
            f"path, for example {PurePosixPath(rows[0].item).with_suffix('.*')}"
        )
    sr = job.open_sr()
    tasks = []
    failures = [
        Failure.not_done(c.item, f"{c.done} of {c.units} tiles are done; not scored")
        for c in counts
        if not _is_done(c)
    ]
    for row in rows:
        if originals is not None and row.item not in originals:
            failures.append(Failure(row.item, None, "SourceError", f"no original in {reference}"))
            continue
        try:
            spec = sr_image(sr, row).provenance["spec"]
        except ArchiveError as error:
            failures.append(Failure.of(row.item, error))
            continue
        grid = TileGrid(row.height, row.width, spec["tile_px"], spec["halo_px"])
        original = None if originals is None else originals[row.item]
        tasks.append(ScoreTask(row, grid, spec["scale"], job.source_dir, job.sr_dir, original))
    return ScorePlan(tuple(tasks), tuple(failures), len(ready & gone))


def match_originals(files: Iterable[SourceFile], rows: Iterable[ItemRow]) -> dict[str, SourceFile]:
    """Return item -> original: the file of the same path, else the only one of the same stem.

    Both in whatever form of Unicode: what is written as the item is goes first.
    """
    by_path = {file.item: file for file in files}
    by_stem: dict[str, list[SourceFile]] = defaultdict(list)
    for file in by_path.values():
        by_stem[_stem(file.item)].append(file)
    items = [row.item for row in rows]
    matched = by_form(by_path, items)
    stems = by_form(by_stem, set(map(_stem, items)))
    for item in items:
        same_stem = stems.get(_stem(item), [])
        if item not in matched and len(same_stem) == 1:
            matched[item] = same_stem[0]
    return matched


def score_items(group: Together[ScoreTask]) -> list[Done[list[ScoreRow]]]:
    """Score all tiles of each item of a group on the worker that runs it.

    The outcome of an item is a PictureError if its original is not a picture, or not one of its
    size.
    """
    archives = Archive.open(group.tasks[0].source_dir), Archive.open(group.tasks[0].sr_dir)
    for archive in archives:
        read_ahead(archive, [task.row for task in group.tasks])
    return each(group.tasks, partial(_score_item, *archives))


def _score_item(source: Archive, upscaled: Archive, task: ScoreTask) -> list[ScoreRow]:
    lr, sr = lr_image(source, task.row), sr_image(upscaled, task.row)
    if task.reference is None:
        return [_row(task, t, CONSISTENCY, _consistency(task, t, lr, sr)) for t in task.grid]
    with spooling_in(task.sr_dir):
        hr = _read_original(task.reference, sr)
        return [
            _row(task, tile, kind, scores)
            for tile in task.grid
            for kind, scores in _against_original(task, tile, lr, sr, hr).items()
        ]


def _against_original(
    task: ScoreTask, tile: int, lr: StoredImage, sr: StoredImage, hr: NDArray[Any]
) -> dict[str, Scores]:
    """Return the tile's scores of SR and of bicubic, by the published protocol's border."""
    height, width = sr.size
    region = score_region(height, width, border_px=task.scale)
    core = task.grid.core(tile).scaled(task.scale)
    window = None if region is None else score_window(core, region=region)
    if region is None or window is None:
        return {REFERENCE: Scores(), BICUBIC: Scores()}
    peak = WHITE[str(sr.dtype)]
    original = hr[window.index]
    pictures = {REFERENCE: sr.read(window), BICUBIC: _bicubic(lr, window, task.scale)}
    return {
        kind: score_tile(
            picture, original, window=window, core=core, region=region, data_range=peak
        )
        for kind, picture in pictures.items()
    }


def _consistency(task: ScoreTask, tile: int, lr: StoredImage, sr: StoredImage) -> Scores:
    """Return how well the tile's SR, reduced again, agrees with the LR it came from."""
    region = Rect(Span(0, lr.size[0]), Span(0, lr.size[1]))
    core = task.grid.core(tile)
    window = score_window(core, region=region)
    if window is None:
        return Scores()
    wider = window.grown(_BICUBIC_REACH_PX, limit=lr.size)
    enlarged = to_unit_range(sr.read(wider.scaled(task.scale)))
    reduced = from_unit_range(
        reduce_picture(enlarged, scale=task.scale, method="bicubic"), lr.dtype
    )
    return score_tile(
        reduced[window.within(wider)],
        lr.read(window),
        window=window,
        core=core,
        region=region,
        data_range=WHITE[str(lr.dtype)],
    )


def _bicubic(lr: StoredImage, window: Rect, scale: int) -> NDArray[Any]:
    """Return what bicubic enlargement makes of the pixels in `window` of the SR picture."""
    small = window.reduced(scale).grown(_BICUBIC_REACH_PX, limit=lr.size)
    enlarged = enlarge(to_unit_range(lr.read(small)), scale=scale, method="bicubic")
    return from_unit_range(enlarged, lr.dtype)[window.within(small.scaled(scale))]


def _read_original(file: SourceFile, sr: StoredImage) -> NDArray[Any]:
    """Return the original's pixels, cut to the size of the SR picture.

    An original whose sides are not multiples of the scale was cut at the bottom and the right
    before it was reduced, by less than the scale.
    """
    pixels = decode_picture(file.read(), name=file.item).pixels
    height, width = sr.size
    spec_scale = int(sr.provenance["spec"]["scale"])
    extra = (pixels.shape[1] - height, pixels.shape[2] - width)
    if not all(0 <= e < spec_scale for e in extra):
        raise PictureError(
            f"original {file.item} is {pixels.shape[1]}x{pixels.shape[2]}, expected "
            f"{height}x{width} (rows x columns); is it the picture that the LR was made from?"
        )
    if str(pixels.dtype) != str(sr.dtype):
        raise PictureError(f"original {file.item} is {pixels.dtype}, expected {sr.dtype}")
    return _with_channels_of(pixels[:, :height, :width], sr, file)


def _with_channels_of(pixels: NDArray[Any], sr: StoredImage, file: SourceFile) -> NDArray[Any]:
    colours, expected = (
        pixels.shape[0] - (pixels.shape[0] + 1) % 2,
        sr.channels - (sr.channels + 1) % 2,
    )
    if colours != expected:
        raise PictureError(
            f"original {file.item} has {colours} colour channels, expected {expected}; convert it"
        )
    return pixels


def _row(task: ScoreTask, tile: int, kind: str, scores: Scores) -> ScoreRow:
    return ScoreRow(
        item=task.row.item,
        tile=tile,
        kind=kind,
        fingerprint=task.row.fingerprint,
        error_total=scores.error.total,
        error_count=scores.error.count,
        ssim_total=scores.similarity.total,
        ssim_count=scores.similarity.count,
    )


def _is_done(count: ItemCount) -> bool:
    return count.units > 0 and count.done == count.units


def _stem(item: str) -> str:
    return str(PurePosixPath(item).with_suffix(""))
