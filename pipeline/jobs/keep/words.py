"""What is said of pixels that were let go: one line each, with the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.storage.store import Place


def lost(many: int, out_dir: Place | None) -> str:
    """Return why items are made again: their exported files are missing or changed."""
    return (
        f"{_pixels(many)} let go after the export (--keep export), and {_files(many)} missing or "
        f"changed below {out_dir}: made again from the source"
    )


def read_again(many: int) -> str:
    """Return that the sources of items are read again."""
    return f"{_pixels(many)} let go (--keep) and are needed: read again from the source"


def not_rerun(many: int, job_dir: Place) -> str:
    """Return why items are not computed again, and what does."""
    return (
        f"{_pixels(many)} let go (--keep), so nothing is left to compute from; `upres upscale SRC "
        f"{job_dir}`, with the model that is wanted, makes them again from the source"
    )


def not_ingested(many: int, job_dir: Place) -> str:
    """Return why pictures are not brought into a job's own copy, and what does."""
    return (
        f"{_pixels(many)} let go (--keep) from the copy of the job {job_dir}; "
        f"`upres upscale SRC {job_dir}` brings in what is new"
    )


def not_in_archive(many: int, archive: Place) -> str:
    """Return that an archive does not have all pictures of its job, and where these are."""
    return (
        f"{_pixels(many)} let go (--keep) and are not in {archive}; use the files that its job "
        "exported, or its source"
    )


def not_scored(many: int) -> str:
    """Return why the scores of items stay as they are."""
    return f"{_pixels(many)} let go (--keep), so the scores from before stay"


def not_exported(many: int, job_dir: Place, out_dir: Place) -> str:
    """Return why items are not exported, and what makes their files."""
    return (
        f"{_pixels(many)} let go after the export (--keep export), and {_files(many)} missing or "
        f"changed below {out_dir}; `upres upscale SRC {job_dir} --export {out_dir}` makes them "
        "again from the source"
    )


def _pixels(many: int) -> str:
    return "the pixels of 1 picture were" if many == 1 else f"the pixels of {many:,} pictures were"


def _files(many: int) -> str:
    return "its file is" if many == 1 else "their files are"
