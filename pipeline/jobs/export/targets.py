"""Where an export may write: never into folders of the source, nor over its files.

Only what is known from the ledger is looked at, so that a wrong folder is refused before anything
is computed.
"""

from __future__ import annotations

import os
import stat
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.jobs.export.names import SAME, paths_of
from pipeline.sources.overlap import check_export_folder
from pipeline.storage.ledger import INGESTED
from pipeline.storage.places import Identity, identities
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pipeline.jobs.export.request import ExportRequest
    from pipeline.jobs.job import Job
    from pipeline.storage.ledger import ItemRow
    from pipeline.storage.store import Place


def check_targets(
    job: Job, rows: Sequence[ItemRow], *, source: str | None, request: ExportRequest
) -> None:
    """Refuse to export into folders of the source, or over files of it, once these are known.

    Raises:
        UsageError: if the format is unknown, or a file would be written where the job reads, by
            this or another name of the place.
    """
    check_folders(job, rows, source=source, request=request)
    if isinstance(request.out_dir, BucketPlace):
        return  # A place in a bucket has one name, so that was all.
    originals = Originals(rows)
    for path in filter(has_other_names, _likely_targets(rows, request)):
        originals.check(path)


def check_folders(
    job: Job, rows: Sequence[ItemRow], *, source: str | None, request: ExportRequest
) -> None:
    """Refuse to export into folders of the source, by this or another name.

    Raises:
        UsageError: then, or if the format is unknown.
    """
    request.check()
    check_export_folder(request.out_dir, src=source, job_dir=job.folder)
    if isinstance(request.out_dir, BucketPlace):
        return
    files = [row.source for row in rows if row.source.endswith(f"/{row.item}")]
    # A single picture may have other files beside it; an old ledger does not say what it was.
    if len(files) > 1 if source is None else Path(source).is_dir():
        folders = identities(_folders_of(files))
        for folder in sorted(_folders_of(_likely_targets(rows, request))):
            if Identity.of(folder) in folders:
                raise UsageError(
                    f"export would write into {folder}, which is a folder of the source by this or "
                    "another name; name another folder"
                )


class Originals:
    """The files that items came from, recognised by device and inode under any name."""

    def __init__(self, rows: Collection[ItemRow]) -> None:
        self._rows = rows

    def check(self, path: str | Place) -> None:
        """Refuse to write where an original is.

        Raises:
            UsageError: then.
        """
        other = str(path) if isinstance(path, BucketPlace) else None
        if other in self._sources or (other is None and Identity.of(str(path)) in self._identities):
            raise UsageError(
                f"export would put {path} in the place of an original; name another folder"
            )

    @cached_property
    def _sources(self) -> set[str]:
        return {row.source for row in self._rows if row.source}

    @cached_property
    def _identities(self) -> set[Identity]:
        # These are many files, and mostly none of them is needed.
        return identities(self._sources)


def _likely_targets(rows: Iterable[ItemRow], request: ExportRequest) -> list[str]:
    """Return where items would be exported, done or not, as far as names show."""
    root = request.root
    if request.format == SAME:
        return [f"{root}{os.sep}{row.item}" for row in rows]
    formats = {row.item: request.format for row in rows if row.state == INGESTED}
    return list(paths_of(formats, root).values())


def _folders_of(paths: Iterable[str]) -> set[str]:
    return {path.rpartition(os.sep)[0] or os.sep for path in paths}


def has_other_names(path: str) -> bool:
    """Return whether a path is a link of any kind, and so may be a file that is elsewhere too."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1)
