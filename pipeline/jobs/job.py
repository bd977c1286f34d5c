"""A job: the folder that is upscaled into, night after night, and the lock that guards it.

A job in a bucket has ledger and lock elsewhere: in PostgreSQL, or in a file that the user names.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.constants import JOB_LOCK
from pipeline.errors import ArchiveError, JobBusyError, LedgerError, StoreError, UsageError
from pipeline.jobs.not_a_job import why_not_a_job
from pipeline.sources.overlap import check_new_job
from pipeline.storage.access import make_folder, readers
from pipeline.storage.archive import Archive
from pipeline.storage.archive_group import is_archive
from pipeline.storage.atomic import replace_atomically
from pipeline.storage.ledger import (
    FILE_NAME,
    Ledger,
    absolute_url,
    without_password,
)
from pipeline.storage.ledger.messages import is_elsewhere, not_in_bucket
from pipeline.storage.locks import check_lock, hold, hold_by_ledger
from pipeline.storage.places import is_inside
from pipeline.storage.store import BucketPlace, check_stores, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from pipeline.storage.store import Place

DESCRIPTION = "job.json"


@dataclass(frozen=True, slots=True)
class Job:
    """Where everything of one job is."""

    folder: Place
    id: str
    source_dir: Place
    """The LR archive: ``source.zarr`` of the job, or an archive elsewhere."""
    ledger_url: str

    @property
    def owns_source(self) -> bool:
        """Return whether the LR archive is the job's own copy."""
        return self.source_dir.parent == self.folder

    @property
    def sr_dir(self) -> Place:
        """Return where the SR archive is."""
        return self.folder / "sr.zarr"

    @property
    def report_path(self) -> Place:
        """Return where the report is."""
        return self.folder / "report.html"

    @property
    def readers(self) -> int:
        """Return who may read the pictures of this job, as `storage.access` says it."""
        return readers([self.source_dir], near=self.folder)

    def open_source(self) -> Archive:
        """Open the LR archive.

        Raises:
            ArchiveError: if it is gone.
        """
        return Archive.open(self.source_dir)

    def open_sr(self) -> Archive:
        """Open the SR archive.

        Raises:
            ArchiveError: if nothing was upscaled yet.
        """
        try:
            return Archive.open(self.sr_dir)
        except ArchiveError as error:
            raise ArchiveError(
                f"{self.folder} holds no upscaled pictures yet; "
                f"run `upres upscale SRC {self.folder}`"
            ) from error

    def open_ledger(self) -> Ledger:
        """Open the ledger of this job."""
        if (path := self._ledger_in_folder) is not None:
            return Ledger.open_file(path, job=self.id)
        return Ledger.open(self.ledger_url, job=self.id)

    def open_ledger_to_read(self) -> Ledger:
        """Open the ledger of this job, also where nothing may be written."""
        try:
            return self.open_ledger()
        except LedgerError:
            if (path := self._ledger_in_folder) is None:
                raise
            return Ledger.open_file(path, job=self.id, read_only=True)

    @property
    def _ledger_in_folder(self) -> Path | None:
        """Return the file of the ledger in the folder of the job, None where it is elsewhere."""
        if isinstance(self.folder, BucketPlace) or self.ledger_url != _file_url(self.folder):
            return None
        return (self.folder / FILE_NAME).resolve()


def open_job(folder: Place, *, ledger_url: str | None = None) -> Job:
    """Return the job in `folder`; `ledger_url`, where it is known, has its ledger's password.

    Raises:
        UsageError: if there is none, or its description is damaged.
        StoreError: if it is in a bucket that cannot be used.
    """
    check_stores(folder)
    folder = folder.absolute()
    path = folder / DESCRIPTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        _check_description(values)
        return Job(
            folder=folder,
            id=values["id"],
            source_dir=_source_in(folder, values["source"]),
            ledger_url=_ledger_of(folder, values["ledger"], asked=ledger_url),
        )
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise UsageError(why_not_a_job(folder, DESCRIPTION)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); restore it or use another folder"
        ) from error


def _source_in(folder: Place, source: str) -> Place:
    """Return the LR archive by what a description says: its name in the job, or its address."""
    place = place_of(source)
    if isinstance(place, BucketPlace) or place.is_absolute():
        return place
    return folder / source


def _ledger_of(folder: Place, described: str, *, asked: str | None) -> str:
    """Return the URL of a ledger, with the password that is asked for where it is the same."""
    if isinstance(folder, Path):
        return described or _file_url(folder)
    if asked and without_password(asked) == described:
        return asked
    return described


def _check_description(values: dict[str, object]) -> None:
    wrong = [k for k in ("id", "source", "ledger") if not isinstance(values[k], str)]
    if wrong or not values["id"]:
        raise ValueError(f"expected text for {' and '.join(wrong or ['id'])}")


def check_folder(folder: Place) -> None:
    """Refuse a folder that is not a job and cannot become one, by what is in it or around it.

    Raises:
        UsageError: then.
        StoreError: if it is in a bucket that cannot be used.
    """
    check_stores(folder)
    if (folder / DESCRIPTION).exists():
        return
    check_new_job(folder)
    if not folder.exists():
        return
    if not folder.is_dir() or _holds_other_things(folder):
        raise UsageError(f"{folder} exists and is not a job; name a new or empty folder")


