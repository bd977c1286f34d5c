"""Rerun: which of the units that a plan holds are done again, and no others."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.sources.name_forms import selects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.jobs.upscale.plan import Plan
    from pipeline.jobs.upscale.units import UnitPlan
    from pipeline.storage.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Rerun:
    """What a rerun was asked for."""

    is_selected: Callable[[str], bool]
    """Returns whether an item or a stack of this name is asked for."""
    failed: Mapping[str, Mapping[int, str]]
    """By name and number: the fingerprints of the failed units whose errors are asked for."""
    stale: bool
    """Whether units whose pixels are of another spec, or gone, are done again too."""
    wiped: frozenset[str] = frozenset()
    """Stacks that are computed as a whole: at another scale they need another array."""

    @classmethod
    def of(cls, ledger: Ledger, *, item: str, error: str, stale: bool) -> Rerun:
        """Return a rerun of the items that the glob `item` matches.

        Of failed units only those count whose error contains `error`, in whatever case.
        """
        failed: dict[str, dict[int, str]] = defaultdict(dict)
        for row in ledger.failures():
            if error.lower() in f"{row.error}: {row.message}".lower():
                failed[row.item][row.number] = row.fingerprint
        is_selected = selects(item, lambda: (count.item for count in ledger.count_items()))
        return cls(is_selected, failed, stale)

    def asks_for(self, plan: UnitPlan) -> bool:
        """Return whether the units of a plan, or one of its items, are asked for by name."""
        return any(map(self.is_selected, {plan.name, *(row.item for row in plan.rows)}))

    def failed_under(self, name: str) -> Mapping[int, str]:
        """Return the failed units of an image or a stack: fingerprints by number."""
        return self.failed.get(name, {})

    def narrow(self, plan: Plan) -> Plan:
        """Return the units of a plan for the whole job that are done again."""
        if not self.stale:
            return plan.narrowed(lambda part: part.narrowed(self))
        wiped = frozenset(part.name for part in plan if part.wipes and self.asks_for(part))
        rerun = replace(self, wiped=wiped)
        return plan.narrowed(lambda part: part.narrowed(rerun))
