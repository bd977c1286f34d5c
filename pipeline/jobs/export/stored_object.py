"""One exported file in a bucket: made on the disk of a worker, and stored in one piece.

What belongs here: what differs from a file on a disk (`local_file`). Each object says which job
stored it as which file, so a job knows its own even if its ledger does not; what
somebody else stores in its place does not say so. No object of somebody else is replaced, as the
store itself makes sure that nothing is there, or what was there when it was looked at.
"""

from __future__ import annotations

import mimetypes
import tempfile
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.jobs.export.facts import Exported, Facts
from pipeline.jobs.export.unwritten import OF_OTHERS, appeared, not_replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pipeline.jobs.export.local_file import ExportTask
    from pipeline.storage.object_store import Stored
    from pipeline.storage.store import BucketPlace

_JOB, _FILE, _CONTENT = "upres-job", "upres-file", "upres-sha256"
"""What an object says of itself: the job, a hash of job and key, and the hash of its content."""


def export_object(
    task: ExportTask, place: BucketPlace, make: Callable[[ExportTask], Exported]
) -> Exported:
    """Store the file of an item, unless it is there already; `make` makes it on a disk.

    Raises:
        OccupiedError: if an object is there that the job did not store.
        StoreError: if it cannot be stored.
    """
    there = place.facts()
    if there is not None and _content(task.job, there) in task.current:
        return Exported(_facts(task.job, there), is_new=False)
    own = there is None or _is_own(task.job, there)
    if there is not None and not own and not task.overwrite:
        raise not_replaced(place, there.size_bytes, because=OF_OTHERS)
    with tempfile.TemporaryDirectory(prefix="upres-") as folder:
        nothing: frozenset[str] = frozenset()
        here = replace(task, path=Path(folder) / place.name, ours=nothing, current=nothing)
        made = make(here)
        _put(task.job, place, here.partial, made.facts.sha256, there)
    stored = place.facts()
    if stored is None or _content(task.job, stored) != made.facts.sha256:
        raise appeared(place)
    return replace(made, facts=_facts(task.job, stored), overwrites=not own)


def object_holds(job: str, place: BucketPlace, contents: Collection[str]) -> bool:
    """Return whether there is an object that the job stored with one of `contents`.

    Nothing is read: the store holds what the object says, under the etag that it was stored with.
    """
    there = place.facts()
    return there is not None and _content(job, there) in contents


def remove_object(job: str, place: BucketPlace, contents: Collection[str]) -> bool:
    """Remove an object if the job stored it with one of `contents`; return whether it was."""
    if not object_holds(job, place, contents):
        return False
    place.unlink()
    return True


def _put(
    job: str, place: BucketPlace, file: Path, content_sha256: str, there: Stored | None
) -> None:
    """Store a file where nothing is, or in the place of the object that was `there`."""
    before: str | Literal[False] = there.etag if there is not None else False
    # A request that was sent again may meet what it stored itself: that is looked at afterwards.
    with suppress(FileExistsError):
        place.of_bucket.put_file(
            place.key, file, replaces=before, attributes=_said(job, place, content_sha256)
        )


def _said(job: str, place: BucketPlace, content_sha256: str) -> Mapping[str, str]:
    kind, _ = mimetypes.guess_type(place.name)
    return {
        "Content-Type": kind or "application/octet-stream",
        _JOB: job,
        _FILE: _file_of(job, place.key),
        _CONTENT: content_sha256,
    }


def _file_of(job: str, key: str) -> str:
    return sha256(f"{job}\0{key}".encode()).hexdigest()


def _is_own(job: str, there: Stored) -> bool:
    """Return whether the job stored an object, or reserved its place for a large one."""
    said = there.attributes or {}
    return (said.get(_JOB), said.get(_FILE)) == (job, _file_of(job, there.key))


def _content(job: str, there: Stored) -> str:
    """Return the hash of the content of an object that the job stored; "" of any other."""
    return (there.attributes or {}).get(_CONTENT, "") if _is_own(job, there) else ""


def _facts(job: str, there: Stored) -> Facts:
    return Facts(there.size_bytes, there.etag, _content(job, there))
