"""Large members of archives: read piece by piece to the disk, and the same bytes as small ones."""

from __future__ import annotations

import mmap
import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.sources.listing import list_source
from pipeline.sources.zip_methods import decompressed
from pipeline.storage.spool import spooling_in
from tests.pipeline.sources.test_listing import make_tar, make_zip

if TYPE_CHECKING:
    from pathlib import Path

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
ROUGH = np.random.default_rng(0).integers(0, 256, 70_000, dtype=np.uint8).tobytes()
CONTENTS = {"empty": b"", "rough": ROUGH, "even": bytes(300_000), "mixed": ROUGH[:999] + bytes(99)}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("sources.zip_methods._PIECE_BYTES", "storage.spool._PART_BYTES"):
        monkeypatch.setattr(f"pipeline.{size}", 1000)


def packed(data: bytes, method: int, folder: Path) -> bytes:
    """Return what zipfile stores of a member."""
    path = make_zip(folder / f"{method}.zip", {"a": data}, method)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("a")
    start = info.header_offset + 30 + len("a")
    return path.read_bytes()[start : start + info.compress_size]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CONTENTS)
def test_pieces_make_up_the_member_or_its_beginning(name: str, method: int, tmp_path: Path) -> None:
    data = CONTENTS[name]
    stored = packed(data, method, tmp_path)
    for most in {0, 1, 999, 1000, 1001, max(0, len(data) - 1), len(data), len(data) + 1}:
        assert decompressed(stored, method, most) == data[:most], most


def test_a_bomb_is_unpacked_no_further_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    unpacker = zlib.decompressobj

    class Counting:
        def __init__(self, bits: int) -> None:
            self._of = unpacker(bits)
            self.unconsumed_tail = b""

        def decompress(self, data: bytes, most: int) -> bytes:
            piece = self._of.decompress(data, most)
            self.unconsumed_tail = self._of.unconsumed_tail
            made.append(len(piece))
            return piece

    monkeypatch.setattr("pipeline.sources.zip_methods.zlib.decompressobj", Counting)
    bomb = zlib.compress(bytes(50_000_000))[2:-4]
    assert decompressed(bomb, zipfile.ZIP_DEFLATED, 5001) == bytes(5001)
    assert sum(made) == 6000


@pytest.mark.parametrize("archive", ["a.zip", "b.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_large_members_are_on_the_disk_and_the_bytes_that_were_packed(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{name}.png": b"\x89PNG" + data for name, data in CONTENTS.items()}
    files["other.webp"] = ROUGH
    if archive.endswith("zip"):
        make_zip(tmp_path / archive, files, METHODS["ab".index(archive[0])])
    else:
        make_tar(tmp_path / archive, files)
    monkeypatch.setattr("pipeline.storage.spool.LARGE_BYTES", 50_000)
    found = list(list_source(str(tmp_path / archive)))
    assert len(found) == len(files)
    for file in found:
        with spooling_in(tmp_path):
            data = file.read()
            spooled = len(data) >= 50_000 and file.item.endswith(".png")
            assert isinstance(data, mmap.mmap) is spooled, file.item
            assert data[:] == files[file.item]


def test_a_large_member_that_is_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": b"\x89PNG" + ROUGH})
    damaged = bytearray(path.read_bytes())
    damaged[40_000] ^= 255
    path.write_bytes(damaged)
    (file,) = list_source(str(path))
    monkeypatch.setattr("pipeline.storage.spool.LARGE_BYTES", 0)
    with spooling_in(tmp_path), pytest.raises(SourceError, match="the checksum differs"):
        file.read()
