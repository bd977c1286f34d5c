"""What remains of pictures whose pixels a job let go: a preview, how they were made, a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.jobs.keep.leaving import PREVIEWS, read_preview
from pipeline.reports.portraits import uri_of
from pipeline.storage.ledger import LR, SR

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pipeline.jobs.job import Job
    from pipeline.storage.ledger import ItemRow, Ledger, LetGoRow

COPY_GONE = "The copy of the input was let go (--keep sr), so there is no before and after."


@dataclass(frozen=True, slots=True)
class Remains:
    """What remains of some items of a job."""

    job: Job
    sr: Mapping[str, LetGoRow]
    lr: Mapping[str, LetGoRow]
    files: Mapping[str, str]
    """Where those are exported whose SR pixels were let go."""

    @classmethod
    def of(cls, job: Job, ledger: Ledger, items: Collection[str]) -> Remains:
        """Look some items up; most jobs let nothing go."""
        sr, lr = ledger.let_go_of(SR, items), ledger.let_go_of(LR, items)
        return cls(job, sr, lr, {file.item: file.path for file in ledger.exports_of(sr)})

    def made_by(self, item: str) -> Mapping[str, Any] | None:
        """Return how SR pixels were made that were let go, None where they are here."""
        gone = self.sr.get(item)
        return None if gone is None else json.loads(gone.facts)

    def preview(self, row: ItemRow) -> str | None:
        """Return the preview of an item as a ``data:`` URI, None where there is none."""
        content = read_preview(self.job.folder / PREVIEWS, row)
        return None if content is None else uri_of(content, format="jpeg")

    def words(self, item: str) -> str:
        """Return in a sentence why an item is shown small, and where it is."""
        file = f" Its file is {self.files[item]}." if item in self.files else ""
        return f"The pixels were let go after the export (--keep export): this is a preview.{file}"
