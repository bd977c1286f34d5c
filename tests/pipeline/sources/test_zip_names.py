"""Names in zips and tars: what the archive says of them, what the user says, and CP437."""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import UsageError
from pipeline.sources.listing import check_source, list_source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

JAPANESE = {"表紙.png": b"1", "第1話/ソード01.png": b"2", "十.png": b"3"}


def raw_zip(path: Path, files: Mapping[bytes, bytes], *, extra: Mapping[bytes, bytes] = {}) -> Path:
    """Write a zip whose names are these very bytes, without the UTF-8 flag."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, data) in enumerate(files.items()):
            info = zipfile.ZipInfo(chr(65 + number) * len(name))
            info.extra = extra.get(name, b"")
            archive.writestr(info, data)
    content = path.read_bytes()
    for number, name in enumerate(files):
        content = content.replace((chr(65 + number) * len(name)).encode(), name)
    path.write_bytes(content)
    return path


def unicode_path(name: bytes, text: str, *, version: int = 1, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(name) if checksum is None else checksum
    body = struct.pack("<BI", version, crc) + text.encode()
    return struct.pack("<HH", 0x7075, len(body)) + body


def contents(path: Path, names: str = "") -> dict[str, bytes]:
    return {file.item: file.read() for file in list_source(str(path), names=names)}


@pytest.mark.parametrize(
    ("encoding", "files"),
    [
        ("cp932", JAPANESE),
        ("shift_jis", JAPANESE),
        ("euc_jp", JAPANESE),
        ("gbk", {"封面.png": b"1", "俓/第一話.png": b"2"}),
        ("big5", {"封面.png": b"1", "功/許.png": b"2"}),
        ("euc_kr", {"표지.png": b"1"}),
        ("cp866", {"Фото/Обложка.png": b"1"}),
        ("cp850", {"Ø.png": b"1"}),
    ],
)
def test_names_are_read_in_the_encoding_that_is_named(
    tmp_path: Path, encoding: str, files: Mapping[str, bytes]
) -> None:
    path = raw_zip(tmp_path / "a.zip", {name.encode(encoding): d for name, d in files.items()})
    assert contents(path, encoding) == files
    assert list_source(str(path), names=encoding).remarks() == []


def test_names_that_say_nothing_are_cp437_and_that_is_said(tmp_path: Path) -> None:
    path = raw_zip(tmp_path / "a.zip", {"café/ü.png".encode("cp437"): b"1", b"plain.png": b"2"})
    assert contents(path) == {"café/ü.png": b"1", "plain.png": b"2"}
    (note,) = list_source(str(path)).remarks()
    assert note.startswith(
        "file names without an encoding, read as CP437: 1, such as 'café/ü.png';"
    )
    assert "--names" in note


def test_the_second_byte_of_a_letter_makes_no_folder(tmp_path: Path) -> None:
    path = raw_zip(tmp_path / "a.zip", {name.encode("cp932"): d for name, d in JAPANESE.items()})
    found = contents(path)
    assert sorted(found.values()) == [b"1", b"2", b"3"]
    assert sorted(item.count("/") for item in found) == [0, 0, 1]


def test_a_backslash_separates_folders_where_a_tool_writes_it_so(tmp_path: Path) -> None:
    names = {b"b\\c.png": b"1", "Menü\\ü.png".encode("cp437"): b"2", b"empty\\": b""}
    path = raw_zip(tmp_path / "a.zip", names)
    assert contents(path) == {"b/c.png": b"1", "Menü/ü.png": b"2"}


def test_the_unicode_path_field_goes_before_the_raw_name(tmp_path: Path) -> None:
    name = b"Fotos_M_nchen.png"
    extra = struct.pack("<HHI", 0x5455, 5, 0)[:8] + b"\0" + unicode_path(name, "Fotos München.png")
    path = raw_zip(tmp_path / "a.zip", {name: b"1"}, extra={name: extra})
    assert contents(path) == contents(path, "cp932") == {"Fotos München.png": b"1"}


@pytest.mark.parametrize("wrong", [{"checksum": 1}, {"version": 2}])
def test_a_field_that_belongs_to_another_name_is_not_believed(
    tmp_path: Path, wrong: dict[str, int]
) -> None:
    field = unicode_path(b"renamed.png", "old.png", **wrong)
    path = raw_zip(tmp_path / "a.zip", {b"renamed.png": b"1"}, extra={b"renamed.png": field})
    assert contents(path) == {"renamed.png": b"1"}


def test_the_field_cannot_lead_out_of_the_archive(tmp_path: Path) -> None:
    field = unicode_path(b"a.png", "../../a.png")
    path = raw_zip(tmp_path / "a.zip", {b"a.png": b"1"}, extra={b"a.png": field})
    (file,) = list_source(str(path))
    assert file.item == "_refused/_/_/a.png"
    assert file.refused is not None


def test_the_utf8_flag_goes_before_the_encoding_that_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("日本/é.png", b"1")
    assert contents(tmp_path / "a.zip") == {"日本/é.png": b"1"}
    assert contents(tmp_path / "a.zip", "cp932") == {"日本/é.png": b"1"}


def test_names_that_are_utf8_without_saying_so_are_read_as_such(tmp_path: Path) -> None:
    path = raw_zip(tmp_path / "a.zip", {"日本.png".encode(): b"1", b"a.png": b"2"})
    assert contents(path) == {"日本.png": b"1", "a.png": b"2"}
    mixed = {"日本.png".encode(): b"1", "ü.png".encode("cp437"): b"2"}
    path = raw_zip(tmp_path / "b.zip", mixed)
    assert contents(path) == {"日本".encode().decode("cp437") + ".png": b"1", "ü.png": b"2"}


def test_names_that_are_not_in_the_encoding_stay_apart_and_are_told(tmp_path: Path) -> None:
    path = raw_zip(tmp_path / "a.zip", {b"caf\xe9.png": b"1", b"caf\xe8.png": b"2", b"a.png": b"3"})
    found = contents(path, "utf-8")
    assert sorted(found.values()) == [b"1", b"2", b"3"]
    assert all(item.endswith(".png") for item in found)
    (note,) = list_source(str(path), names="utf-8").remarks()
    assert note.startswith("file names that are not utf-8: 2, such as ")


def test_a_tar_of_raw_names_is_read_in_the_encoding_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="cp932") as archive:
        for name in JAPANESE:
            archive.addfile(tarfile.TarInfo(name))
    listing = list_source(str(path), names="cp932")
    assert [file.item for file in listing] == sorted(JAPANESE)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("sijs", "did you mean sjis"),
        ("cp9322", "did you mean cp932"),
        ("shiftjis9", "shiftjis"),
        ("utf-16", "expected an encoding of file names"),
        ("rot13", "expected an encoding of file names"),
        ("a\0b", "expected an encoding of file names"),
        ("unicode_escape", "expected an encoding of file names"),
        ("qqqqqq", "such as cp932, gbk or euc_kr"),
    ],
)
def test_what_no_names_are_in_is_wrong_usage_with_the_nearest(
    tmp_path: Path, name: str, near: str
) -> None:
    for check in (check_source, list_source):
        with pytest.raises(UsageError, match="--names is") as caught:
            check(str(tmp_path), names=name)
        assert near in str(caught.value)


def test_an_encoding_that_changes_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    (note,) = list_source(str(tmp_path), names="cp932").remarks()
    assert note.startswith("--names cp932 has no effect on ")
