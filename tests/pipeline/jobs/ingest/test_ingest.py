"""Ingest: pictures come in whole or are rejected with a reason, and nothing is written twice."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.compute.workers import Workers
from pipeline.errors import ArchiveError, SourceError
from pipeline.geometry import Rect, Span
from pipeline.jobs.ingest.adopt import adopt_archive
from pipeline.jobs.ingest.stage import run_ingest
from pipeline.pictures.files import read_picture
from pipeline.pictures.metadata.metadata import from_json
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import INGESTED, REJECTED, VANISHED, ItemRow, Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from tests.conftest import SavePicture, TakePhoto


class Ingest(Protocol):
    def __call__(self) -> dict[str, ItemRow]: ...


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def archive_dir(tmp_path: Path) -> Path:
    return tmp_path / "lr.zarr"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open_file(tmp_path / "ledger.sqlite", job="test")) as opened:
        yield opened


@pytest.fixture
def ingest(source: Path, archive_dir: Path, ledger: Ledger, client: Client) -> Ingest:
    def run() -> dict[str, ItemRow]:
        run_ingest(str(source), archive_dir=archive_dir, ledger=ledger, workers=Workers.of(client))
        return {row.item: row for row in ledger.items()}

    return run


def pixels_of(archive_dir: Path, item: str) -> NDArray[Any]:
    image = Archive.open(archive_dir).image(item)
    return image.read(Rect(Span(0, image.size[0]), Span(0, image.size[1])))


def written_at(archive_dir: Path) -> dict[Path, int]:
    """Return when each file of the archive was written."""
    return {p: p.stat().st_mtime_ns for p in archive_dir.rglob("*") if p.is_file()}


def shards_written_at(archive_dir: Path) -> dict[Path, int]:
    return {p: at for p, at in written_at(archive_dir).items() if p.name != "zarr.json"}


def test_every_picture_of_a_tree_of_any_depth_becomes_an_item(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    names = ["top.png", "a/one.png", "a/b/c/d/e/deep.tif", "with space/ä.png"]
    kept = {name: photo(20 + n, 30) for n, name in enumerate(names)}
    for name, pixels in kept.items():
        save(source / name, pixels)
    rows = ingest()
    assert set(rows) == set(names)
    assert list(Archive.open(archive_dir).items()) == sorted(names)
    for name, pixels in kept.items():
        assert rows[name].state == INGESTED
        assert (rows[name].channels, rows[name].height, rows[name].width) == pixels.shape
        np.testing.assert_array_equal(pixels_of(archive_dir, name), pixels)


@pytest.mark.parametrize(
    ("channels", "dtype", "suffix"),
    [
        (1, "uint8", "png"),
        (2, "uint8", "png"),
        (4, "uint8", "png"),
        (3, "uint16", "png"),
        (4, "uint16", "tif"),
        (1, "float32", "tif"),
    ],
)
def test_channels_and_depth_stay_as_found(
    channels: int,
    dtype: str,
    suffix: str,
    source: Path,
    archive_dir: Path,
    ingest: Ingest,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    pixels = photo(21, 33, channels, dtype)
    save(source / f"x.{suffix}", pixels)
    row = ingest()[f"x.{suffix}"]
    assert (row.state, row.channels, row.dtype) == (INGESTED, channels, dtype)
    found = pixels_of(archive_dir, f"x.{suffix}")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels)


def test_a_dark_16_bit_picture_stays_16_bit(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    pixels = photo(20, 20).astype(np.uint16)  # no value above 255
    save(source / "dark.png", pixels)
    assert ingest()["dark.png"].dtype == "uint16"
    np.testing.assert_array_equal(pixels_of(archive_dir, "dark.png"), pixels)


def test_what_is_no_picture_is_rejected_with_its_reason_and_the_rest_goes_on(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    whole = save(source / "whole.png", photo(40, 40))
    data = whole.read_bytes()
    (source / "truncated.png").write_bytes(data[: len(data) // 2])
    (source / "empty.png").write_bytes(b"")
    (source / "notes.txt").write_text("words about pictures")
    (source / "notes.png").write_text("words in disguise")
    save(source / "z.png", photo(30, 30))
    rows = ingest()
    states = {item: row.state for item, row in rows.items()}
    assert states == {
        "whole.png": INGESTED,
        "z.png": INGESTED,
        "truncated.png": REJECTED,
        "empty.png": REJECTED,
        "notes.png": REJECTED,
    }
    for item, row in rows.items():
        if row.state == REJECTED:
            assert row.error == "PictureError"
            assert item in row.message
            assert "\n" not in row.message
    assert "text" in rows["notes.png"].message
    assert list(Archive.open(archive_dir).items()) == ["whole.png", "z.png"]


def test_a_picture_under_a_wrong_extension_is_read_as_what_it_is(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    pixels = photo(40, 40)
    (source / "a.jpg").write_bytes(save(source / "a.png", pixels).read_bytes())
    assert ingest()["a.jpg"].state == INGESTED
    found = Archive.open(archive_dir).provenance("a.jpg")
    assert found is not None
    assert found["format"] == "png"
    np.testing.assert_array_equal(pixels_of(archive_dir, "a.jpg"), pixels)


def test_a_second_run_on_unchanged_files_writes_nothing(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    save(source / "a.png", photo(40, 40))
    save(source / "b/c.png", photo(30, 30))
    first, before = ingest(), written_at(archive_dir)
    assert ingest() == first
    assert written_at(archive_dir) == before


def test_a_file_that_was_only_touched_is_not_written_again(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    path = save(source / "a.png", photo(40, 40))
    ingest()
    before = shards_written_at(archive_dir)
    os.utime(path, ns=(1, 1))
    ingest()
    assert shards_written_at(archive_dir) == before


def test_a_changed_file_replaces_its_item_and_no_other(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    save(source / "a.png", photo(40, 40))
    save(source / "b.png", photo(40, 40))
    first, before = ingest(), shards_written_at(archive_dir)
    changed = photo(24, 52, at=200)
    save(source / "a.png", changed)
    second, after = ingest(), shards_written_at(archive_dir)
    assert second["a.png"].sha256 != first["a.png"].sha256
    assert (second["a.png"].height, second["a.png"].width) == (24, 52)
    assert second["b.png"] == first["b.png"]
    np.testing.assert_array_equal(pixels_of(archive_dir, "a.png"), changed)
    rewritten = {p for p in after if after[p] != before.get(p)}
    assert rewritten
    assert all("a.png" in p.parts for p in rewritten)


def test_a_file_that_breaks_later_is_rejected_and_comes_back_when_mended(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    pixels = photo(40, 40)
    path = save(source / "a.png", pixels)
    data = path.read_bytes()
    ingest()
    path.write_bytes(data[:100])
    assert ingest()["a.png"].state == REJECTED
    path.write_bytes(data)
    assert ingest()["a.png"].state == INGESTED
    np.testing.assert_array_equal(pixels_of(archive_dir, "a.png"), pixels)


def test_a_vanished_file_is_reported_and_its_pixels_stay(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    pixels = photo(40, 40)
    path = save(source / "a.png", pixels)
    save(source / "b.png", photo(30, 30))
    ingest()
    path.unlink()
    rows = ingest()
    assert {item: row.state for item, row in rows.items()} == {
        "a.png": VANISHED,
        "b.png": INGESTED,
    }
    assert "gone" in rows["a.png"].message
    np.testing.assert_array_equal(pixels_of(archive_dir, "a.png"), pixels)


def test_what_vanished_is_counted_once_also_what_had_been_rejected(
    source: Path, archive_dir: Path, ledger: Ledger, client: Client, photo: TakePhoto,
    save: SavePicture,
) -> None:  # fmt: skip
    def vanished() -> tuple[int, int]:
        done = run_ingest(
            str(source), archive_dir=archive_dir, ledger=ledger, workers=Workers.of(client)
        )
        return done.vanished, sum(row.state == VANISHED for row in ledger.items())

    paths = [save(source / f"{n}.png", photo(40, 40, at=n)) for n in range(3)]
    paths[0].write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert vanished() == (0, 0)
    paths[0].unlink()
    assert vanished() == (1, 1)
    paths[1].unlink()
    assert vanished() == (1, 2)
    assert vanished() == (0, 2)


def test_a_vanished_file_that_comes_back_is_an_item_again(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    path = save(source / "a.png", photo(40, 40))
    save(source / "b.png", photo(30, 30))
    first, data = ingest(), path.read_bytes()
    path.unlink()
    ingest()
    path.write_bytes(data)
    assert ingest()["a.png"] == first["a.png"]


def test_an_item_that_the_archive_lost_is_written_again(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    pixels = photo(40, 40)
    save(source / "a.png", pixels)
    ingest()
    Archive.open(archive_dir).delete("a.png")
    assert ingest()["a.png"].state == INGESTED
    np.testing.assert_array_equal(pixels_of(archive_dir, "a.png"), pixels)


def test_provenance_tells_the_files_path_hash_size_and_time(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    path = save(source / "a.png", photo(40, 40))
    ingest()
    found = Archive.open(archive_dir).provenance("a.png")
    assert found is not None
    data = path.read_bytes()
    assert found["source"] == str(path)
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["size_bytes"] == len(data)
    assert found["mtime_ns"] == path.stat().st_mtime_ns


def test_metadata_comes_back_from_the_archive_as_the_file_had_it(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.fromarray(np.moveaxis(photo(40, 40), 0, 2))
    path = source / "a.jpg"
    picture.save(path, exif=exif, icc_profile=icc, dpi=(300, 200), xmp=b"<x:xmpmeta/>")
    ingest()
    found = Archive.open(archive_dir).provenance("a.jpg")
    assert found is not None
    kept = from_json(found)
    assert kept == read_picture(path.read_bytes(), name="a.jpg").metadata
    assert kept.icc == icc
    assert kept.exif
    assert kept.xmp
    assert kept.dpi == (300, 200)


def test_a_missing_source_is_an_error_that_makes_no_archive(
    source: Path, archive_dir: Path, ingest: Ingest
) -> None:
    source.rmdir()
    with pytest.raises(SourceError):
        ingest()
    assert not archive_dir.exists()


def test_a_folder_that_holds_other_things_is_no_archive_to_write_to(
    source: Path, archive_dir: Path, ingest: Ingest, photo: TakePhoto, save: SavePicture
) -> None:
    save(source / "a.png", photo(40, 40))
    archive_dir.mkdir()
    (archive_dir / "letter.txt").write_text("keep me")
    with pytest.raises(ArchiveError, match="not an archive"):
        ingest()
    assert [p.name for p in archive_dir.iterdir()] == ["letter.txt"]


def test_an_adopted_archive_gives_the_rows_that_ingesting_gave(
    source: Path,
    archive_dir: Path,
    tmp_path: Path,
    ingest: Ingest,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    save(source / "a.png", photo(40, 40))
    save(source / "b/c.tif", photo(30, 30, 1, "uint16"))
    ingested = ingest()
    with closing(Ledger.open_file(tmp_path / "other.sqlite", job="other")) as other:
        adopt_archive(Archive.open(archive_dir), other)
        assert {row.item: row for row in other.items()} == ingested
        Archive.open(archive_dir).delete("a.png")
        adopt_archive(Archive.open(archive_dir), other)
        assert [row.state for row in other.items()] == [VANISHED, INGESTED]
