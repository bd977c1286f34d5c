"""Outcomes: the results of units and items, and how they get into the ledger."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import UpresError
from pipeline.storage.ledger import FAILED, UnitRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipeline.storage.ledger import Ledger

Task = TypeVar("Task")

_BATCH_S = 2.0
"""How long outcomes may wait in memory before they are recorded. A kill loses no more than that."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one tile failed, or (with no tile) why one item did."""

    item: str
    tile: int | None
    error: str
    message: str

    @classmethod
    def of(cls, item: str, error: BaseException | None) -> Failure:
        """Return the failure of an item by `error`."""
        return cls(item, None, type(error).__name__, " ".join(str(error).split()))

    @classmethod
    def of_unit(cls, row: UnitRow) -> Failure:
        """Return the failure of a unit: a tile of its item, or a chunk of its stack."""
        return cls(row.item, row.number, row.error, row.message)

    @classmethod
    def not_done(cls, item: str, message: str) -> Failure:
        """Return that a stage passed an item over, as an earlier stage has not finished it."""
        return cls(item, None, "NotDone", message)


def record_outcomes(
    worked: Iterable[tuple[Task, list[UnitRow]]],
    ledger: Ledger,
    *,
    run: str,
    recorded: Callable[[list[tuple[Task, list[UnitRow]]]], None] = lambda _: None,
) -> Iterator[tuple[Task, list[UnitRow]]]:
    """Yield each task with the outcomes of its units, and write these to the ledger in batches.

    However the iteration ends, what was yielded is in the ledger. `recorded` is called with each
    batch once it is there.
    """
    waiting: list[tuple[Task, list[UnitRow]]] = []
    written = time.monotonic()

    def record() -> None:
        nonlocal waiting, written
        ledger.put_units(row for _, rows in waiting for row in rows)
        recorded(waiting)
        waiting, written = [], time.monotonic()

    try:
        for task, outcomes in worked:
            rows = [replace(row, run=run) for row in outcomes]
            waiting.append((task, rows))
            if time.monotonic() - written > _BATCH_S:
                record()
            yield task, rows
    finally:
        record()


def outcome_of(row: UnitRow, work: Callable[[], None]) -> UnitRow:
    """Do the work of one unit; return its outcome, `row` where all went well, and its seconds.

    Whatever error is raised becomes the outcome of this unit, and the others go on.
    """
    began = time.perf_counter()
    try:
        work()
    except Exception as error:
        row = failed_unit(row, error)
    return replace(row, seconds=time.perf_counter() - began)


def failed_unit(row: UnitRow, error: BaseException) -> UnitRow:
    """Return the outcome of a unit that failed, with the reason."""
    return replace(row, state=FAILED, error=type(error).__name__, message=reason_of(error))


def reason_of(error: BaseException) -> str:
    """Return one line that says why."""
    if isinstance(error, UpresError):
        return str(error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