def create_job(folder: Place, *, source: str, ledger_url: str | None = None) -> Job:
    """Return the job in `folder`, made where there is none.

    A Zarr archive as `source` is read where it is; anything else is ingested into the job.

    Raises:
        UsageError: if the job exists with another source archive or ledger, or the folder holds
            other things.
        ArchiveError: if `source` is a Zarr store that upres did not write.
        LedgerError: if the ledger cannot be opened, or is a file of another program.
        OccupiedError: if the lock is one.
    """
    check_stores(folder, source)
    folder, given = folder.absolute(), place_of(source)
    archive = given.resolve() if is_archive(given) else None
    ledger_url = ledger_url and absolute_url(ledger_url)
    if (folder / DESCRIPTION).exists():
        job = open_job(folder, ledger_url=ledger_url)
        _check_same(job, archive=archive, ledger_url=ledger_url)
        return job
    if archive is not None:
        Archive.open(archive)
    check_folder(folder)
    job_id = uuid.uuid4().hex
    _check_lock_and_ledger(folder, ledger_url, job_id)
    values = {
        "id": job_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": str(archive or "source.zarr"),
        "ledger": ledger_url or "",
    }
    if isinstance(folder, BucketPlace):
        return _described_in_bucket(folder, values)
    whole = [source] if os.path.lexists(source) else []
    make_folder(folder, readers(whole, near=folder))
    with replace_atomically(folder / DESCRIPTION) as file:
        if ledger_url:
            # It may hold a password.
            os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps(values, indent=2).encode())
    return open_job(folder)


def _check_lock_and_ledger(folder: Place, ledger_url: str | None, job_id: str) -> None:
    """Try both before anything is written: a mistyped URL, or a foreign file, must spoil no job."""
    if isinstance(folder, Path):
        check_lock(folder / JOB_LOCK)
        if not ledger_url and (folder / FILE_NAME).exists():
            Ledger.open_file((folder / FILE_NAME).resolve(), job=job_id).close()
    elif not ledger_url:
        raise not_in_bucket(folder)
    if ledger_url:
        Ledger.open(ledger_url, job=job_id).close()


def _described_in_bucket(folder: BucketPlace, values: dict[str, str]) -> Job:
    """Describe a new job in a bucket, unless somebody else just did; return what is there then.

    Others may read the bucket, so the description has no password of the ledger.
    """
    url = values["ledger"]
    described = json.dumps({**values, "ledger": without_password(url)}, indent=2).encode()
    place = folder / DESCRIPTION
    # A request that is sent again may find what it stored itself: whose it is, the id says.
    with suppress(FileExistsError):
        place.of_bucket.put(place.key, described, replaces=False)
    job = open_job(folder, ledger_url=url)
    if job.id != values["id"]:
        raise JobBusyError(f"{folder} was just started by another run; repeat the command")
    return job


@contextmanager
def started_job(folder: Place, *, source: str, ledger_url: str | None = None) -> Iterator[Job]:
    """Yield the job that `create_job` returns; remove a new one that fails while it is empty.

    So a failed start, such as one from a folder without pictures, leaves nothing that looks like a
    job. An interrupted job is kept, to be continued.
    """
    folder = folder.absolute()
    check_stores(folder)
    before = {path.name for path in folder.iterdir()} if folder.is_dir() else None
    job = create_job(folder, source=source, ledger_url=ledger_url)
    try:
        yield job
    except Exception:
        if before is None or DESCRIPTION not in before:
            with suppress(OSError, JobBusyError), hold_job(job, "taking away"):
                _take_away(job, before)
        raise


def _take_away(job: Job, before: set[str] | None) -> None:
    """Remove a job that holds no pictures, but nothing that was there `before`."""
    kept = before or set()
    own = {DESCRIPTION, JOB_LOCK, *(f"{FILE_NAME}{end}" for end in ("", "-wal", "-shm"))}
    if any(path.name not in own | kept for path in job.folder.iterdir()):
        return
    for name in own - kept:
        (job.folder / name).unlink(missing_ok=True)
    if before is None and isinstance(job.folder, Path):
        job.folder.rmdir()


def hold_job(job: Job, command: str) -> AbstractContextManager[None]:
    """Hold the job for one run, as `hold` says; where it is in a bucket, by its ledger."""
    if isinstance(job.folder, Path):
        return hold(job.folder / JOB_LOCK, job.folder, command)
    return hold_by_ledger(job.ledger_url, job=job.id, what=job.folder, command=command)


def _file_url(folder: Path) -> str:
    return f"sqlite:///{(folder / FILE_NAME).resolve()}"


def _holds_other_things(folder: Place) -> bool:
    return any(path.name not in (JOB_LOCK, FILE_NAME) for path in folder.iterdir())


def _is_one(archive: Place, other: Place) -> bool:
    """Return whether two paths lead to the same folder."""
    return is_inside(archive, other) and is_inside(other, archive)


def _check_same(job: Job, *, archive: Place | None, ledger_url: str | None) -> None:
    if archive is not None and is_inside(archive, job.folder / "source.zarr"):
        raise UsageError(
            f"{archive} is the job's own copy of its pictures; give the pictures themselves, or "
            "use `upres rerun`"
        )
    if archive is not None and not _is_one(archive, job.source_dir):
        raise UsageError(
            f"{job.folder} upscales {job.source_dir}, not {archive}; use another job folder"
        )
    if archive is None and not job.owns_source:
        raise UsageError(
            f"{job.folder} upscales the archive {job.source_dir}; give that, or use another folder"
        )
    if ledger_url and ledger_url != job.ledger_url:
        raise is_elsewhere(job.folder, without_password(job.ledger_url))
