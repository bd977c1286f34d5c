"""What is reported of one night on a job: counts, speed, gain, what is left, what needs a look.

These are values; the caller decides how and where they are shown.
"""

from __future__ import annotations

import heapq
import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.jobs.scores import read_scores
from pipeline.reports.job_report import portraits_of, scored_tiles
from pipeline.reports.tile_maps import SCORED, TileState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.compute.outcomes import Failure
    from pipeline.jobs.job import Job
    from pipeline.jobs.results import JobResult

MOST_PICTURES = 3
MOST_PICTURE_BYTES = 1_000_000
"""Limit for all pictures of one night together, as text: the page keeps them in its database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What upscaling wrote, and in how many seconds."""

    units: int = 0
    megapixels: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Speed) -> Speed:
        """Return the sum of both, one after the other."""
        return Speed(
            units=self.units + other.units,
            megapixels=self.megapixels + other.megapixels,
            seconds=self.seconds + other.seconds,
        )

    @property
    def megapixels_per_s(self) -> float | None:
        """Return megapixels of SR per second; None where nothing was computed."""
        return self.megapixels / self.seconds if self.megapixels and self.seconds else None


@dataclass(frozen=True, slots=True)
class Look:
    """A tile that is worth a look: why it failed, or how it scored."""

    item: str
    tile: int | None
    """None for a whole item."""
    reason: str = ""
    """Why it failed; "" where it did not."""
    gain: float | None = None
    """dB over bicubic; None where there was no reference."""
    psnr: float | None = None
    """dB, against the reference or else the LR input."""


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """One window of an item as ``data:`` URIs: LR enlarged by bicubic, and SR."""

    item: str
    before: str
    after: str


def nights_left(result: JobResult, speed: Speed) -> int | None:
    """Return how many more nights like this one are needed; None where unknown.

    This is computed from pending units, or from unread files where no unit is pending.
    """
    if not result.out_of_time:
        return 0
    pending = result.status.units["pending"]
    if pending:
        return math.ceil(pending / speed.units) if speed.units else None
    read = 0 if result.ingestion is None else result.ingestion.new + result.ingestion.changed
    if result.unread:
        return math.ceil(result.unread / read) if read else None
    return 1


def worth_a_look(job: Job, failures: tuple[Failure, ...], *, most: int) -> list[Look]:
    """Return what failed, and then the worst scored tiles, each `most` at most."""
    failed = [Look(f.item, f.tile, f"{f.error}: {f.message}") for f in failures[:most]]
    worst = heapq.nsmallest(most, _scored(job), key=lambda found: found[1].badness)
    return failed + [
        Look(item, tile.tile, gain=tile.figures.gain, psnr=tile.figures.psnr)
        for item, tile in worst
    ]


def pictures_of(job: Job) -> list[BeforeAfter]:
    """Return the most telling windows of a job, three and a megabyte at most."""
    shown: list[BeforeAfter] = []
    size = 0
    for portrait in portraits_of(job, most=MOST_PICTURES):
        if portrait.bicubic is None or portrait.sr is None:
            continue
        size += len(portrait.bicubic) + len(portrait.sr)
        if size > MOST_PICTURE_BYTES:
            break
        shown.append(BeforeAfter(portrait.line.row.item, portrait.bicubic, portrait.sr))
    return shown


def _scored(job: Job) -> Iterator[tuple[str, TileState]]:
    with closing(job.open_ledger_to_read()) as ledger:
        scores = read_scores(ledger)
    for item in scores:
        for tile in scored_tiles(item).values():
            if tile.state == SCORED:
                yield item.item, tile
