"""Archives: what is written is read, and what is broken or foreign is never taken for pixels."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import assume, example, given
from hypothesis import strategies as st
from zarr.storage import LocalStore

from pipeline.errors import ArchiveError
from pipeline.geometry import Rect, Span, TileGrid
from pipeline.storage.archive import Archive
from pipeline.storage.archive_group import is_archive
from pipeline.storage.image import Layout, StoredImage
from pipeline.storage.item_paths import clashing, item_of, item_path
from pipeline.storage.zarr_metadata import DTYPES
from tests.examples import examples

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROVENANCE = {"source": "a.png", "sha256": "0" * 64}

hard_parts = st.sampled_from(
    ["", ".", "..", "...", "zarr.json", "@stacks", "__x", "__", "%", "%2E", "%/", "c", "0",
     "\\", "..\\..",
     "\0", "\n", "é", "e\u0301", "\u202e", "x" * 240, "x" * 241, "ÿ" * 300, "%" * 100,
     "x" * 240 + "..", "x" * 240 + "zarr.json", "x" * 240 + "__y"]
)  # fmt: skip
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
items = st.lists(hard_parts | text, min_size=1, max_size=4).map("/".join).filter(bool)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.open_or_create(tmp_path / "a.zarr")


def noise(channels: int, height: int, width: int, dtype: str = "uint8") -> NDArray[Any]:
    rng = np.random.default_rng(height * 1000 + width)
    if dtype == "float32":
        return rng.random((channels, height, width), dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max, (channels, height, width), dtype, endpoint=True)


def put(archive: Archive, item: str, pixels: NDArray[Any], *, shard_px: int = 4096) -> StoredImage:
    _, height, width = pixels.shape
    return archive.create(
        item,
        shape=(pixels.shape[0], height, width),
        dtype=str(pixels.dtype),
        layout=Layout.of(height=height, width=width, shard_px=shard_px),
        provenance=PROVENANCE,
        pixels=pixels,
    )


def tiled(
    archive: Archive, *, height: int = 40, width: int = 40, shard_px: int = 16
) -> StoredImage:
    """Make an item for tiles to come, and open it as a worker does."""
    archive.create(
        "t",
        shape=(1, height, width),
        dtype="uint8",
        layout=Layout.of(height=height, width=width, shard_px=shard_px),
        provenance=PROVENANCE,
    )
    return archive.image("t")


def whole(image: StoredImage) -> Rect:
    return Rect(Span(0, image.size[0]), Span(0, image.size[1]))


def shards(folder: Path) -> dict[str, bytes]:
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "zarr.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


# --- ids and paths -----------------------------------------------------------------------------


@examples()
@given(items)
@example("x" * 240 + "..")
@example("..\\../" + "é" * 255)
def test_an_item_is_found_again_from_its_path_and_never_leaves_the_archive(item: str) -> None:
    path = item_path(item)
    assert item_of(path) == item
    for part in path.split("/"):
        assert part not in ("", ".", "..", "zarr.json")
        assert not part.startswith("__")
        assert len(part.encode()) <= 255
        assert "\\" not in part
        assert "\0" not in part


@examples()
@given(items, items)
def test_two_items_never_share_a_path(first: str, second: str) -> None:
    assume(first != second)
    assert item_path(first) != item_path(second)


@pytest.mark.parametrize("item", ["a.png", "b/c.png", "Ärger/año nuevo.tif", "b/c/0", "x.y.zarr"])
def test_an_ordinary_item_lies_where_its_name_says(item: str) -> None:
    assert item_path(item) == item


@pytest.mark.parametrize("item", ["", "\ud800", "a/\udcff.png"])
def test_an_id_that_is_empty_or_no_text_is_refused(item: str) -> None:
    with pytest.raises(ArchiveError):
        item_path(item)


@pytest.mark.slow
@examples(30)
@given(st.sets(items, min_size=1, max_size=4))
def test_every_stored_item_is_listed_and_read_back_under_its_own_id(wanted: set[str]) -> None:
    assume(not any(a != b and b.startswith(f"{a}/") for a in wanted for b in wanted))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "in", "a.zarr")
        archive = Archive.open_or_create(root)
        for number, item in enumerate(sorted(wanted)):
            put(archive, item, np.full((1, 2, 3), number, np.uint8), shard_px=16)
        again = Archive.open(root)
        assert list(again.items()) == sorted(wanted)
        for number, item in enumerate(sorted(wanted)):
            image = again.image(item)
            assert (image.read(whole(image)) == number).all()
        assert [p.name for p in Path(folder).iterdir()] == ["in"]
        assert [p.name for p in Path(folder, "in").iterdir()] == ["a.zarr"]


def test_an_item_inside_another_item_is_refused_and_destroys_neither(archive: Archive) -> None:
    put(archive, "a", noise(1, 4, 4))
    for inner in ("a/b", "a/0"):
        with pytest.raises(ArchiveError, match="would be inside the item 'a'"):
            put(archive, inner, noise(1, 4, 4))
    put(archive, "d/e", noise(1, 4, 4))
    with pytest.raises(ArchiveError, match="'d/e' is inside 'd'"):
        put(archive, "d", noise(1, 4, 4))
    assert list(archive.items()) == ["a", "d/e"]


@examples()
@given(
    st.sets(
        st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4)
        .map("/".join)
        .filter(bool),
        max_size=8,
    )
)
def test_without_the_clashing_items_no_item_lies_inside_another(wanted: set[str]) -> None:
    found = clashing(wanted)
    kept = wanted - found.keys()
    assert not any(b.startswith(f"{a}/") for a in kept for b in kept)
    for item, other in found.items():
        assert item.startswith(f"{other}/")
        assert other in kept
    assert clashing(sorted(wanted, reverse=True)) == found


def test_of_clashing_items_the_outermost_is_the_one_that_stays() -> None:
    assert clashing(["a/b/c", "a", "ab", "a/b", "d/e", "/f", "/f/g"]) == {
        "a/b": "a",
        "a/b/c": "a",
        "/f/g": "/f",
    }


# --- pixels ------------------------------------------------------------------------------------


@examples(25)
@given(
    st.sampled_from(DTYPES),
    st.integers(1, 5),
    st.integers(1, 80),
    st.data(),
)
def test_what_is_written_is_read(
    dtype: str, channels: int, shard_px: int, data: st.DataObject
) -> None:
    # Every shard is brought to the disk: thousands of single pixels would take minutes.
    sides = st.integers(1, min(70, 9 * shard_px))
    height, width = data.draw(sides), data.draw(sides)
    pixels = noise(channels, height, width, dtype)
    with tempfile.TemporaryDirectory() as folder:
        put(Archive.open_or_create(Path(folder)), "a/b", pixels, shard_px=shard_px)
        image = Archive.open(Path(folder)).image("a/b")
        assert (image.channels, image.size, str(image.dtype)) == (channels, (height, width), dtype)
        assert image.provenance == PROVENANCE
        row = data.draw(st.integers(0, height - 1))
        col = data.draw(st.integers(0, width - 1))
        rect = Rect(Span(row, height), Span(0, col + 1))
        assert np.array_equal(image.read(rect), pixels[rect.index])


def test_creating_an_item_anew_leaves_nothing_of_the_old_one(archive: Archive) -> None:
    put(archive, "a", noise(3, 40, 40), shard_px=16)
    put(archive, "a", noise(1, 5, 6, "uint16"), shard_px=16)
    assert list(shards(archive.path)) == ["a/0/c/0/0/0"]
    assert archive.image("a").size == (5, 6)


def test_a_deleted_item_is_gone_and_its_neighbours_stay(archive: Archive) -> None:
    put(archive, "b/a", noise(1, 4, 4))
    put(archive, "b/c", noise(1, 4, 4))
    archive.delete("b/a")
    archive.delete("b/a")
    assert list(archive.items()) == ["b/c"]
    assert archive.provenance("b/a") is None
    with pytest.raises(ArchiveError, match="holds no item 'b/a'"):
        archive.image("b/a")


def test_a_folder_of_items_is_not_deleted_as_if_it_were_one(archive: Archive) -> None:
    put(archive, "b/a", noise(1, 4, 4))
    with pytest.raises(ArchiveError, match="'b/a' is inside 'b'"):
        archive.delete("b")
    assert list(archive.items()) == ["b/a"]


# --- what an interruption leaves -----------------------------------------------------------------

KILLED = """
import os, sys, zarr, numpy as np
from pathlib import Path
from pipeline.storage.archive import Archive
from pipeline.storage.image import Layout
group = zarr.Group
group.update_attributes = lambda *_: os._exit(9)
Archive.open(Path(sys.argv[1])).create(
    "dir/half", shape=(1, 9, 9), dtype="uint8", provenance={"sha256": "1"},
    layout=Layout.of(height=9, width=9, shard_px=16), pixels=np.ones((1, 9, 9), np.uint8))
