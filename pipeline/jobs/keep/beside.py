"""Archives of jobs that somebody else reads or writes: what is not in them any more."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from pipeline.errors import LedgerError, UsageError
from pipeline.jobs.job import DESCRIPTION, open_job
from pipeline.jobs.keep import words
from pipeline.storage.ledger import LR, SR

if TYPE_CHECKING:
    from pipeline.storage.store import Place


def check_not_let_go(archive: Place) -> None:
    """Refuse to bring pictures into the copy of a job that let go of it.

    Raises:
        UsageError: then.
    """
    if many := let_go_from(archive):
        raise UsageError(words.not_ingested(many, archive.absolute().parent))


def remarks_on(archive: Place) -> tuple[str, ...]:
    """Return a line where an archive is a job's, and pixels were let go from it."""
    many = let_go_from(archive)
    return (words.not_in_archive(many, archive),) if many else ()


def let_go_from(archive: Place) -> int:
    """Return of how many pictures a job let the pixels go from an archive of its own."""
    folder = archive.absolute().parent
    if not (folder / DESCRIPTION).exists():
        return 0
    try:
        job = open_job(folder)
        with closing(job.open_ledger_to_read()) as ledger:
            gone = ledger.count_let_go()
    except (UsageError, LedgerError):
        return 0  # Of a ledger that cannot be read nothing is known, and nothing needs it here.
    return gone.get(LR if archive.absolute() == job.source_dir else SR, 0)
