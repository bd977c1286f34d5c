"""What a run on a job remarks before it computes, on the terminal as in the log of a flow."""

from __future__ import annotations

from flows.terminal.printing import number_of
from pipeline.jobs.listener import JobListener


class JobRemarks(JobListener):
    """Says in lines what will be computed again; `remark` says where they are shown."""

    def replaces(self, items: int) -> None:
        """Remark that pixels will be replaced."""
        self.remark(f"will recompute {number_of(items, 'picture')}: model, spec or content changed")

    def reruns(self, units: int, items: int) -> None:
        """Remark on what a rerun will compute."""
        self.remark(f"{number_of(units, 'tile')} of {number_of(items, 'item')} to compute again")
