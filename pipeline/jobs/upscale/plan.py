"""Plan: which units a run would compute, by what is in the ledger and the SR archive.

Nothing is changed here but what the ledger remembers of having looked (its seals); what is done
about a plan is in `pipeline.jobs.upscale.stage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.jobs.choice import Chooser
from pipeline.jobs.upscale.chunks import ChunkPlanner
from pipeline.jobs.upscale.tiles import TilePlanner
from pipeline.storage.archive import Archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.jobs.choice import Choice
    from pipeline.jobs.job import Job
    from pipeline.jobs.spec import UpscaleSpec
    from pipeline.jobs.upscale.units import Planner, UnitPlan
    from pipeline.storage.ledger import ItemRow, Ledger


class Plan:
    """All plans that have units to compute, or that the ledger has not recorded yet.

    Only keys are kept. Iterating reads ledger and archive again, so that a million items take
    little memory.
    """

    def __init__(self, planners: Sequence[Planner]) -> None:
        self.units = 0
        """How many units there were to compute when this was planned."""
        self._lacking: list[tuple[Planner, list[Any]]] = []
        self._parts = [(planner, list(self._keys(planner))) for planner in planners]

    def _keys(self, planner: Planner) -> Iterator[Any]:
        lacking = []
        for plan in planner.every():
            if plan.has_work and plan.lacks_lr:
                lacking.append(plan.key)
            elif plan.has_work:
                self.units += len(plan.numbers)
                yield plan.key
        self._lacking.append((planner, lacking))

    def __len__(self) -> int:
        return sum(len(keys) for _, keys in self._parts)

    def __iter__(self) -> Iterator[UnitPlan]:
        for planner, keys in self._parts:
            yield from planner.again(keys)

    def lacking(self) -> list[ItemRow]:
        """Return the items that would be computed too if their LR pixels had not been let go."""
        plans = (plan for planner, keys in self._lacking for plan in planner.again(keys))
        return [row for plan in plans for row in plan.rows]

    @property
    def size(self) -> tuple[int, int]:
        """Return how many units there are to compute, and how many items have them."""
        units = items = 0
        for plan in self:
            units += len(plan.numbers)
            items += len(plan.rows)
        return units, items

    def narrowed(self, keep: Callable[[UnitPlan], UnitPlan | None]) -> Plan:
        """Return what `keep` leaves of each part."""
        parts = zip(self._parts, self._lacking, strict=True)
        return Plan(
            [_Narrowed(planner, [*keys, *lacking], keep) for (planner, keys), (_, lacking) in parts]
        )


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """A planner of what `keep` leaves of those plans of another that have `keys`."""

    planner: Planner
    keys: Sequence[Any]
    keep: Callable[[UnitPlan], UnitPlan | None]

    def every(self) -> Iterator[UnitPlan]:
        return self.again(self.keys)

    def again(self, keys: Iterable[Any]) -> Iterator[UnitPlan]:
        kept = map(self.keep, self.planner.again(keys))
        return (plan for plan in kept if plan is not None)


def plan_job(
    job: Job,
    *,
    spec: UpscaleSpec,
    ledger: Ledger,
    choice: Choice | None = None,
    codec: str | None = None,
) -> Plan:
    """Return what upscaling the whole job by `spec`, or by `choice`, would compute now.

    The SR archive is there from then on, and compresses its new arrays by `codec`, as
    ``Archive.open_or_create`` says.
    """
    chooser = Chooser(spec, choice, ledger)
    sr = Archive.open_or_create(job.sr_dir, codec=codec)
    source = cache(job.open_source)
    return Plan([TilePlanner(chooser, ledger, sr), ChunkPlanner(chooser, ledger, sr, source)])
