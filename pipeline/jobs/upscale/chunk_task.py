"""A chunk of a stack on the worker that computes it: all its images at once, written whole."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ArchiveError, NotFiniteError
from pipeline.jobs.upscale.sr_provenance import inherited
from pipeline.jobs.upscale.units import failed_units
from pipeline.jobs.upscale.worker import outcome_here
from pipeline.storage.archive import Archive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.jobs.upscale.worker import Workbench
    from pipeline.storage.ledger import UnitRow
    from pipeline.storage.store import Place


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """One chunk of a stack, as a worker gets it: addresses only."""

    stack: str
    chunk: int
    fingerprint: str
    lr_pixels: int
    """Of all its images together."""
    halo_px: int
    source_dir: Place
    sr_dir: Place
    source_sha256: str
    """Content that the LR chunk must have."""
    facts: Mapping[str, Any]
    """Provenance that its SR images share."""
    limit_s: float
    """How long the chunk may take before its worker is ended."""

    @property
    def name(self) -> str:
        """Return the id of the stack."""
        return self.stack

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the number of the chunk."""
        return (self.chunk,)

    def pixels(self, number: int) -> int:
        """Return how many LR pixels the chunk holds."""
        return self.lr_pixels

    def one_by_one(self) -> Iterator[ChunkTask]:
        """Yield the task itself: it is one unit."""
        yield self

    def compute(self, bench: Workbench) -> list[UnitRow]:
        """Compute and write the chunk; return what became of it."""
        return [outcome_here(self, self.chunk, bench, partial(upscale_chunk, self, bench))]

    def failed(self, error: BaseException) -> list[UnitRow]:
        """Return the outcomes of units that all failed for one reason."""
        return failed_units(self, error)


def upscale_chunk(task: ChunkTask, bench: Workbench) -> None:
    """Compute and write the images of one chunk of a stack, each as it would be alone.

    Raises:
        ArchiveError: if the LR chunk is damaged, or not what was planned.
        NotFiniteError: if the network makes no finite pixels of an image; it is named.
    """
    source = Archive.open(task.source_dir).stack(task.stack)
    chunk = source.chunk(task.chunk)
    if chunk is None or chunk.sha256 != task.source_sha256:
        raise ArchiveError(
            f"chunk {task.chunk} of {task.stack} was changed in {task.source_dir} during the run; "
            "upscale it again"
        )
    places = sorted(chunk.members)
    pixels = source.read(task.chunk, places)
    try:
        sr = _enlarged(pixels, task, bench)
    except NotFiniteError as error:
        names = [str(chunk.members[p]["item"]) for p in _not_finite(places, pixels, task, bench)]
        raise NotFiniteError(
            f"{error}; it did for {', '.join(names)}: take that out of the source, as the other "
            "pictures of its chunk wait for it"
        ) from error
    members = {
        place: {"item": member["item"], **inherited(member)}
        for place, member in chunk.members.items()
    }
    Archive.open(task.sr_dir).stack(task.stack).write(task.chunk, sr, members, task.facts)


def _enlarged(
    pictures: Sequence[NDArray[Any]], task: ChunkTask, bench: Workbench
) -> list[NDArray[Any]]:
    """Return the enlarged pictures, in their order: those of one size go through together."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for n, picture in enumerate(pictures):
        alike[picture.shape].append(n)
    sr: dict[int, NDArray[Any]] = {}
    for numbers in alike.values():
        together = np.stack([pictures[n] for n in numbers])
        sr.update(zip(numbers, bench.enlarge_pictures(together, task.halo_px), strict=True))
    return [sr[n] for n in range(len(pictures))]


def _not_finite(
    places: Sequence[int], pixels: Sequence[NDArray[Any]], task: ChunkTask, bench: Workbench
) -> Iterator[int]:
    """Yield the places of the images that the network makes no finite pixels of."""
    for place, image in zip(places, pixels, strict=True):
        try:
            bench.enlarge_pictures(image[np.newaxis], task.halo_px)
        except NotFiniteError:
            yield place
