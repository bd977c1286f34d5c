"""Units: what tiles of an image and chunks of a stack have in common.

A run plans, declares, submits and records both through the protocols here. It does not need to know
which of the two it has. Each kind is written in files of its own: tiles in `tiles` and `tile_task`,
chunks in `chunks` and `chunk_task`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.compute.outcomes import failed_unit
from pipeline.storage.ledger import DONE, UnitRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline.jobs.job import Job
    from pipeline.jobs.spec import UpscaleSpec
    from pipeline.jobs.upscale.rerun import Rerun
    from pipeline.jobs.upscale.worker import Workbench
    from pipeline.storage.archive import Archive
    from pipeline.storage.ledger import ItemRow, Ledger, SealRow


class Units(Protocol):
    """Some units of one image or one stack. The ledger knows each by `name` and a number."""

    @property
    def name(self) -> str:
        """Return the id of the image or of the stack."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return which tiles of the image, or which chunks of the stack, these are."""

    @property
    def fingerprint(self) -> str:
        """Return what decides the pixels of all of them."""


class UnitTask(Units, Protocol):
    """The units that a worker gets together: addresses only, never pixels."""

    @property
    def limit_s(self) -> float:
        """Return how long one unit may take before its worker is ended."""

    def pixels(self, number: int) -> int:
        """Return how many LR pixels a unit owns."""

    def one_by_one(self) -> Iterator[UnitTask]:
        """Yield a task for each unit."""

    def compute(self, bench: Workbench) -> list[UnitRow]:
        """Compute and write the units on this worker; return what became of each."""

    def failed(self, error: BaseException) -> list[UnitRow]:
        """Return the outcomes of units that all failed for one reason."""


class UnitPlan(Units, Protocol):
    """The units of one image, or one chunk of a stack, as a run would compute them."""

    @property
    def key(self) -> Any:
        """Return what the planner of this kind finds it by again."""

    @property
    def spec(self) -> UpscaleSpec:
        """Return what its units are computed by."""

    @property
    def rows(self) -> tuple[ItemRow, ...]:
        """Return its items, as the ledger is to record them."""

    @property
    def has_work(self) -> bool:
        """Return whether anything is to be computed, kept or recorded."""

    @property
    def lacks_lr(self) -> bool:
        """Return whether its LR pixels were let go: before they are back, nothing is computed."""

    @property
    def fresh(self) -> bool:
        """Return whether the SR array must be created first, in place of what is there."""

    @property
    def wipes(self) -> bool:
        """Return whether creating the array deletes pixels that other plans own."""

    @property
    def outdated(self) -> tuple[int, ...]:
        """Return the units whose recorded outcomes end now, though others of `name` stay."""

    def replaced_items(self, sr: Archive) -> int:
        """Return how many items have SR pixels that will be replaced by others."""

    def keep(self, sr: Archive, ledger: Ledger) -> None:
        """Take over SR pixels that are right as they are but belong to a changed plan."""

    def create_target(self, sr: Archive, source: Archive, spec: UpscaleSpec) -> None:
        """Make room for the units in the SR archive.

        Raises:
            ArchiveError: if it cannot be made.
        """

    def seals(self, sr: Archive) -> Iterable[SealRow]:
        """Return the seals of what `create_target` made."""

    def tasks(
        self, job: Job, spec: UpscaleSpec, *, limit_s: float, together_px: int
    ) -> Iterator[UnitTask]:
        """Yield tasks that hold each unit once.

        `together_px` says how many pixels of windows fill a device at once, `limit_s` how long one
        unit may take.
        """

    def whole_units(self, sr: Archive) -> list[UnitRow]:
        """Return an outcome for each unit whose SR pixels can be read back."""

    def narrowed(self, rerun: Rerun) -> UnitPlan | None:
        """Return what a rerun does of this plan, None where that is nothing."""


class Planner(Protocol):
    """Plans all units of one kind."""

    def every(self) -> Iterator[UnitPlan]:
        """Yield a plan for whatever there is of this kind, with work to do or not."""

    def again(self, keys: Iterable[Any]) -> Iterator[UnitPlan]:
        """Yield the plans that have these keys, as ledger and archives are now."""


@dataclass(frozen=True, slots=True)
class UnitKeys:
    """Some units by their keys in the ledger alone."""

    name: str
    numbers: tuple[int, ...]
    fingerprint: str

    @classmethod
    def of_tiles(cls, row: ItemRow, tiles: Iterable[int]) -> UnitKeys:
        """Return the units of `tiles` of an item; an image of a stack has its chunk's alone."""
        numbers = tuple(tiles)
        if row.stack:
            return cls(row.stack, (row.chunk,) if numbers else (), row.fingerprint)
        return cls(row.item, numbers, row.fingerprint)


def done_unit(units: Units, number: int) -> UnitRow:
    """Return the outcome of a unit that was done."""
    return UnitRow(item=units.name, number=number, fingerprint=units.fingerprint, state=DONE)


def failed_units(units: Units, error: BaseException) -> list[UnitRow]:
    """Return the outcomes of units that all failed for one reason."""
    return [failed_unit(done_unit(units, number), error) for number in units.numbers]
