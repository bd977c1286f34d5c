"""Which pictures an export cannot write, known before anything is computed.

A format has limits of its own: the pixels of a side, channels, depth. A picture of which only the
LR is there is held against them at the size that it will have.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from pipeline.compute.outcomes import Failure
from pipeline.errors import ArchiveError, PictureError
from pipeline.jobs.export.names import SAME
from pipeline.jobs.item_images import lr_image
from pipeline.pictures.formats import BY_NAME, WRITTEN, holding
from pipeline.storage.ledger import INGESTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline.jobs.job import Job
    from pipeline.storage.ledger import ItemRow

_SHOWN = 10
_LEAST_SIDE_PX = min(BY_NAME[name].side_px for name in WRITTEN)


def unwritable(job: Job, rows: Iterable[ItemRow], *, scale: int, format: str) -> Iterator[Failure]:
    """Yield a failure for each ingested item that `format` will not hold at `scale`."""
    for row in rows:
        if row.state != INGESTED:
            continue
        shape = (row.channels, row.height * scale, row.width * scale)
        try:
            if (name := _format_of(job, row, format, side_px=max(shape[1:]))) is not None:
                holding(name, shape, row.dtype)
        except PictureError as error:
            yield Failure.of(row.item, error)
        except ArchiveError:
            continue  # Its units will fail, with the reason.


def remarks_on(failures: Iterable[Failure]) -> Iterator[str]:
    """Yield a line for each of the first failures, and one that counts the others."""
    waiting = iter(failures)
    for failure in islice(waiting, _SHOWN):
        yield f"{failure.item} will be upscaled but not exported: {failure.message}"
    if more := sum(1 for _ in waiting):
        yield f"{more} more will be upscaled but not exported, for such reasons"


def _format_of(job: Job, row: ItemRow, format: str, *, side_px: int) -> str | None:
    """Return what an item will be exported as; None where that certainly holds it.

    What was read from a file of its format has channels and a depth that this holds.
    """
    if format != SAME:
        return format
    if side_px <= _LEAST_SIDE_PX:
        return None
    found = str(lr_image(job.open_source(), row).provenance.get("format", ""))
    return found if found in WRITTEN else None
