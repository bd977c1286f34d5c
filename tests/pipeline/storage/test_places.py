"""Places: a folder is the same one under whatever name it is reached."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from pipeline.storage.places import Folder, Identity, folders_below, inside, is_inside, ways_below

if TYPE_CHECKING:
    from collections.abc import Iterator


class Bind(Protocol):
    def __call__(self, folder: Path, at: Path) -> Path: ...


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Give a folder a second name, as containers do."""
    bound: list[Path] = []

    def mounted(folder: Path, at: Path) -> Path:
        at.mkdir(parents=True, exist_ok=True)
        words = ["mount", "--bind", str(folder), str(at)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this user may not mount here: {done.stderr.strip()}")
        bound.append(at)
        return at

    yield mounted
    for at in reversed(bound):
        subprocess.run(["umount", "--lazy", str(at)], capture_output=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "data" / "in" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "other").mkdir()
    return tmp_path / "data"


def test_a_folder_is_inside_itself_and_inside_what_it_is_in(tree: Path) -> None:
    assert inside(tree / "in", tree / "in") == Path()
    assert inside(tree / "in" / "sub", tree) == Path("in/sub")
    assert inside(tree / "in" / ".." / "in" / "sub", tree / "in") == Path("sub")
    assert not is_inside(tree, tree / "in")
    assert not is_inside(tree / "other", tree / "in")
    assert not is_inside(tree / "in-2", tree / "in"), "names that begin alike are not inside"


def test_what_does_not_exist_yet_has_its_place_already(tree: Path) -> None:
    assert inside(tree / "in" / "new" / "deep", tree / "in") == Path("new/deep")
    assert inside(tree / "in" / "new" / "deep", tree / "in" / "new") == Path("deep")
    assert not is_inside(tree / "in" / "new", tree / "in" / "new" / "deep")
    assert not is_inside(tree / "in" / "new", tree / "in" / "neu")


def test_a_symbolic_link_changes_nothing(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "in")
    assert is_inside(tree / "link", tree / "in")
    assert is_inside(tree / "in" / "sub", tree / "link")
    assert inside(tree / "link" / "new", tree / "in") == Path("new")


def test_a_bind_mount_changes_nothing(tree: Path, tmp_path: Path, bind: Bind) -> None:
    alias = bind(tree / "in", tmp_path / "alias")
    assert is_inside(alias, tree / "in")
    assert is_inside(tree / "in", alias)
    assert inside(alias / "sub" / "new", tree / "in") == Path("sub/new")


def test_a_bind_mount_of_a_parent_changes_nothing(tree: Path, tmp_path: Path, bind: Bind) -> None:
    alias = bind(tree, tmp_path / "alias")
    assert inside(alias / "in" / "new", tree / "in") == Path("new")
    assert not is_inside(alias / "other", tree / "in")


def test_a_bind_mount_of_a_subfolder_is_found_by_looking_below(
    tree: Path, tmp_path: Path, bind: Bind
) -> None:
    alias = bind(tree / "in" / "sub", tmp_path / "alias")
    assert list(ways_below(alias / "new", tree / "in")) == [Path("sub/new")]
    assert list(ways_below(alias, tree / "other")) == []


def test_a_folder_that_a_link_below_leads_to_is_found(tree: Path) -> None:
    (tree / "in" / "sub" / "link").symlink_to(tree / "other")
    assert list(ways_below(tree / "other" / "new", tree / "in")) == [Path("sub/link/new")]


def test_links_in_circles_come_to_an_end(tree: Path) -> None:
    (tree / "in" / "sub" / "up").symlink_to(tree / "in")
    assert {f.path.name for f in folders_below(tree / "in")} == {"in", "sub"}
    (tree / "loop").symlink_to(tree / "loop")
    assert Identity.of(tree / "loop") is None
    assert not is_inside(tree / "loop", tree / "in")


def test_what_upres_wrote_is_not_looked_into(tree: Path) -> None:
    for name in ("zarr.json", "job.json"):
        (tree / "in" / name / "deep").mkdir(parents=True)
        (tree / "in" / name / name).touch()
    assert {f.path.name for f in folders_below(tree / "in")} == {"in", "sub"}
    assert {f.path.name for f in folders_below(tree / "in" / "job.json")} == {"job.json", "deep"}


def test_a_share_that_is_mounted_twice_is_one_although_its_devices_differ(
    tree: Path, tmp_path: Path
) -> None:
    (tree / "in" / "sub" / "a.png").touch()
    for name in ("upper", "work", "again"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tree / 'in'},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    words = ["mount", "-t", "overlay", "overlay", "-o", options, str(tmp_path / "again")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no overlay can be mounted here: {done.stderr.strip()}")
    try:
        first, second = Folder.at(tree / "in" / "sub"), Folder.at(tmp_path / "again" / "sub")
        assert first is not None
        assert second is not None
        if first.identity.inode != second.identity.inode:
            pytest.skip("this overlay numbers its folders anew")
        assert first.identity.device != second.identity.device
        assert first.is_same(second)
        assert is_inside(tmp_path / "again" / "sub" / "new", tree / "in" / "sub")
        os.utime(tree / "other")
        assert not is_inside(tmp_path / "again" / "sub", tree / "other")
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "again")], check=False)


def test_empty_folders_of_two_disks_with_equal_numbers_are_two(tmp_path: Path) -> None:
    one = Folder(tmp_path, Identity(1, 5), (7, 7))
    assert not one.is_same(Folder(tmp_path, Identity(2, 5), (7, 7))), "no names to compare"
    (tmp_path / "a").touch()
    assert one.is_same(Folder(tmp_path, Identity(2, 5), (7, 7)))
    assert not one.is_same(Folder(tmp_path, Identity(2, 6), (7, 7)))
    assert not one.is_same(Folder(tmp_path, Identity(2, 5), (7, 8)))
    timeless = Folder(tmp_path, Identity(1, 5), (0, 0))
    assert not timeless.is_same(Folder(tmp_path, Identity(2, 5), (0, 0)))
