"""Items that one task reads together: those of one chunk of a stack, whose pixels are neighbours.

What is done with each item is in `pipeline.jobs.score` and `pipeline.jobs.export`. Opening an
archive and reading a small image from it take longer than most of what is done with its pixels.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pipeline.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.storage.archive import Archive
    from pipeline.storage.ledger import ItemRow

_MOST_ITEMS = 64


class OfItem(Protocol):
    """A task for one item."""

    @property
    def row(self) -> ItemRow:
        """Return the item as the ledger knows it."""


Task = TypeVar("Task", bound=OfItem)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Together(Generic[Task]):
    """The tasks of one item, or of several in one chunk."""

    tasks: tuple[Task, ...]

    def one_by_one(self) -> Iterator[Together[Task]]:
        """Yield each task alone."""
        for task in self.tasks:
            yield Together((task,))

    def failed(self, error: BaseException) -> list[Done[None]]:
        """Return that all failed for one reason."""
        return [Done(None, error) for _ in self.tasks]


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """What became of one task: its result, or the error that it ended with."""

    result: Result | None
    error: BaseException | None


def together(tasks: Iterable[Task]) -> list[Together[Task]]:
    """Return groups that hold each task once: items of one chunk by their places, others alone."""
    alone: list[Together[Task]] = []
    chunks: dict[tuple[str, int], list[Task]] = defaultdict(list)
    for task in tasks:
        if task.row.stack:
            chunks[task.row.stack, task.row.chunk].append(task)
        else:
            alone.append(Together((task,)))
    ordered = (sorted(chunk, key=lambda task: task.row.place) for chunk in chunks.values())
    return [
        *(
            Together(tuple(chunk[start : start + _MOST_ITEMS]))
            for chunk in ordered
            for start in range(0, len(chunk), _MOST_ITEMS)
        ),
        *alone,
    ]


def read_ahead(archive: Archive, rows: Sequence[ItemRow]) -> None:
    """Read the pixels of items of one chunk at once, for `archive` to have them at hand.

    Where that fails, each is read alone later, and fails alone if its own pixels are damaged.
    """
    first = rows[0]
    if len(rows) > 1 and first.stack:
        with suppress(ArchiveError):
            archive.hold(first.stack, first.chunk, [row.place for row in rows])


def each(tasks: Iterable[Task], work: Callable[[Task], Result]) -> list[Done[Result]]:
    """Do the work of each task; what one raises is its outcome, and the others go on."""
    return [_done(task, work) for task in tasks]


def _done(task: Task, work: Callable[[Task], Result]) -> Done[Result]:
    try:
        return Done(work(task), None)
    except Exception as error:
        return Done(None, error)
