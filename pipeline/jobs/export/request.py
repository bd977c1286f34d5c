"""What is asked of an export, as a value with every option of its command."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.jobs.export.names import CHOICES, SAME
from pipeline.request_fields import needed, optional
from pipeline.storage.store import BucketPlace, Place


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is to be exported where, and what may be replaced or removed for it."""

    out_dir: Place = needed("Folder of the exported files, or s3://BUCKET/PREFIX.")  # noqa: RUF009 - it is a field.
    format: str = optional(
        SAME, "File format of the exported pictures; same keeps that of the source."
    )
    overwrite: bool = optional(
        False, "Replace files in the way of an export, even those that this job did not write."
    )
    prune: bool = optional(
        False,
        "Remove exported files whose pictures are gone from the source, unless somebody changed "
        "them.",
    )

    def check(self) -> None:
        """Refuse a format that does not exist.

        Raises:
            UsageError: then.
        """
        if self.format not in CHOICES:
            raise UsageError(f"format is {self.format!r}, expected {', '.join(CHOICES)}")

    @property
    def root(self) -> Place:
        """Return the folder by the one name that the ledger knows it by."""
        if isinstance(self.out_dir, BucketPlace):
            return self.out_dir
        return Path(os.path.realpath(self.out_dir))
