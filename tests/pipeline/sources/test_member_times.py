"""Times of members: those of the archive's own, exact where it knows them."""

from __future__ import annotations

import os
import struct
import tarfile
import time
import zipfile
from typing import TYPE_CHECKING

import pytest

from pipeline.sources.listing import list_source
from pipeline.sources.member_times import tar_member_ns, zip_member_ns

if TYPE_CHECKING:
    from pathlib import Path

WHEN = 1_000_000_001


def member(extra: bytes = b"", date: tuple[int, ...] = (2001, 9, 9, 1, 46, 40)) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("a.png", date)  # type: ignore[arg-type]
    info.extra = extra
    return info


def test_a_zip_knows_local_time() -> None:
    local = time.mktime((2001, 9, 9, 1, 46, 40, 0, 0, -1))
    assert zip_member_ns(member()) == int(local) * 10**9


def test_times_of_unix_and_windows_are_exact() -> None:
    unix = struct.pack("<HHBi", 0x5455, 5, 1, WHEN)
    ticks = (WHEN + 11_644_473_600) * 10**7 + 1234567
    windows = struct.pack("<HHIHHQQQ", 0x000A, 32, 0, 1, 24, ticks, 0, 0)
    assert zip_member_ns(member(unix)) == WHEN * 10**9
    assert zip_member_ns(member(windows)) == WHEN * 10**9 + 123456700
    assert zip_member_ns(member(unix + windows)) == WHEN * 10**9 + 123456700
    before_1970 = struct.pack("<HHBi", 0x5455, 5, 1, -5)
    assert zip_member_ns(member(before_1970)) == -5 * 10**9


@pytest.mark.parametrize("extra", [b"\x55", b"\x55\x54\xff\xff\x02", b"\x55\x54\x05\0\0aaaa"])
def test_a_damaged_field_leaves_local_time(extra: bytes) -> None:
    assert zip_member_ns(member(extra)) == zip_member_ns(member())


def test_a_date_that_does_not_exist_is_none() -> None:
    info = member()
    info.date_time = (1980, 0, 0, 0, 0, 0)
    assert zip_member_ns(info) is None


def test_a_tar_knows_whole_seconds_or_all_digits() -> None:
    info = tarfile.TarInfo("a.png")
    info.mtime = WHEN
    assert tar_member_ns(info) == WHEN * 10**9
    info.pax_headers = {"mtime": f"{WHEN}.123456789"}
    assert tar_member_ns(info) == WHEN * 10**9 + 123456789
    info.pax_headers = {"mtime": "nan"}
    assert tar_member_ns(info) is None


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_are_listed_with_their_own_times(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    os.utime(tmp_path / "a.png", (0, WHEN - 1))
    path = tmp_path / f"all.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "a.png", "a.png")
    else:
        with tarfile.open(path, "w") as pack:
            pack.add(tmp_path / "a.png", "a.png")
    (file,) = list_source(str(path))
    assert file.modified_ns == (WHEN - 1) * 10**9
    assert file.mtime_ns == path.stat().st_mtime_ns, "by which a change of the archive is noticed"
