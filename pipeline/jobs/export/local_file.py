"""One exported file: written next to its place, and moved there if no other file is in the way.

What belongs here: what runs on a worker for one item (`export_item`), what puts the file in its
place (`put_in_place`), and what removes one (`remove`). Which items are exported is in `export`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import DiskError, OccupiedError, PictureError, UpresError
from pipeline.jobs.export.facts import Exported, Facts
from pipeline.jobs.export.stored_object import export_object, object_holds, remove_object
from pipeline.jobs.export.stored_strips import StoredStrips
from pipeline.jobs.export.unwritten import OF_OTHERS, appeared, not_replaced
from pipeline.jobs.item_images import sr_image
from pipeline.jobs.together import Done, Together, each, read_ahead
from pipeline.pictures.files import encode_strips, read_picture
from pipeline.pictures.metadata.metadata import from_json
from pipeline.pictures.metadata.travel import enlarged
from pipeline.storage.access import EVERYONE
from pipeline.storage.archive import Archive
from pipeline.storage.atomic import new_file, place_new
from pipeline.storage.disk import fsync
from pipeline.storage.store import BucketPlace, local

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from pipeline.storage.image import StoredImage
    from pipeline.storage.ledger import ItemRow
    from pipeline.storage.store import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTask:
    """One item to write as a file, and what is known of the file that may be there."""

    row: ItemRow
    sr_dir: Place
    path: Place
    partial_name: str
    """What the finished file is called, in the same folder, until it is put into its place."""
    format: str
    asked: str
    made_of: str
    ours: frozenset[str] = frozenset()
    """Contents (sha256) that the job wrote for this place or this item."""
    current: frozenset[str] = frozenset()
    """Those of them that are up to date."""
    of_a_run: bool = False
    """Whether the file was changed during a run of the job, which then may have written it."""
    readers: int = EVERYONE
    """Who may read the file, as `storage.access` says it."""
    folder_readers: int = EVERYONE
    """Who may look into its folder, where that is made."""
    overwrite: bool = False
    """Whether a file that the job did not write may be replaced."""
    job: str = ""
    """Id of the job."""

    @property
    def partial(self) -> Path:
        """Return where the finished file waits."""
        return self.file.with_name(self.partial_name)

    @property
    def file(self) -> Path:
        """Return its path where it is on a disk."""
        return local(self.path, "the exported file")


def facts_of(path: Path) -> Facts | None:
    """Read the file at `path` and return its facts; None where there is nothing."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return Facts(found.st_size, found.st_mtime_ns, "")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Facts(found.st_size, found.st_mtime_ns, digest)


def export_items(group: Together[ExportTask]) -> list[Done[Exported]]:
    """Make the file of each item of a group, as `export_item` says."""
    sr = Archive.open(group.tasks[0].sr_dir)
    read_ahead(sr, [task.row for task in group.tasks])
    return each(group.tasks, partial(export_item, sr=sr))


def export_item(task: ExportTask, *, sr: Archive | None = None) -> Exported:
    """Make the file of an item and leave it at `task.partial`, unless it is in its place already.

    `sr` is the SR archive, where it is open.

    Raises:
        OccupiedError: if a file is there that the job did not write.
        PictureError: if the format cannot hold the picture.
        ArchiveError: if a chunk of it is damaged.
        DiskError: if the file cannot be written; nothing is left of it.
    """
    if isinstance(task.path, BucketPlace):
        return export_object(task, task.path, partial(export_item, sr=sr))
    there = facts_of(task.file)
    if there is not None and there.sha256 in task.current:
        return Exported(there, is_new=False)
    image = sr_image(sr or Archive.open(task.sr_dir), task.row)
    try:
        notes = encode_item(task, image)
        return _compared(task, there, notes, mtime_ns=image.provenance.get("mtime_ns"))
    except UpresError:
        discard(task)
        raise
    except OSError as error:
        discard(task)
        raise DiskError(error.errno, error.strerror, str(task.file.parent)) from error


