"""Orphans: SR images in stacks whose LR images are at other places now, or gone.

Chunks that a run plans are kept in order by their plans (`pipeline.jobs.upscale.chunks`); here are
the chunks that no plan looks at.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pipeline.errors import ArchiveError
from pipeline.storage.ledger import INGESTED, REJECTED, VANISHED

if TYPE_CHECKING:
    from pipeline.jobs.job import Job
    from pipeline.storage.archive import Archive
    from pipeline.storage.ledger import Ledger
    from pipeline.storage.stack import Stack


def drop_orphans(job: Job, sr: Archive, ledger: Ledger) -> None:
    """Remove from the stacks of the SR archive what the ledger knows to be elsewhere now.

    These are the chunks whose LR chunks hold no image any more, and the images that left a chunk in
    which nothing is planned, as all others in it are gone from the source. Where images were let
    go, the ledger knows them at their places still.
    """
    known = set(ledger.each_chunk(INGESTED, VANISHED, REJECTED))
    planned = set(ledger.each_chunk(INGESTED))
    for stack in map(sr.stack, sr.stacks()):
        for number in stack.numbers():
            with suppress(ArchiveError):  # Not known where a chunk cannot be read.
                if (stack.id, number) not in known:
                    chunk = job.open_source().stack(stack.id).chunk(number)
                    if chunk is not None and not chunk.members:
                        stack.remove(number)
                elif (stack.id, number) not in planned:
                    stack.drop(number, _moved(stack, number, ledger))


def _moved(stack: Stack, number: int, ledger: Ledger) -> list[int]:
    """Return the places of a chunk whose images the ledger knows at other places."""
    chunk = stack.chunk(number)
    places = {} if chunk is None else {m["item"]: place for place, m in chunk.members.items()}
    return [
        places[row.item]
        for row in ledger.items_named(places)
        if (row.stack, row.chunk, row.place) != (stack.id, number, places[row.item])
    ]
