"""Whether a training may begin or go on in a folder follows from the files of its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.errors import UsageError
from pipeline.training.folder import BEST, LAST, RECIPE, STATE, check_folder, files_of_steps

if TYPE_CHECKING:
    from pathlib import Path


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).touch()
    return path


def test_files_of_steps_are_state_and_models_and_nothing_that_preparing_leaves(
    tmp_path: Path,
) -> None:
    assert files_of_steps(tmp_path / "missing") == []
    assert files_of_steps(folder(tmp_path, RECIPE, "train.lock")) == []
    folder(tmp_path, BEST, STATE)
    assert [path.name for path in files_of_steps(tmp_path)] == [STATE, BEST]


@pytest.mark.parametrize(
    ("names", "resume", "message"),
    [
        ((STATE,), False, "holds a training already; add --resume"),
        ((BEST, LAST), True, f"{STATE} is gone, .* --set initial=.*{LAST} to begin"),
        ((BEST,), False, f"{STATE} is gone, .* --set initial=.*{BEST} to begin"),
        ((RECIPE,), True, f"cannot be resumed: it holds no {STATE}"),
    ],
)
def test_a_folder_that_cannot_be_trained_into_is_refused(
    names: tuple[str, ...], resume: bool, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        check_folder(folder(tmp_path, *names), resume=resume)


@pytest.mark.parametrize(("names", "resume"), [((), False), ((RECIPE,), False), ((STATE,), True)])
def test_a_folder_without_steps_begins_and_one_with_a_state_goes_on(
    names: tuple[str, ...], resume: bool, tmp_path: Path
) -> None:
    check_folder(folder(tmp_path, *names), resume=resume)
