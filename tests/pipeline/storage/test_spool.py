"""Large arrays: on the disk within a block, as good as any other, and gone behind it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.errors import DiskError
from pipeline.pictures.files import decode_picture
from pipeline.sources.listing import list_source
from pipeline.storage.large_arrays import changed, equal, is_large, large_array
from pipeline.storage.spool import large_bytes, spooling_in

if TYPE_CHECKING:
    from tests.conftest import SavePicture, TakePhoto

SHAPE = (160, 1 << 20)


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def mapped_in(folder: Path) -> list[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if f"{folder}/" in line]


def test_a_large_array_keeps_its_values_and_leaves_memory(tmp_path: Path) -> None:
    with spooling_in(tmp_path):
        before = resident_bytes()
        array = large_array(SHAPE, np.uint8)
        array[:] = np.arange(SHAPE[0], dtype=np.uint8)[:, None]
        end = time.monotonic() + 120
        while resident_bytes() > before + 20e6 and time.monotonic() < end:
            time.sleep(0.01)
        assert resident_bytes() < before + 20e6
        assert all((array[row, ::4096] == row).all() for row in range(SHAPE[0]))
        assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_large_array_is_gone_with_the_array(tmp_path: Path) -> None:
    with spooling_in(tmp_path):
        arrays = [large_array(SHAPE, np.uint8) for _ in range(3)]
        assert len(mapped_in(tmp_path)) == 3
        part = arrays.pop()[5:]
        arrays.clear()
        end = time.monotonic() + 60
        while len(mapped_in(tmp_path)) > 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(mapped_in(tmp_path)) == 1
        part[:] = 7
        assert (part == 7).all()


def test_other_arrays_are_in_memory(tmp_path: Path) -> None:
    assert not is_large(SHAPE, np.uint8)
    with spooling_in(tmp_path):
        assert is_large(SHAPE, np.uint8)
        assert not is_large((10, 10), np.uint8)
        assert large_array((10, 10), np.uint8).base is None


def test_a_disk_without_room_is_an_error_in_one_line_before_anything_is_decoded(
    tmp_path: Path,
) -> None:
    with spooling_in(tmp_path), pytest.raises(DiskError) as caught:
        large_array((1 << 20, 1 << 35), np.uint8)
    words = str(caught.value)
    assert f"{tmp_path} has no room for the 36028797019 MB of a large picture" in words
    assert "free some space" in words
    assert "\n" not in words


def test_a_change_by_bands_is_the_change_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.spool.LARGE_BYTES", 0)
    monkeypatch.setattr("pipeline.storage.large_arrays._BAND_BYTES", 100)
    pixels = np.random.default_rng(0).random((3, 41, 17)).astype(np.float32)
    with spooling_in(tmp_path):
        assert np.array_equal(changed(pixels, lambda band: band * 2), pixels * 2)
        more = changed(pixels, lambda band: np.concatenate([band, band]), channels=6)
        assert np.array_equal(more, np.concatenate([pixels, pixels]))


def test_arrays_are_compared_to_their_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.large_arrays._BAND_BYTES", 100)
    some = np.zeros((41, 17), np.uint8)
    other = some.copy()
    assert equal(some, other)
    other[-1, -1] = 1
    assert not equal(some, other)
    assert not equal(some, some[:-1])


@pytest.mark.parametrize("announced", [5, 8, 11])
def test_large_bytes_are_the_parts_as_far_as_they_were_announced(
    announced: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.spool.LARGE_BYTES", 0)
    parts = [b"abc", memoryview(b"defgh")]
    with spooling_in(tmp_path):
        joined = large_bytes(parts, announced)
        assert joined[:] == b"abcdefgh"[:announced]
        assert len(joined) == min(8, announced)
        assert hashlib.sha256(joined).digest() == hashlib.sha256(joined[:]).digest()
    assert large_bytes(parts, announced) == b"abcdefgh"


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.webp"])
def test_a_large_file_of_a_source_has_the_bytes_that_it_has_otherwise(
    name: str,
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = save(tmp_path / "in" / name, photo(50, 40))
    (file,) = list_source(str(path))
    assert type(file.read()) is bytes
    monkeypatch.setattr("pipeline.storage.spool.LARGE_BYTES", 0)
    with spooling_in(tmp_path):
        data = file.read()
        path.write_bytes(b"another file, of another size")
        assert isinstance(data, bytes) is (name == "a.webp")
        assert np.array_equal(decode_picture(data, name=name).pixels.shape, (3, 50, 40))
