"""Who may read: what is made of a private picture is private too, whatever the umask."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from pipeline.storage.access import EVERYONE, GROUP, OTHERS, close_to, make_folder, readers
from pipeline.storage.atomic import replace_atomically, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual umask: all may read what is written."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def file(path: Path, mode: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("given", "allowed"),
    [(0o644, EVERYONE), (0o640, GROUP), (0o600, 0), (0o604, OTHERS), (0o400, 0), (0o200, 0)],
)
def test_a_file_is_for_whom_its_mode_says(tmp_path: Path, given: int, allowed: int) -> None:
    assert readers([file(tmp_path / "in" / "a.png", given)], near=tmp_path / "out") == allowed


def test_a_folder_that_lets_nobody_through_closes_what_is_in_it(tmp_path: Path) -> None:
    picture = file(tmp_path / "in" / "sub" / "a.png", 0o644)
    (tmp_path / "in").chmod(0o700)
    assert readers([picture], near=tmp_path / "out") == 0


def test_a_folder_around_both_keeps_the_copy_safe_as_well(tmp_path: Path) -> None:
    home = tmp_path / "home"
    picture = file(home / "in" / "a.png", 0o644)
    home.chmod(0o700)
    assert readers([picture], near=home / "out") == EVERYONE
    assert readers([picture], near=tmp_path / "out") == 0


def test_of_many_the_most_private_decides(tmp_path: Path) -> None:
    pictures = [file(tmp_path / "in" / f"{m}.png", m) for m in (0o644, 0o640, 0o664)]
    assert readers(pictures, near=tmp_path / "out") == GROUP


def test_what_is_not_there_is_for_nobody_else(tmp_path: Path) -> None:
    assert readers([tmp_path / "gone.png"], near=tmp_path / "out") == 0


def test_no_path_at_all_is_for_everyone(tmp_path: Path) -> None:
    assert readers([], near=tmp_path) == EVERYONE


def test_a_file_of_another_group_gives_this_processs_group_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a file to another group")
    picture = file(tmp_path / "in" / "a.png", 0o640)
    os.chown(picture, -1, 65534)
    assert readers([picture], near=tmp_path / "out") == 0


def test_closing_takes_permissions_and_gives_none(tmp_path: Path) -> None:
    path = file(tmp_path / "a", 0o640)
    close_to(path, EVERYONE)
    assert mode(path) == 0o640
    close_to(path, OTHERS)
    assert mode(path) == 0o600


def test_a_new_file_is_never_open_to_more_while_it_is_written(tmp_path: Path) -> None:
    with replace_atomically(tmp_path / "a", readers=0) as writing:
        writing.write(b"pixels")
        assert [mode(path) for path in tmp_path.iterdir()] == [0o600]
    assert mode(tmp_path / "a") == 0o600


@pytest.mark.parametrize(("mask", "written"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_for_everyone_is_as_the_umask_says(tmp_path: Path, mask: int, written: int) -> None:
    os.umask(mask)
    write_atomic(tmp_path / "a", b"pixels")
    assert mode(tmp_path / "a") == written


def test_a_folder_is_made_for_those_who_may_and_one_that_is_there_stays(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "inner", 0)
    assert mode(tmp_path / "new" / "inner") == 0o700
    assert mode(tmp_path / "new") == 0o755
    make_folder(tmp_path / "new", 0)
    assert mode(tmp_path / "new") == 0o755
