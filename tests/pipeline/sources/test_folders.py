"""Folders: links are followed once, loops end, and what is passed by is counted."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import SourceError
from pipeline.sources import folders
from pipeline.sources.listing import list_source

if TYPE_CHECKING:
    from pathlib import Path


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def items(src: object) -> list[str]:
    return [file.item for file in list_source(str(src))]


def left_out(src: object) -> dict[str, int]:
    return {why: n for why, n in list_source(str(src)).left_out.to_json().items() if n}


def test_a_linked_folder_is_listed_at_the_place_of_its_link(tmp_path: Path) -> None:
    inside = put(tmp_path / "in", "a.png")
    outside = put(tmp_path / "out", "b/z.png")
    (inside / "link").symlink_to(outside)
    listing = list_source(str(inside))
    assert [file.item for file in listing] == ["a.png", "link/b/z.png"]
    assert listing[1].read() == b"b/z.png"
    assert listing.remarks() == []


@pytest.mark.parametrize("pattern", ["", "/**/*.png", "/**", "/*"])
def test_a_real_folder_wins_over_a_link_to_it_whatever_their_names(
    tmp_path: Path, pattern: str
) -> None:
    put(tmp_path, "m/1.png", "m/n/2.png")
    (tmp_path / "a").symlink_to("m")
    (tmp_path / "z").symlink_to("m/n")
    assert items(f"{tmp_path}{pattern}") == ["m/1.png", "m/n/2.png"]
    listing = list_source(f"{tmp_path}{pattern}")
    assert listing.remarks() == ["left out: 2 folders that are listed already (a, z)"]


def test_loops_of_links_end(tmp_path: Path) -> None:
    put(tmp_path / "in", "b/a.png")
    (tmp_path / "in/b/up").symlink_to("..")
    (tmp_path / "in/b/out").symlink_to(tmp_path)
    (tmp_path / "in/b/self").symlink_to(".")
    (tmp_path / "other").mkdir()
    put(tmp_path, "other/o.png")
    (tmp_path / "other/back").symlink_to(tmp_path / "in")
    # The link out of the source shows its surroundings, without the source itself.
    assert items(tmp_path / "in") == ["b/a.png", "b/out/other/o.png"]
    assert left_out(tmp_path / "in") == {"repeated_folders": 4}


def test_of_two_links_to_one_folder_the_first_by_name_is_followed(tmp_path: Path) -> None:
    put(tmp_path / "out", "a.png")
    (tmp_path / "in").mkdir()
    for name in ("second", "first"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "out")
    assert items(tmp_path / "in") == ["first/a.png"]
    assert left_out(tmp_path / "in") == {"repeated_folders": 1}


def test_a_pattern_follows_a_link_to_a_folder_that_it_does_not_take_itself(tmp_path: Path) -> None:
    put(tmp_path, "real/a.png", "real/b/c.png")
    (tmp_path / "link").symlink_to("real")
    assert items(f"{tmp_path}/link/*.png") == ["a.png"]
    assert items(f"{tmp_path}/l*/*.png") == ["link/a.png"]
    assert items(f"{tmp_path}/*/*.png") == ["real/a.png"]


def test_a_source_that_is_a_link_is_listed(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.png")
    (tmp_path / "link").symlink_to("in")
    assert items(tmp_path / "link") == ["a.png"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_one_folder_mounted_twice_is_listed_once(tmp_path: Path) -> None:
    put(tmp_path, "in/b/1.png", "in/a/.keep")
    mounted = subprocess.run(
        ["mount", "--bind", str(tmp_path / "in/b"), str(tmp_path / "in/a")], check=False
    )
    if mounted.returncode:
        pytest.skip("mounts are not allowed here")
    try:
        assert items(tmp_path / "in") == ["a/1.png"]
        assert left_out(tmp_path / "in") == {"repeated_folders": 1}
    finally:
        subprocess.run(["umount", str(tmp_path / "in/a")], check=True)


@pytest.mark.parametrize("store", ["job", "lr.zarr", "training"])
def test_jobs_stores_and_trainings_are_left_out_through_links_too(
    tmp_path: Path, store: str
) -> None:
    holds = {
        "job": ("job.json", "lock", "preview.png"),
        "lr.zarr": ("zarr.json", "a/0.png"),
        "training": ("recipe.toml", "metrics.csv", "curves.png", "samples/1.png"),
    }[store]
    put(tmp_path / "in", "a.png", *(f"{store}/{name}" for name in holds))
    put(tmp_path / "elsewhere", *(f"{store}/{name}" for name in holds))
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere" / store)
    assert items(tmp_path / "in") == ["a.png"]
    assert left_out(tmp_path / "in") == {"of_upres": 2}


def test_folders_named_as_files_of_a_store_or_as_pictures_decide_nothing(tmp_path: Path) -> None:
    put(tmp_path, "trip/zarr.json/a.png", "lr.zarr/zarr.json", "lr.zarr/a.png/zarr.json")
    put(tmp_path, "lr.zarr/a.png/c/0/0/0")
    assert items(tmp_path) == ["trip/zarr.json/a.png"]
    assert left_out(tmp_path) == {"of_upres": 1}


def test_what_upres_keeps_beside_an_archive_is_no_failure(tmp_path: Path) -> None:
    beside = ("lr.zarr.ledger.sqlite", "lr.zarr.ledger.sqlite-wal", "lr.zarr.ledger.sqlite-shm")
    put(tmp_path, "a.png", *beside, "lr.zarr.lock", "set.zarr.preview.png")
    assert items(tmp_path) == ["a.png"]
    assert left_out(tmp_path) == {"of_upres": 5}


def test_litter_is_told_in_one_line_with_its_counts(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b/@eaDir/a.png/XL.jpg", "b/@eaDir/a.png/SM.jpg", "#recycle/old.png")
    put(tmp_path, "._a.png", "b/._b.png", ".git/objects/1", ".hidden.png", "a.xmp", "IMG_1.MOV")
    (tmp_path / "b/lost+found").mkdir()
    listing = list_source(str(tmp_path))
    assert [file.item for file in listing] == ["a.png"]
    assert listing.remarks() == [
        "left out: 6 files of litter (._ 2, @eaDir 2, #recycle 1, lost+found 1); "
        "2 hidden files (.git, .hidden.png); 1 sidecar (.xmp 1); "
        "1 file that is not a picture (.mov 1)"
    ]
    assert listing.left_out.to_json() == {
        "litter": 6,
        "hidden": 2,
        "sidecars": 1,
        "not_pictures": 1,
        "of_upres": 0,
        "repeated_folders": 0,
        "special": 0,
    }


def test_litter_beyond_measure_is_counted_as_far_as_it_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_COUNTED", 10)
    put(tmp_path, "a.png", *(f"#snapshot/{n}.png" for n in range(30)))
    assert list_source(str(tmp_path)).remarks() == [
        "left out: at least 10 files of litter (#snapshot 10)"
    ]


def test_litter_that_is_named_as_the_source_is_meant(tmp_path: Path) -> None:
    put(tmp_path, "@eaDir/a.jpg", ".old/b.jpg", "@eaDir/@eaDir/c.jpg", "c.jpg")
    assert items(tmp_path / "@eaDir") == ["a.jpg"]
    assert items(f"{tmp_path}/@eaDir/*.jpg") == ["a.jpg"]
    assert items(f"{tmp_path}/**/@eaDir/*.jpg") == ["@eaDir/@eaDir/c.jpg", "@eaDir/a.jpg"]
    assert items(f"{tmp_path}/.o*/*.jpg") == [".old/b.jpg"]
    assert items(f"{tmp_path}/**/*.jpg") == ["c.jpg"]


def test_a_glob_counts_only_what_it_would_have_taken(tmp_path: Path) -> None:
    put(tmp_path, "a.JPG", "._a.JPG", "a.xmp", ".DS_Store", "b/@eaDir/1.jpg")
    listing = list_source(f"{tmp_path}/**/*.jpg")
    assert [file.item for file in listing] == ["a.JPG"]
    assert listing.left_out.to_json()["litter"] == 2
    assert listing.left_out.to_json()["sidecars"] == 0


def test_sockets_and_pipes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # A socket's path may not be long.
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("sock")
        assert list_source(str(tmp_path)).remarks() == [
            "left out: 2 sockets, pipes and devices (pipe, sock)"
        ]


def test_a_picture_that_icloud_keeps_elsewhere_is_a_failure_under_its_own_name(
    tmp_path: Path,
) -> None:
    put(tmp_path, "a.png", "b/.IMG_1.JPG.icloud")
    listing = list_source(str(tmp_path))
    assert [file.item for file in listing] == ["a.png", "b/IMG_1.JPG"]
    with pytest.raises(SourceError, match="download it from iCloud"):
        listing[1].read()
    assert items(f"{tmp_path}/**/*.jpg") == ["b/IMG_1.JPG"]


def test_a_source_of_left_out_files_only_says_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path, "a.xmp", "Thumbs.db")
    with pytest.raises(SourceError, match=r"holds no pictures \(left out: 1 file of litter .*xmp"):
        list_source(str(tmp_path))


def test_the_order_does_not_depend_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "out", "x/1.png", "y/2.png")
    put(tmp_path / "in", "a/3.png")
    (tmp_path / "in/l1").symlink_to(tmp_path / "out/x")
    (tmp_path / "in/l0").symlink_to(tmp_path / "out")
    first = list_source(str(tmp_path / "in"))
    scandir = os.scandir

    class Backwards(list[os.DirEntry[str]]):
        def __enter__(self) -> Backwards:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(os, "scandir", lambda path: Backwards(list(scandir(path))[::-1]))
    assert list_source(str(tmp_path / "in")).files == first.files
    assert [file.item for file in first] == ["a/3.png", "l0/x/1.png", "l0/y/2.png"]
