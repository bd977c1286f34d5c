"""Sources: every file is listed once, under an id that is stable and cannot escape."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import struct
import tarfile
import tempfile
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError, UnreadableError, UnsupportedError
from pipeline.sources.listing import list_source
from pipeline.storage.archive_group import is_archive
from tests.examples import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.sources.source_file import SourceFile

FILES = {"a.png": b"first", "b/c.png": b"second", "b/d/e.webp": b"words", "b.png": b""}


def folder(root: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def make_zip(
    path: Path, files: Mapping[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: Mapping[str, bytes] = FILES) -> Path:
    packers: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".tgz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    if path.suffix in packers:
        path.write_bytes(packers[path.suffix](path.read_bytes()))
    return path


def contents(src: Path | str) -> dict[str, bytes]:
    return {file.item: file.read() for file in list_source(str(src))}


def items(src: Path | str) -> list[str]:
    return [file.item for file in list_source(str(src))]


def only(src: Path | str) -> SourceFile:
    (file,) = list_source(str(src))
    return file


def test_a_folder_lists_every_file_at_any_depth_sorted(tmp_path: Path) -> None:
    assert contents(folder(tmp_path)) == FILES
    assert items(tmp_path) == sorted(FILES)


def test_a_single_file_is_named_by_its_name(tmp_path: Path) -> None:
    folder(tmp_path)
    file = only(tmp_path / "b" / "c.png")
    assert (file.item, file.read(), file.size_bytes) == ("c.png", b"second", 6)
    assert file.mtime_ns == (tmp_path / "b" / "c.png").stat().st_mtime_ns


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_gives_what_the_folder_gives(tmp_path: Path, method: int) -> None:
    assert contents(make_zip(tmp_path / "a.zip", method=method)) == FILES


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_a_tar_gives_what_the_folder_gives(tmp_path: Path, ending: str) -> None:
    path = make_tar(tmp_path / f"A{ending}")
    assert contents(path) == FILES
    backwards = list_source(str(path))[::-1]
    assert {file.item: file.read() for file in backwards} == FILES


def test_a_zip_behind_other_bytes_is_read_at_the_right_place(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip")
    path.write_bytes(b"#!self-extractor" + path.read_bytes())
    assert contents(path) == FILES


def test_hidden_files_and_litter_are_left_out_everywhere(tmp_path: Path) -> None:
    files = {
        "a.png": b"1",
        ".hidden.png": b"2",
        ".cache/a.png": b"3",
        "Thumbs.db": b"4",
        "b/desktop.ini": b"5",
        "__MACOSX/a.png": b"6",
        "b/._a.png": b"7",
    }
    assert items(folder(tmp_path / "in", files)) == ["a.png"]
    assert items(make_zip(tmp_path / "a.zip", files)) == ["a.png"]
    assert items(make_tar(tmp_path / "a.tar", files)) == ["a.png"]
    assert items(f"{tmp_path}/in/**/*") == ["a.png"]


def test_links_to_files_are_followed_wherever_they_lead(tmp_path: Path) -> None:
    inside = folder(tmp_path / "in", {"b/a.png": b"1"})
    outside = folder(tmp_path / "out", {"z.png": b"2"})
    (inside / "link.png").symlink_to(outside / "z.png")
    (inside / "loop").symlink_to(inside)
    (inside / "self").symlink_to(inside / "self")
    (inside / "gone.png").symlink_to(inside / "nothing")
    os.mkfifo(inside / "pipe")
    files = {file.item: file for file in list_source(str(inside))}
    assert sorted(files) == ["b/a.png", "gone.png", "link.png", "self"]
    assert files["link.png"].read() == b"2"
    for broken in ("gone.png", "self"):
        with pytest.raises(SourceError, match=f"{broken}: cannot be opened"):
            files[broken].read()
    assert sorted(items(f"{inside}/**/*.png")) == ["b/a.png", "gone.png", "link.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a.png", "b.png"]),
        ("**/*.png", ["a.png", "b.png", "b/c.png"]),
        ("**", sorted(FILES)),
        ("b/*.png", ["c.png"]),
        ("?/c.png", ["b/c.png"]),
        ("[b]", ["b/c.png", "b/d/e.webp"]),
        ("*", sorted(FILES)),
        ("**/d/**/e.*", ["b/d/e.webp"]),
    ],
)
def test_items_of_a_glob_are_relative_to_its_fixed_part(
    tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    folder(tmp_path)
    assert items(f"{tmp_path}/{pattern}") == expected


def test_a_relative_glob_starts_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(tmp_path))
    assert items("*.png") == ["a.png", "b.png"]


def test_a_path_that_exists_is_no_glob(tmp_path: Path) -> None:
    folder(tmp_path, {"set[1]/a.png": b"1", "set1/b.png": b"2"})
    assert items(tmp_path / "set[1]") == ["a.png"]


def test_names_that_are_no_utf8_get_an_id_that_is(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    for name in (b"caf\xe9.png", b"caf\xe8.png", b"caf\\xe9.png", "日本.png".encode()):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(name)
    files = list_source(str(tmp_path))
    assert len({file.item for file in files}) == 4
    assert "日本.png" in {file.item for file in files}
    assert all(file.item.endswith(".png") for file in files)
    assert {file.read() for file in pickle.loads(pickle.dumps(files))} == {
        file.read() for file in files
    }
    json.dumps([file.item for file in files], ensure_ascii=False).encode()


def test_undecodable_names_in_a_tar_get_an_id_too(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    make_tar(path, {"caf\udce9.png": b"1"})
    file = only(path)
    assert file.item.encode().startswith(b"caf\\xe9~")
    assert file.read() == b"1"


ESCAPES = ["../a.png", "/etc/a.png", "b/../../a.png", "C:/a.png", "..\\a.png", "b\\..\\..\\a.png"]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_members_that_point_outside_are_listed_and_refuse_to_be_read(
    tmp_path: Path, name: str, make: object
) -> None:
    assert callable(make)
    path = tmp_path / ("a.zip" if make is make_zip else "a.tar")
    make(path, {name: b"evil", "etc/a.png": b"good", "a.png": b"good"})
    files = {file.item: file for file in list_source(str(path))}
    assert len(files) == 3
    (item,) = set(files) - {"a.png", "etc/a.png"}
    assert item.startswith("_refused/")
    with pytest.raises(SourceError, match="expected a path inside it"):
        files[item].read()
    assert files["a.png"].read() == files["etc/a.png"].read() == b"good"


@examples(150)
@given(names=st.lists(st.text("ab.:/\\~é\n", min_size=1, max_size=12), min_size=1, max_size=4))
def test_no_member_name_makes_an_id_that_leaves_its_folder(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "names.tar"
    make_tar(path, {**dict.fromkeys(names, b"\xff\xd8\xff"), "fixed.png": b"2"})
    for item in items(path):
        assert not re.match(r"[/\\]|[A-Za-z]:", item)
        assert not {"", ".", ".."} & set(item.split("/"))
        assert ".." not in item.split("\\")


def test_dots_and_double_slashes_in_member_names_mean_nothing(tmp_path: Path) -> None:
    assert contents(make_tar(tmp_path / "a.tar", {"./b//c.png": b"1"})) == {"b/c.png": b"1"}


def test_of_two_members_with_one_name_the_last_wins(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for data in (b"old", b"newer"):
            info = tarfile.TarInfo("a.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert contents(tmp_path / "a.tar") == {"a.png": b"newer"}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as twice:
        twice.writestr("a.png", b"old")
        with pytest.warns(UserWarning, match="Duplicate"):
            twice.writestr("a.png", b"newer")
    assert contents(tmp_path / "a.zip") == {"a.png": b"newer"}


def test_links_in_a_tar_are_resolved_or_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"1"))
        for name, kind, target in [
            ("hard.png", tarfile.LNKTYPE, "a.png"),
            ("lost.png", tarfile.LNKTYPE, "/etc/passwd"),
            ("soft.png", tarfile.SYMTYPE, "/etc/passwd"),
        ]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    files = {file.item: file for file in list_source(str(tmp_path / "a.tar"))}
    assert files["hard.png"].read() == b"1"
    for refused in ("lost.png", "soft.png"):
        with pytest.raises(SourceError, match="link"):
            files[refused].read()


def test_a_member_above_the_bound_is_not_unpacked(tmp_path: Path) -> None:
    for path in (make_zip(tmp_path / "a.zip"), make_tar(tmp_path / "a.tar.gz")):
        file = next(file for file in list_source(str(path)) if file.item == "b/c.png")
        assert file.read(max_member_bytes=6) == b"second"
        with pytest.raises(
            SourceError, match="declares 6 bytes inside its archive, expected at most 5"
        ):
            file.read(max_member_bytes=5)


def test_a_zip_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": b"0" * 10_000_000})
    data = path.read_bytes().replace(struct.pack("<I", 10_000_000), struct.pack("<I", 10))
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.png"):
        only(path).read()


def test_an_encrypted_member_is_refused_by_that_name(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": b"secret"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(SourceError, match="encrypted"):
        only(path).read()


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": b"abcdefgh"}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcdefgX"))
    with pytest.raises(SourceError, match="checksum"):
        only(path).read()


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_cut_archive_is_refused_whole(tmp_path: Path, ending: str) -> None:
    files = {f"{number}.png": os.urandom(3000) for number in range(8)}
    path = (make_zip if ending == ".zip" else make_tar)(tmp_path / f"a{ending}", files)
    data = path.read_bytes()
    for size in (0, 1, 700, len(data) // 2):
        path.write_bytes(data[:size])
        with pytest.raises(SourceError):
            list_source(str(path))


def test_a_damaged_header_inside_a_tar_is_not_its_end(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"a.png": b"1" * 512, "b.png": b"2" * 512, "c.png": b"3"})
    data = bytearray(path.read_bytes())
    data[1024 + 100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(SourceError, match="at byte 1024"):
        list_source(str(path))


@pytest.mark.parametrize("unpacked", [b"", b"no tar at all" * 100])
def test_compressed_data_that_is_no_tar_is_refused(tmp_path: Path, unpacked: bytes) -> None:
    for pack, ending in ((gzip.compress, "gz"), (bz2.compress, "bz2"), (lzma.compress, "xz")):
        path = tmp_path / f"a.tar.{ending}"
        path.write_bytes(pack(unpacked))
        with pytest.raises(SourceError):
            list_source(str(path))


def test_an_archive_that_changed_after_listing_is_not_read(tmp_path: Path) -> None:
    for path in (make_zip(tmp_path / "a.zip"), make_tar(tmp_path / "a.tar.gz")):
        file = list_source(str(path))[0]
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(SourceError, match="changed since it was listed"):
            file.read()


def test_a_file_that_vanished_is_said_so(tmp_path: Path) -> None:
    path = folder(tmp_path) / "a.png"
    file = only(path)
    path.unlink()
    with pytest.raises(SourceError, match="No such file"):
        file.read()


def test_threads_share_a_compressed_tar(tmp_path: Path) -> None:
    wanted = {f"{number:02}.png": os.urandom(5000) for number in range(40)}
    files = list_source(str(make_tar(tmp_path / "a.tar.gz", wanted)))
    wrong: list[str] = []

    def read(part: list[SourceFile]) -> None:
        wrong.extend(file.item for file in part if file.read() != wanted[file.item])

    threads = [threading.Thread(target=read, args=(files[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("src", "words"),
    [
        ("missing", "does not exist"),
        ("missing/*.png", "is not a folder"),
        ("*.gif", "matches no file"),
        ("https://example.org/a.png", "expected a local path, s3://, gs:// or az://"),
        ("s3:///pictures", "names no bucket"),
        ("empty", "holds no files"),
        ("a\0b", r"a.x00b"),
        ("", "is empty"),
    ],
)
def test_a_source_without_files_is_refused_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, src: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=words) as caught:
        list_source(src)
    assert "\n" not in str(caught.value)


@contextmanager
def another_account() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root may act as another account")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_this_user_may_not_read_asks_for_access() -> None:
    with tempfile.TemporaryDirectory(prefix="upres-test-") as name:
        Path(name).chmod(0o755)
        path, closed = Path(name, "a.png"), Path(name, "closed")
        path.write_bytes(b"1")
        path.chmod(0o600)
        (file,) = list_source(name)
        closed.mkdir(mode=0o700)
        denied = r"\(Permission denied\).*; grant access to it"
        with another_account():
            with pytest.raises(SourceError, match=denied):
                file.read()
            with pytest.raises(UnreadableError, match=f"closed cannot be looked into {denied}"):
                is_archive(closed)


@pytest.mark.parametrize("pattern", ["", "/**/*.png", "/b/*/*"])
def test_a_folder_that_cannot_be_listed_is_an_item_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    folder(tmp_path)
    scandir = os.scandir

    def locked(path: str) -> object:
        if path.endswith("d"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    files = {file.item.split("/")[-1]: file for file in list_source(f"{tmp_path}{pattern}")}
    with pytest.raises(SourceError, match=r"cannot be listed \(Permission denied"):
        files["d"].read()


@pytest.mark.parametrize("name", ["a.cbz", "A.CBZ", "a.zip", "a", "a.epub"])
def test_a_zip_is_known_by_its_content_or_its_name(tmp_path: Path, name: str) -> None:
    assert contents(make_zip(tmp_path / name)) == FILES


@pytest.mark.parametrize("name", ["a.cbt", "a.TAR", "a", "a.cbz"])
def test_a_tar_is_known_by_its_content_or_its_name(tmp_path: Path, name: str) -> None:
    assert contents(make_tar(tmp_path / name)) == FILES


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.cbr", b"Rar!\x1a\7\1\0", "is a RAR archive"),
        ("a.cbz", b"Rar!\x1a\7\0", "is a RAR archive"),
        ("a.cb7", b"7z\xbc\xaf\x27\x1c", "is a 7z archive"),
        ("a.tar.zst", b"\x28\xb5\x2f\xfd", "is zstd data"),
    ],
)
def test_an_archive_of_another_kind_is_refused_by_its_name(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(data + bytes(40))
    with pytest.raises(SourceError, match=f"{words}, expected .*; unpack it and give the folder"):
        list_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("a.zip", "give it as the source itself"),
        ("a.cbz", "give it as the source itself"),
        ("a.tar", "give it as the source itself"),
        ("a.rar", "unpack it"),
        ("a.7z", "unpack it"),
        ("a.iso", "unpack it"),
    ],
)
def test_an_archive_within_a_folder_fails_with_the_next_step(
    tmp_path: Path, name: str, step: str
) -> None:
    folder(tmp_path)
    (make_zip(tmp_path / name) if "z" in name else (tmp_path / name)).write_bytes(bytes(20))
    file = next(file for file in list_source(str(tmp_path)) if file.item == name)
    with pytest.raises(UnsupportedError, match=rf"{re.escape(name)}: the file is a.*{step}"):
        file.read()


def test_sidecars_and_litter_in_archives_are_counted(tmp_path: Path) -> None:
    files = {
        **FILES,
        "__MACOSX/._a.png": b"1",
        "b/._c.png": b"2",
        "ComicInfo.xml": b"<x/>",
        "b/info.txt": b"text",
        "b/cover.txt": b"\xff\xd8\xff a picture",
        "clip.mov": b"3",
        "vol2.zip": b"PK\3\4",
        ".cache/x": b"4",
    }
    for path in (
        make_zip(tmp_path / "a.zip", files),
        make_zip(tmp_path / "b.zip", files, zipfile.ZIP_BZIP2),
        make_tar(tmp_path / "a.tar", files),
        make_tar(tmp_path / "a.tar.gz", files),
    ):
        listing = list_source(str(path))
        kept = {"b/cover.txt", "vol2.zip", *FILES}
        assert {file.item for file in listing} == kept
        assert {file.item for file in listing if file.unread} == {"vol2.zip"}
        assert listing.left_out.to_json() == {
            "litter": 2,
            "hidden": 1,
            "sidecars": 2,
            "not_pictures": 1,
            "of_upres": 0,
            "repeated_folders": 0,
            "special": 0,
        }
        assert next(f for f in listing if f.item == "b/cover.txt").read() == files["b/cover.txt"]


def test_a_file_that_is_named_as_the_source_is_never_left_out(tmp_path: Path) -> None:
    for name, data in (("a.txt", b"words"), ("Thumbs.db", b"1\0"), (".hidden.png", b"2")):
        (tmp_path / name).write_bytes(data)
        assert items(tmp_path / name) == [name]
    with pytest.raises(UnsupportedError, match=r"a\.txt: the file is text, expected JPEG"):
        only(tmp_path / "a.txt").read()


def test_ids_in_a_tar_do_not_depend_on_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tar(tmp_path / "a.tar", {"é.png": b"1"})
    monkeypatch.setattr(tarfile, "ENCODING", "latin-1")
    assert items(path) == ["é.png"]


def test_a_damaged_sidecar_does_not_take_its_zip_with_it(tmp_path: Path) -> None:
    files = {"a.png": b"1", "a.xmp": b"<x/>" * 50, "strange.xyz": b"words" * 50}
    path = make_zip(tmp_path / "a.zip", files)
    data = bytearray(path.read_bytes())
    for name in (b"a.xmp", b"strange.xyz"):
        data[data.index(name) - 30] ^= 1  # Its local header.
    path.write_bytes(bytes(data))
    listing = list_source(str(path))
    assert [file.item for file in listing] == ["a.png", "strange.xyz"]
    assert listing[0].read() == b"1"
    with pytest.raises(SourceError, match=r"strange\.xyz: .*the archive is damaged"):
        listing[1].read()
