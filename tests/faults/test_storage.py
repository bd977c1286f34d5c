"""Faults in storage: damage is told and never passed over, and openers at once do not collide."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.storage.archive
import pipeline.storage.item_writing
from pipeline.errors import ArchiveError, UnreadableError
from pipeline.geometry import Rect, Span
from pipeline.jobs.ingest.adopt import adopt_archive
from pipeline.storage.archive import Archive
from pipeline.storage.image import Layout, StoredImage
from pipeline.storage.ledger import FILE_NAME, INGESTED, REJECTED, VANISHED, ItemRow, Ledger
from tests.examples import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

WHOLE = Rect(Span(0, 6), Span(0, 6))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.open_or_create(tmp_path / "a.zarr")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open_file(tmp_path / FILE_NAME, job="j")) as opened:
        yield opened


def put(archive: Archive, *items: str) -> None:
    for item in items:
        archive.create(
            item,
            shape=(1, 6, 6),
            dtype="uint8",
            layout=Layout.of(height=6, width=6, shard_px=16),
            provenance={"source": item, "sha256": "1" * 64, "size_bytes": 9},
            pixels=np.full((1, 6, 6), 7, np.uint8),
        )


def strip(path: Path) -> None:
    """Take the provenance from an item, as if its writer had died before writing it."""
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, "attributes": {}}))


# --- archives ------------------------------------------------------------------------------------

DAMAGES: dict[str, Any] = {
    "zarr.json cannot be read": lambda item: (item / "zarr.json").write_text("{"),
    "zarr.json is missing": lambda item: (item / "zarr.json").unlink(),
    "zarr.json holds list": lambda item: (item / "zarr.json").write_text("[]"),
    "cannot be read": lambda item: (item / "zarr.json").write_bytes(b"\xff\xfe"),
    "expected a group": lambda item: (item / "zarr.json").write_text('{"node_type": "x"}'),
    "incomplete": lambda item: strip(item / "zarr.json"),
    "0/zarr.json is missing": lambda item: (item / "0/zarr.json").unlink(),
    "0/zarr.json cannot be read": lambda item: (item / "0/zarr.json").write_text("{"),
    "describes no array": lambda item: (item / "0/zarr.json").write_text("{}"),
    "is missing": lambda item: shutil.rmtree(item / "0"),
    "zarr.json is missing ": lambda item: [f.unlink() for f in item.rglob("zarr.json")],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.png", "sub/deep/a.png", "0", "b/0", "c/0/0"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_item_is_told_and_can_be_removed_or_made_anew(
    archive: Archive, name: str, damage: str
) -> None:
    put(archive, name, "whole.png")
    DAMAGES[damage](archive.path / name)
    again = Archive.open(archive.path)
    assert list(again.items()) == ["whole.png"]
    ((item, reason),) = again.damaged()
    assert item == name
    assert damage.strip() in reason
    assert reason.endswith("ingest it again, or delete its folder")
    with pytest.raises(ArchiveError):
        again.image(name)
    assert again.provenance(name) is None
    put(again, name)
    assert list(again.items()) == sorted([name, "whole.png"])
    assert list(again.damaged()) == []
    DAMAGES[damage](archive.path / name)
    again.delete(name)
    assert not (archive.path / name).exists()
    assert list(again.items()) == ["whole.png"]


@pytest.mark.slow
@examples(60)
@given(st.data())
def test_no_damage_to_metadata_is_anything_but_an_archive_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive.open_or_create(Path(folder))
        put(archive, "a")
        file = Path(folder, "a", data.draw(st.sampled_from(["zarr.json", "0/zarr.json"])))
        document = json.loads(file.read_text())
        at: Any = document
        while True:
            key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
                break
            at = at[key]
        at[key] = data.draw(json_values)
        file.write_text(json.dumps(document))
        found = dict(archive.survey())
        held = archive.provenance("a")
        if "a" in found:
            assert isinstance(found["a"], StoredImage) == (held is not None)
        assert list(archive.items()) == (["a"] if held is not None else [])
        archive.delete("a")
        assert archive.provenance("a") is None


@pytest.mark.parametrize("damage", [None, "{", "[]"])
def test_a_folder_of_items_without_its_own_metadata_hides_none_of_them(
    archive: Archive, damage: str | None
) -> None:
    put(archive, "sub/a", "sub/deep/b", "sub/0")
    for folder in ("sub", "sub/deep"):
        if damage is None:
            (archive.path / folder / "zarr.json").unlink()
        else:
            (archive.path / folder / "zarr.json").write_text(damage)
    again = Archive.open(archive.path)
    assert list(again.items()) == ["sub/0", "sub/a", "sub/deep/b"]
    assert list(again.damaged()) == []
    assert (again.image("sub/deep/b").read(WHOLE) == 7).all()
    with pytest.raises(ArchiveError, match="is inside 'sub'"):
        again.delete("sub")
    put(again, "sub/deep/c")
    assert list(again.items()) == ["sub/0", "sub/a", "sub/deep/b", "sub/deep/c"]
    (archive.path / "sub/zarr.json").write_text('{"node_type": "array"}')
    with pytest.raises(ArchiveError, match="inside 'sub', which is 'array'"):
        put(again, "sub/d")


def test_a_damaged_item_does_not_hide_an_item_that_was_put_inside_it(archive: Archive) -> None:
    put(archive, "a")
    (archive.path / "a/zarr.json").write_text("{")
    put(archive, "a/b")
    assert list(archive.items()) == ["a/b"]
    assert [item for item, _ in archive.damaged()] == ["a"]
    with pytest.raises(ArchiveError, match="'a/b' is inside 'a'"):
        archive.delete("a")


def test_what_is_no_item_is_not_told_as_a_damaged_one(archive: Archive) -> None:
    put(archive, "gone/a", "b")
    archive.delete("gone/a")
    (archive.path / "empty").mkdir()
    (archive.path / "notes").mkdir()
    (archive.path / "notes/read.me").write_text("mine")
    assert list(archive.damaged()) == []
    assert list(archive.items()) == ["b"]


def test_a_folder_under_a_name_that_upres_never_gives_is_told(archive: Archive) -> None:
    put(archive, "A")
    shutil.copytree(archive.path / "A", archive.path / "%41")
    assert list(archive.items()) == ["A"]
    ((item, reason),) = archive.damaged()
    assert item == "%41"
    assert "expected '%2541'" in reason


def test_damaged_items_of_an_adopted_archive_are_rejected_and_the_rest_goes_on(
    archive: Archive, ledger: Ledger
) -> None:
    put(archive, "a", "b", "sub/c", "sub/d", "e")
    adopt_archive(Archive.open(archive.path), ledger)
    (archive.path / "a/zarr.json").unlink()
    strip(archive.path / "b/zarr.json")
    (archive.path / "sub/zarr.json").unlink()
    (archive.path / "sub/c/0/zarr.json").unlink()
    archive.delete("e")
    adopt_archive(Archive.open(archive.path), ledger)
    rows = {row.item: row for row in ledger.items()}
    assert {item: row.state for item, row in rows.items()} == {
        "a": REJECTED,
        "b": REJECTED,
        "sub/c": REJECTED,
        "sub/d": INGESTED,
        "e": VANISHED,
    }
    assert {row.error for row in rows.values() if row.state == REJECTED} == {"ArchiveError"}
    assert "a/zarr.json is missing" in rows["a"].message
    assert "incomplete" in rows["b"].message
    ledger.close()


def test_the_metadata_of_a_new_item_is_on_the_disk_before_any_pixel_is(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[str, bytes] = {}

    def record(path: Path) -> None:
        name = str(path.relative_to(archive.path))
        synced[name] = path.read_bytes() if path.is_file() else b""

    monkeypatch.setattr(pipeline.storage.item_writing, "fsync", record)
    archive.create(
        "b/a",
        shape=(1, 6, 6),
        dtype="uint8",
        layout=Layout.of(height=6, width=6, shard_px=16),
        provenance={"sha256": "1"},
    )
    assert synced.keys() == {"b/a/0/zarr.json", "b/a/0", "b/a/zarr.json", "b/a", "b", "."}
    for name in ("b/a/0/zarr.json", "b/a/zarr.json"):
        assert synced[name] == (archive.path / name).read_bytes()


def test_a_read_error_is_told_and_makes_no_item_anew(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.create(
        "a",
        shape=(1, 6, 6),
        dtype="uint8",
        layout=Layout.of(height=6, width=6, shard_px=16),
        provenance={"sha256": "1"},
    )
    original = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.parent.name == "a":
            raise OSError(errno.EIO, "Input/output error")
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(UnreadableError, match="Input/output error; check the disk"):
            archive.provenance("a")
    assert archive.provenance("a") == {"sha256": "1"}
    assert archive.provenance("b") is None


# --- ledgers -------------------------------------------------------------------------------------

OPENER = """
import sys, time
from pathlib import Path
from pipeline.storage.ledger import Ledger
print("ready", flush=True)
sys.stdin.readline()
for n in range(20):
    Ledger.open_file(Path(sys.argv[1]) / f"{n}.sqlite", job="j").close()