def encode_item(task: ExportTask, image: StoredImage) -> tuple[str, ...]:
    """Encode the SR picture of an item into the local file `task.partial`; return notes.

    Memory does not grow with the picture, as `encode_strips` says.
    """
    metadata = enlarged(from_json(image.provenance), image.size[0] // task.row.height)
    with new_file(task.partial, readers=task.readers) as file:
        return encode_strips(
            StoredStrips(image), metadata, file, name=task.path.name, format=task.format
        )


def _compared(
    task: ExportTask, there: Facts | None, notes: tuple[str, ...], *, mtime_ns: int | None
) -> Exported:
    """Return the result of an encoded file, after comparing it with what is at its place.

    The encoded file is durable then, or gone where the same is there already.
    """
    encoded = facts_of(task.partial)
    if encoded is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(task.partial))
    if there is not None and there.sha256 == encoded.sha256:
        discard(task)
        return Exported(there, is_new=False, notes=notes)
    ours = there is None or _is_ours(task, there)
    if there is not None and not ours:
        _check_overwritten(task, there)
    finish(task.partial, mtime_ns=mtime_ns)
    fsync(task.partial)
    facts = replace(encoded, mtime_ns=task.partial.stat().st_mtime_ns)
    return Exported(facts, is_new=True, replaces=there, overwrites=not ours, notes=notes)


def finish(path: Path, *, mtime_ns: int | None) -> None:
    """Give a written file the attributes of the picture that it was made of.

    That is the modification time, as far as the file system can hold it.
    """
    if isinstance(mtime_ns, int):
        with suppress(OSError, OverflowError):
            os.utime(path, ns=(time.time_ns(), mtime_ns))


def put_in_place(task: ExportTask, exported: Exported) -> None:
    """Move a finished file to its place.

    Raises: OccupiedError: if another file has appeared there; it stays, and the finished one is
    removed.
    """
    if isinstance(task.path, BucketPlace):
        return  # There is no other name that it could have waited under.
    before = exported.replaces
    try:
        if before is None or not os.path.lexists(task.file):
            place_new(task.partial, task.file)
            return
        _check_same(task.file, before)
        task.partial.replace(task.file)
    except FileExistsError as error:
        raise appeared(task.path) from error
    finally:
        discard(task)


def discard(task: ExportTask) -> None:
    """Remove the finished or unfinished file that is next to its place, if there is one.

    If it cannot be removed now, the next export of the job removes it.
    """
    if isinstance(task.path, BucketPlace):
        return
    with suppress(OSError):
        task.partial.unlink(missing_ok=True)


def remove_partials(task: ExportTask) -> None:
    """Remove the unfinished files that a killed export of this job left in a folder."""
    start, _, _ = task.partial_name.rpartition("-")
    for path in task.file.parent.iterdir():
        if path.name.startswith(f"{start}-") and path.name.endswith(".partial"):
            path.unlink(missing_ok=True)


def is_there(path: Place) -> bool:
    """Return whether anything is at the place of a file."""
    return path.exists() if isinstance(path, BucketPlace) else os.path.lexists(path)


def holds(path: Place, contents: Collection[str], *, job: str) -> bool:
    """Return whether there is a file whose content (sha256) is one of `contents`; it is read."""
    if isinstance(path, BucketPlace):
        return object_holds(job, path, contents)
    there = facts_of(path)
    return there is not None and bool(there.sha256) and there.sha256 in contents


def remove(path: Place, contents: Collection[str], *, job: str) -> bool:
    """Remove a file if its content (sha256) is one of `contents`; return whether it was."""
    if isinstance(path, BucketPlace):
        return remove_object(job, path, contents)
    if not holds(path, contents, job=job):
        return False
    path.unlink()
    return True


def _is_ours(task: ExportTask, there: Facts) -> bool:
    """Return whether the job wrote what is at the place of a file."""
    if not there.sha256:
        return False
    # The latter: exported before upres kept record of that, and not touched since.
    return there.sha256 in task.ours or (task.of_a_run and _same_pixels(task.file, task.partial))


def _check_overwritten(task: ExportTask, there: Facts) -> None:
    """Make sure that a file of somebody else may be replaced."""
    if task.file.is_dir() and not task.file.is_symlink():
        raise OccupiedError(
            f"{task.path} is a folder, expected a file; move it away, or export into another folder"
        )
    if there.sha256 == task.row.sha256:
        raise OccupiedError(
            f"{task.path} is the original of this picture, by its content, and is never replaced; "
            "export into another folder"
        )
    if task.overwrite:
        return
    because = "changed since this job wrote it" if task.ours else OF_OTHERS
    raise not_replaced(task.path, there.size_bytes, because=because)


def _check_same(path: Path, before: Facts) -> None:
    now = path.lstat()
    if (now.st_size, now.st_mtime_ns) != (before.size_bytes, before.mtime_ns):
        raise FileExistsError(path)


def _same_pixels(path: Path, other: Path) -> bool:
    try:
        pixels = read_picture(path.read_bytes(), name=path.name).pixels
    except (PictureError, OSError):
        return False
    return np.array_equal(pixels, read_picture(other.read_bytes(), name=path.name).pixels)