"""


def test_an_item_whose_writer_died_before_its_provenance_is_not_there(archive: Archive) -> None:
    put(archive, "whole", noise(1, 4, 4))
    done = subprocess.run([sys.executable, "-c", KILLED, str(archive.path)], check=False)
    assert done.returncode == 9
    assert (archive.path / "dir/half/0/c/0/0/0").is_file()
    assert list(archive.items()) == ["whole"]
    assert archive.provenance("dir/half") is None
    with pytest.raises(ArchiveError, match="incomplete"):
        archive.image("dir/half")
    put(archive, "dir/half", noise(1, 4, 4))
    assert list(archive.items()) == ["dir/half", "whole"]


def test_an_item_whose_deletion_was_interrupted_is_made_anew(archive: Archive) -> None:
    put(archive, "a", noise(1, 40, 40), shard_px=16)
    (archive.path / "a/zarr.json").unlink()
    assert archive.provenance("a") is None
    put(archive, "a", noise(1, 4, 4))
    assert list(archive.items()) == ["a"]
    assert list(shards(archive.path)) == ["a/0/c/0/0/0"]


# --- shards ------------------------------------------------------------------------------------


def test_a_tile_writes_its_own_shard_and_no_other(archive: Archive) -> None:
    image = tiled(archive)
    grid = TileGrid(40, 40, 16, 0)
    for tile in grid:
        core = grid.core(tile)
        before = shards(archive.path)
        image.replace(core, np.full((1, *core.shape), tile, np.uint8))
        after = shards(archive.path)
        assert len(after) == len(before) + 1
        assert all(after[name] == content for name, content in before.items())
    for tile in grid:
        assert (archive.image("t").read(grid.core(tile)) == tile).all()


def test_an_all_black_tile_is_a_file_like_any_other(archive: Archive) -> None:
    image = tiled(archive)
    corner = Rect(Span(32, 40), Span(32, 40))
    image.replace(corner, np.zeros((1, 8, 8), np.uint8))
    assert list(shards(archive.path)) == ["t/0/c/0/2/2"]
    assert not image.read(corner).any()
    put(archive, "black", np.zeros((3, 700, 40), np.uint8))
    assert [name for name in shards(archive.path) if "black" in name] == ["black/0/c/0/0/0"]


def test_a_tile_that_was_never_written_is_an_error_and_not_black(archive: Archive) -> None:
    image = tiled(archive)
    image.replace(Rect(Span(0, 16), Span(0, 16)), np.ones((1, 16, 16), np.uint8))
    assert image.is_whole(Rect(Span(3, 16), Span(0, 9)))
    across = Rect(Span(0, 17), Span(0, 16))
    assert not image.is_whole(across)
    with pytest.raises(ArchiveError, match="c/0/1/0 is missing"):
        image.read(across)


def test_the_shards_that_are_there_are_told_without_reading_them(archive: Archive) -> None:
    image = tiled(archive)
    assert set(archive.shards_of("t")) == set()
    grid = TileGrid(40, 40, 16, 0)
    for tile in grid:
        image.replace(grid.core(tile), np.zeros((1, *grid.core(tile).shape), np.uint8))
    assert set(archive.shards_of("t")) == {(row, col) for row in range(3) for col in range(3)}
    level = archive.path / "t/0/c/0"
    (level / "0/1").unlink()
    (level / "1/2").write_bytes(b"")
    (level / "2/2").write_bytes(b"damaged, but there")
    (level / "0/1.5eed.partial").write_bytes(b"of a writer that was killed")
    (level / "1/2.5eed.partial").write_bytes(b"of a writer that was killed")
    (level / "note.txt").write_bytes(b"of somebody")
    present = set(archive.shards_of("t"))
    assert archive.has_first_shard("t")
    assert present == {(0, 0), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}
    for tile in grid:
        core = grid.core(tile)
        place = (core.rows.start // 16, core.cols.start // 16)
        assert image.has_shard(core) == (place in present)
    assert not image.has_shard(whole(image))


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "gone", "a folder's worth"])
def test_a_damaged_shard_is_an_error_until_it_is_replaced(archive: Archive, damage: str) -> None:
    image = tiled(archive)
    core = Rect(Span(16, 32), Span(32, 40))
    pixels = noise(1, 16, 8)
    image.replace(core, pixels)
    shard = archive.path / "t/0/c/0/1/2"
    content = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        shard.write_bytes(
            {
                "truncated": content[:-5],
                "emptied": b"",
                "flipped": flipped,
                "a folder's worth": content * 100 + b"x",
            }[damage]
        )
    with pytest.raises(ArchiveError, match=r"t rows 16-32 cols 32-40 cannot be read"):
        image.read(core)
    image.replace(core, pixels)
    assert np.array_equal(archive.image("t").read(core), pixels)


def test_a_shard_cut_off_anywhere_is_an_error_and_never_black(archive: Archive) -> None:
    put(archive, "a", noise(1, 16, 16), shard_px=16)
    image = archive.image("a")
    shard = archive.path / "a/0/c/0/0/0"
    content = shard.read_bytes()
    for length in [*range(0, len(content), 5), len(content) - 1]:
        shard.write_bytes(content[:length])
        with pytest.raises(ArchiveError, match="cannot be read"):
            image.read(whole(image))


def test_reading_outside_of_the_picture_is_an_error(archive: Archive) -> None:
    put(archive, "a", noise(1, 16, 16))
    with pytest.raises(ArchiveError, match=r"the picture is \(16, 16\)"):
        archive.image("a").read(Rect(Span(0, 17), Span(0, 16)))


def test_no_flipped_bit_of_a_shard_goes_unseen(archive: Archive) -> None:
    pixels = noise(1, 16, 16)
    put(archive, "a", pixels, shard_px=16)
    image = archive.image("a")
    shard = archive.path / "a/0/c/0/0/0"
    content = shard.read_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        shard.write_bytes(damaged)
        try:
            read = image.read(whole(image))
        except ArchiveError:
            continue
        # A few bits of a zstd header mean nothing: then the pixels must be the right ones.
        assert np.array_equal(read, pixels), f"byte {at} of {len(content)}"


@pytest.mark.parametrize(
    "rect",
    [
        Rect(Span(0, 16), Span(0, 15)),
        Rect(Span(1, 17), Span(0, 16)),
        Rect(Span(0, 32), Span(0, 16)),
        Rect(Span(32, 48), Span(0, 16)),
        Rect(Span(48, 64), Span(0, 16)),
    ],
)
def test_replacing_anything_but_one_whole_shard_is_refused_and_deletes_nothing(
    archive: Archive, rect: Rect
) -> None:
    image = tiled(archive)
    for row in (0, 16):
        core = Rect(Span(row, row + 16), Span(0, 16))
        image.replace(core, np.ones((1, 16, 16), np.uint8))
    before = shards(archive.path)
    with pytest.raises(ArchiveError, match="shard"):
        image.replace(rect, np.zeros((1, *rect.shape), np.uint8))
    assert shards(archive.path) == before


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 16, 15), np.uint8),
        np.zeros((1, 1, 1), np.uint8),
        np.zeros((3, 16, 16), np.uint8),
        np.zeros((1, 16, 16), np.float32),
    ],
)
def test_pixels_that_do_not_fit_are_refused_and_not_stretched(
    archive: Archive, pixels: NDArray[Any]
) -> None:
    image = tiled(archive)
    with pytest.raises(ArchiveError, match=r"expected uint8 \(1, 16, 16\)"):
        image.replace(Rect(Span(0, 16), Span(0, 16)), pixels)
    assert not shards(archive.path)


# --- layout ------------------------------------------------------------------------------------

tile_sides = st.integers(16, 3000) | st.sampled_from([256, 512, 500, 1000, 521])


@examples()
@given(st.integers(1, 9000), st.integers(1, 9000), tile_sides, st.integers(1, 4))
def test_shards_are_whole_chunks_and_cover_no_more_than_one_tile(
    height: int, width: int, tile_px: int, scale: int
) -> None:
    layout = Layout.of(height=height, width=width, shard_px=tile_px * scale)
    for shard, chunk in zip(layout.shard_px, layout.chunk_px, strict=True):
        assert shard >= chunk
        assert shard % chunk == 0
        assert shard <= tile_px * scale


@examples()
@given(st.integers(1, 3000), st.integers(1, 3000), tile_sides, st.integers(1, 4))
def test_every_tile_is_exactly_one_shard(height: int, width: int, tile_px: int, scale: int) -> None:
    grid = TileGrid(height, width, tile_px, 0)
    layout = Layout.of(height=height * scale, width=width * scale, shard_px=tile_px * scale)
    keys = set()
    for tile in list(grid)[:200]:
        core = grid.core(tile).scaled(scale)
        for span, side, length in zip(
            (core.rows, core.cols), layout.shard_px, (height * scale, width * scale), strict=True
        ):
            assert span.start % side == 0
            assert span.stop == min(span.start + side, length)
        keys.add((core.rows.start // layout.shard_px[0], core.cols.start // layout.shard_px[1]))
    assert len(keys) == min(200, len(grid))


@examples(25)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(16, 64), st.integers(1, 4))
def test_tiles_of_any_size_are_written_one_shard_each(
    height: int, width: int, tile_px: int, scale: int
) -> None:
    grid = TileGrid(height, width, tile_px, 0)
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive.open_or_create(Path(folder))
        image = tiled(archive, height=height * scale, width=width * scale, shard_px=tile_px * scale)
        pixels = noise(1, height * scale, width * scale)
        for count, tile in enumerate(grid, start=1):
            core = grid.core(tile).scaled(scale)
            image.replace(core, pixels[core.index])
            assert len(shards(archive.path)) == count
        assert np.array_equal(image.read(whole(image)), pixels)


@pytest.mark.parametrize("values", [(0, 5, 16), (5, 0, 16), (5, 5, 0), (5, 5, -512)])
def test_a_layout_that_cannot_be_is_refused(values: tuple[int, int, int]) -> None:
    height, width, shard_px = values
    with pytest.raises(ValueError, match="expected at least 1"):
        Layout.of(height=height, width=width, shard_px=shard_px)


# --- the format --------------------------------------------------------------------------------


def test_an_item_is_an_ome_zarr_image_of_version_05(archive: Archive) -> None:
    put(archive, "b/a", noise(3, 20, 30))
    group = json.loads((archive.path / "b/a/zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    assert group["attributes"]["ome"] == {
        "version": "0.5",
        "multiscales": [
            {
                "name": "b/a",
                "axes": [
                    {"name": "c", "type": "channel"},
                    {"name": "y", "type": "space"},
                    {"name": "x", "type": "space"},
                ],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0]}],
                    }
                ],
            }
        ],
    }
    assert group["attributes"]["upres"] == PROVENANCE
    array = json.loads((archive.path / "b/a/0/zarr.json").read_text())
    assert array["shape"] == [3, 20, 30]
    assert array["dimension_names"] == ["c", "y", "x"]
    (sharding,) = array["codecs"]
    assert sharding["name"] == "sharding_indexed"
    assert sharding["configuration"]["codecs"][-1]["configuration"]["checksum"] is True


def test_any_zarr_reader_finds_the_pixels(archive: Archive) -> None:
    pixels = noise(3, 20, 30, "uint16")
    put(archive, "b/a", pixels)
    read = zarr.open_array(LocalStore(archive.path), path="b/a/0", mode="r")
    assert np.array_equal(np.asarray(read[...]), pixels)


# --- what is no archive ------------------------------------------------------------------------


def foreign(kind: str, path: Path) -> None:
    if kind == "a v3 group":
        zarr.create_group(LocalStore(path), zarr_format=3)
    elif kind == "an OME image":
        zarr.create_group(LocalStore(path), zarr_format=3, attributes={"ome": {"version": "0.5"}})
    elif kind == "a v2 group":
        zarr.create_group(LocalStore(path), zarr_format=2)
    elif kind == "an array":
        zarr.create_array(LocalStore(path), shape=(3, 4, 5), dtype="uint8")
    elif kind == "a folder":
        path.mkdir()
        (path / "a.txt").write_text("words")
    elif kind == "a file":
        path.write_text("words")
    else:
        path.mkdir()
        (path / "zarr.json").write_text(kind)


KINDS = ["a v3 group", "an OME image", "a v2 group", "an array", "a folder", "a file", "", "{}",
         "[]", "not json", '{"zarr_format": 3}', '{"zarr_format": 3, "node_type": "group",'
         ' "attributes": 7}', "null", "\0\0"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_upres_did_not_write_is_no_archive(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    foreign(kind, path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for how in (Archive.open, Archive.open_or_create):
        with pytest.raises(ArchiveError, match=str(path)):
            how(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_nothing_is_no_archive_until_it_is_created(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.zarr"
    with pytest.raises(ArchiveError, match="upres ingest"):
        Archive.open(path)
    assert not path.exists()
    assert not is_archive(path)
    assert list(Archive.open_or_create(path).items()) == []
    assert is_archive(path)
    (tmp_path / "empty").mkdir()
    assert list(Archive.open_or_create(tmp_path / "empty").items()) == []


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"zarr_format": 3}', "null"])
@pytest.mark.parametrize("file", ["a/zarr.json", "a/0/zarr.json"])
def test_an_item_with_damaged_metadata_is_an_archive_error(
    archive: Archive, file: str, content: str
) -> None:
    put(archive, "a", noise(1, 4, 4))
    (archive.path / file).write_text(content)
    with pytest.raises(ArchiveError, match="'a'"):
        archive.image("a")


def test_an_array_of_other_axes_or_type_is_no_image(archive: Archive) -> None:
    for item, shape, dtype in (("flat", (4, 5), "uint8"), ("wide", (1, 4, 5), "int64")):
        group = zarr.open_group(LocalStore(archive.path), mode="r+").create_group(
            item, attributes={"upres": PROVENANCE}
        )
        group.create_array("0", shape=shape, dtype=dtype)
        with pytest.raises(ArchiveError, match=r"expected \(c, y, x\) of uint8"):
            archive.image(item)
