"""What a job takes on its disk, what is still to come, and whether there is room for it.

What is to come is calculated from the LR archive: SR pictures are smoother than LR ones, so a byte
of their pixels is compressed to less. Of LR pictures that are stored as JPEG files nothing follows:
there it is what photographs take. What an export takes depends on its format, and is left out.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.constants import JPEGXL, ZSTD
from pipeline.errors import DiskError
from pipeline.storage.disk import used_by
from pipeline.storage.file_image import is_file_stored
from pipeline.storage.ledger import INGESTED, LR
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.jobs.job import Job
    from pipeline.storage.disk import Used
    from pipeline.storage.ledger import ItemRow, Ledger

_SMOOTHER = 0.75
"""How many bytes an SR pixel takes for each byte of an LR pixel: 0.7 to 0.75 for photographs."""

_OF_PHOTOGRAPHS = {ZSTD: 0.7, JPEGXL: 0.35}
"""How many bytes on the disk a byte of SR pixels takes: .53 to .71 and .30 to .39 were measured."""

_SAMPLES = 128
"""So many items of a job or more, if it has them, tell how many are stored as files."""

_CERTAIN = 0.5
"""Less than this share of what was calculated will not be enough, whatever the pictures show."""


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What each part of a job takes."""

    source: Used
    sr: Used
    other: Used
    """Ledger, report, and all else in the folder of the job."""
    coming_bytes: int
    """What the SR pictures that are not there yet will take; 0 before the first run."""
    free_bytes: int | None
    """Of the disk of the job; None in a bucket."""

    def to_json(self) -> dict[str, Any]:
        """Return the part ``disk`` of the document that ``upres status --disk`` prints."""
        return asdict(self)


def disk_use(job: Job, ledger: Ledger) -> DiskUse:
    """Look through a job, and through its LR archive where that is elsewhere."""
    source, sr, whole = (used_by(at) for at in (job.source_dir, job.sr_dir, job.folder))
    inside = source + sr if job.owns_source else sr
    upscaling = ledger.upscaling()
    scale = 0 if upscaling is None else int(upscaling["spec"]["scale"])
    coming = scale and _waiting_bytes(ledger, scale=scale) * _ratio(source, job, ledger)
    return DiskUse(source, sr, whole - inside, math.ceil(coming), free_bytes(job))


def free_bytes(job: Job) -> int | None:
    """Return how much room there is on the disk of a job; None in a bucket."""
    return None if isinstance(job.folder, BucketPlace) else shutil.disk_usage(job.folder).free


def check_room(job: Job, ledger: Ledger, *, scale: int) -> str:
    """Return a remark where the SR pictures that are to come may not fit on the disk; else "".

    Raises:
        DiskError: if they will not.
    """
    free = free_bytes(job)
    raw = _waiting_bytes(ledger, scale=scale)
    # Pixels take less than they do in memory: then there is no need to look through the archive.
    if free is None or raw <= free:
        return ""
    needed = raw * _ratio(used_by(job.source_dir), job, ledger)
    line = f"{needed / 1e6:,.1f} MB more for its pictures, and {free / 1e6:,.1f} MB are free"
    if needed * _CERTAIN > free:
        raise DiskError(
            f"the disk is too full: {job.folder} needs about {line}; free some space, use a folder "
            "on another disk, or begin a new job with --codec jpegxl, which takes half"
        )
    return f"{job.folder} needs about {line}; what does not fit will fail" if needed > free else ""


def _waiting_bytes(ledger: Ledger, *, scale: int) -> int:
    """Return the bytes in memory of the SR pixels that are not there yet."""
    left = {
        count.item: (count.units - count.done) / count.units if count.units else 1.0
        for count in ledger.count_items()
        if count.state == INGESTED
    }
    rows = ledger.each_item(INGESTED)
    return sum(math.ceil(_bytes_of(row) * scale**2 * left.get(row.item, 1.0)) for row in rows)


def _ratio(source: Used, job: Job, ledger: Ledger) -> float:
    """Return how many bytes on the disk a byte of SR pixels will take."""
    gone = {row.item for row in ledger.each_let_go(LR)}
    raw, some = _held(row for row in ledger.each_item(INGESTED) if row.item not in gone)
    if not raw:
        return _SMOOTHER
    files = [row for row in some if not row.stack and _is_file(row, job)]
    share = _total_bytes(files) / _total_bytes(some)
    others = raw * (1 - share)
    in_files = sum(row.size_bytes for row in files) / _total_bytes(some) * raw
    ratio = min(1.0, max(0.0, source.size_bytes - in_files) / others) if others else 0.0
    photographs = _OF_PHOTOGRAPHS[job.open_sr().codec] if files else 0.0
    return ratio * _SMOOTHER * (1 - share) + photographs * share


def _held(rows: Iterable[ItemRow]) -> tuple[int, list[ItemRow]]:
    """Return the bytes in memory of the pixels of all items, and some of these from all over."""
    some: list[ItemRow] = []
    raw, step = 0, 1
    for n, row in enumerate(rows):
        raw += _bytes_of(row)
        if n % step == 0:
            some.append(row)
        if len(some) == 2 * _SAMPLES:
            some, step = some[::2], 2 * step
    return raw, some


def _is_file(row: ItemRow, job: Job) -> bool:
    return is_file_stored(job.source_dir, row.item, size_bytes=row.size_bytes)


def _total_bytes(rows: Iterable[ItemRow]) -> int:
    return sum(map(_bytes_of, rows))


def _bytes_of(row: ItemRow) -> int:
    """Return the bytes in memory of the LR pixels of an item."""
    return row.channels * row.height * row.width * np.dtype(row.dtype).itemsize
