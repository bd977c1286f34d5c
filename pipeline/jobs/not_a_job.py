"""What a folder is that somebody took for a job, in one line that says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.storage.archive_group import is_archive
from pipeline.storage.dataset import is_dataset
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from pipeline.storage.store import Place


_OF_A_TRAINING = ("recipe.toml", "metrics.csv")


def why_not_a_job(folder: Place, description: str) -> str:
    """Return what is at `folder` instead of a job, and what to do, in one line.

    `description` is the name of the file that makes a folder a job.
    """
    if is_dataset(folder):
        return (
            f"{folder} is a dataset, expected a job; datasets have prepare, status, report, "
            "export and train"
        )
    if is_archive(folder):
        return (
            f"{folder} is an archive, expected a job; `upres upscale {folder} JOB` makes one of it"
        )
    if all((folder / name).exists() for name in _OF_A_TRAINING):
        return (
            f"{folder} is a training, expected a job; its figures are in metrics.csv, and "
            f"`upres train SRC --recipe RECIPE --out {folder} --resume` goes on with it"
        )
    start = f"start one with `upres upscale SRC {folder}`"
    if not folder.exists():
        return f"{folder} does not exist, expected a job; check the path, or {start}"
    below = _job_below(folder, description)
    if below is not None:
        return f"{folder} is not a job (it has no {description}); did you mean {below}?"
    return f"{folder} is not a job (it has no {description}); {start}"


def _job_below(folder: Place, description: str) -> Place | None:
    if isinstance(folder, BucketPlace):
        inner = (place for place, facts in folder.listed() if facts is None)
        return next((place for place in inner if (place / description).exists()), None)
    return next((path.parent for path in sorted(folder.glob(f"*/{description}"))), None)