"""


def test_processes_that_open_a_new_ledger_at_once_all_succeed(tmp_path: Path) -> None:
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("\n")
        opener.stdin.flush()
    for opener in openers:
        _, said = opener.communicate(timeout=600)
        assert (opener.returncode, said) == (0, "")


def test_threads_that_open_a_new_ledger_at_once_all_succeed(tmp_path: Path) -> None:
    failures: list[Exception] = []
    for number in range(10):
        start = threading.Barrier(6)

        def open_one(path: Path, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                Ledger.open_file(path, job="j").close()
            except Exception as error:
                failures.append(error)

        path = tmp_path / f"{number}.sqlite"
        threads = [threading.Thread(target=open_one, args=(path,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


READER = """
import sys
from pathlib import Path
from pipeline.errors import LedgerError
from pipeline.storage.ledger import Ledger
try:
    ledger = Ledger.open_file(Path(sys.argv[1]), job="j", read_only=True)
    print(*(row.item for row in ledger.items()))
    ledger.close()
except LedgerError as error:
    print("LedgerError", error)
"""


def read_where_nothing_can_be_written(file: Path) -> str:
    """Return what a reader says of a ledger whose folder cannot be written."""
    read = [sys.executable, "-c", READER, str(file)]
    if os.getuid() == 0:
        # Nothing but a file system mounted for reading stops root.
        mounts = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        read = ["unshare", "-m", "sh", "-c", mounts, str(file.parent), *read]
    file.parent.chmod(0o555)
    done = subprocess.run(read, capture_output=True, text=True, check=False)
    file.parent.chmod(0o755)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"root may not mount here: {done.stderr}")
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_ledger_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "job ?%" / FILE_NAME
    file.parent.mkdir()
    ledger = Ledger.open_file(file, job="j")
    ledger.put_items([ItemRow(item="a", state=INGESTED)])
    ledger.close()
    assert read_where_nothing_can_be_written(file) == "a"


def test_rows_that_cannot_be_read_are_not_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "job" / FILE_NAME
    copy = tmp_path / "copy" / FILE_NAME
    file.parent.mkdir()
    copy.parent.mkdir()
    ledger = Ledger.open_file(file, job="j")
    ledger.put_items([ItemRow(item="a", state=INGESTED)])
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        shutil.copy(file.with_name(name), copy.with_name(name))
    ledger.close()
    said = read_where_nothing_can_be_written(copy)
    assert said.startswith("LedgerError")
    assert "copy both files to a folder that you can write" in said
