"""Results of runs as values. The caller decides how they are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.jobs.scores import ItemScores, scores_to_json

if TYPE_CHECKING:
    from pipeline.compute.outcomes import Failure
    from pipeline.compute.status import JobStatus
    from pipeline.jobs.export.stage import ExportResult
    from pipeline.jobs.ingest.stage import Ingestion
    from pipeline.jobs.keep.stage import LetGoResult


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """The result of a run: how far its job is, and the result of each stage."""

    status: JobStatus
    computed_units: int = 0
    ingestion: Ingestion | None = None
    unscored: tuple[Failure, ...] = ()
    exported: ExportResult | None = None
    let_go: LetGoResult | None = None
    planned_units: int | None = None
    """How many units a rerun was to compute."""
    lacking: int = 0
    """How many items a rerun left as they are, as their pixels were let go."""
    stopped: bool = False
    """Whether somebody asked for a stop."""
    time_is_up: bool = False
    """Whether the run's time was up when it ended."""
    unfinished: bool = False
    """Whether scoring or exporting was stopped before its end."""

    @property
    def unread(self) -> int:
        """Return how many files of the source are left for the next run."""
        return 0 if self.ingestion is None else self.ingestion.unread

    @property
    def out_of_time(self) -> bool:
        """Return whether something is left because the run's time was up."""
        left = self.unread or self.status.items["pending"] or self.unfinished
        return self.time_is_up and not self.stopped and bool(left)

    @property
    def left(self) -> str:
        """Return in words what is left for the next run."""
        units, items = self.status.units["pending"], self.status.items["pending"]
        parts = [
            *([f"{units:,} tiles"] if units else []),
            # Tiles of an item are not known before it is planned.
            *([f"{items:,} items"] if items else []),
            *([f"{self.unread:,} files of the source"] if self.unread else []),
            *(["scores or exported files"] if self.unfinished else []),
        ]
        return ", ".join(parts) or "nothing"

    @property
    def failed(self) -> bool:
        """Return whether anything failed; what is left for the next run did not."""
        items = self.status.items
        return bool(items["failed"] or items["rejected"] or self.later_failures)

    @property
    def later_failures(self) -> tuple[Failure, ...]:
        """Return the failures of scoring and exporting; those of the status are not among them."""
        exported = () if self.exported is None else self.exported.failures
        staying = () if self.let_go is None else self.let_go.failures
        return tuple(f for f in (*self.unscored, *exported, *staying) if f.error != "NotDone")

    @property
    def complete(self) -> bool:
        """Return whether everything was done that was asked for."""
        let_go = self.lacking or (self.exported is not None and self.exported.let_go)
        return self.status.complete and not self.later_failures and not let_go

    def to_json(self) -> dict[str, Any]:
        """Return the document that `ingest`, `upscale` and `rerun` print."""
        document = self.status.to_json(computed_units=self.computed_units)
        document["failures"] += [asdict(failure) for failure in self.later_failures]
        if self.time_is_up:
            document |= {"out_of_time": self.out_of_time, "unread": self.unread}
        if self.exported is not None:
            document["export"] = self.exported.to_json()
        if self.let_go is not None:
            document["let_go"] = self.let_go.items
        if self.ingestion is not None:
            document["left_out"] = self.ingestion.left_out.to_json()
            document["remarks"] = list(self.ingestion.remarks)
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """The scores of a job, and what could not be scored."""

    scores: tuple[ItemScores, ...]
    failures: tuple[Failure, ...]
    stopped: bool = False
    let_go: int = 0
    """How many items kept the scores that they had, as their pixels were let go."""

    def to_json(self) -> dict[str, Any]:
        """Return the document that `score` prints."""
        failures = [asdict(failure) for failure in self.failures]
        return scores_to_json(self.scores) | {"failures": failures}
