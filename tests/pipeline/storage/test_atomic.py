"""Files that appear whole or not at all: what went wrong names the file that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.storage.atomic import write_atomic

if TYPE_CHECKING:
    from pathlib import Path


def test_an_error_names_the_file_and_not_its_partial_one(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "report.html"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(path, b"1")
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{path}'"


def test_a_folder_in_the_place_of_a_file_stays_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=r"report\.html"):
        write_atomic(path, b"1")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
