"""Images stored as the file of their picture: the same pixels, or an error."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from PIL import Image

from pipeline.errors import ArchiveError
from pipeline.geometry import Rect, Span, TileGrid
from pipeline.pictures.files import decode_picture
from pipeline.storage import file_image
from pipeline.storage.archive import Archive
from pipeline.storage.file_image import DECODED, Decoded, FileImage, PictureFile
from pipeline.storage.pixel_codecs import Jpeg

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.storage.image import StoredImage
    from tests.conftest import TakePhoto


@pytest.fixture(autouse=True)
def _nothing_is_held() -> None:
    DECODED.forget()


def jpeg(pixels: NDArray[Any], **options: Any) -> bytes:
    """Return pixels ``(c, y, x)`` as a JPEG file."""
    file = io.BytesIO()
    shown = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)
    Image.fromarray(shown).save(file, "JPEG", **{"quality": 85, **options})
    return file.getvalue()


def put(archive: Archive, data: bytes) -> StoredImage:
    """Store a file as an item."""
    file = PictureFile.of(data, decode_picture(data, name="a.jpg").pixels)
    assert file is not None
    sha256 = hashlib.sha256(data).hexdigest()
    return archive.create_of_file("a.jpg", file, provenance={"sha256": sha256})


def chunk_of(archive: Archive) -> Path:
    """Return the file that holds the pixels."""
    chunk = archive.path / "a.jpg" / "0" / "c" / "0" / "0" / "0"
    assert isinstance(chunk, type(archive.path))
    return chunk


def whole(image: StoredImage) -> NDArray[Any]:
    """Return all pixels of an image."""
    height, width = image.size
    return image.read(Rect(Span(0, height), Span(0, width)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 2},
        {"subsampling": 1},
        {"subsampling": 0, "quality": 95},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"optimize": True, "quality": 30},
    ],
    ids=str,
)
def test_every_window_is_that_of_the_file(
    channels: int, options: dict[str, Any], tmp_path: Path, photo: TakePhoto
) -> None:
    data = jpeg(photo(61, 83, channels), **options)
    pixels = decode_picture(data, name="a.jpg").pixels
    archive = Archive.open_or_create(tmp_path / "a.zarr")
    put(archive, data)
    assert chunk_of(archive).read_bytes() == data
    image = Archive.open(archive.path).image("a.jpg")
    assert isinstance(image, FileImage)
    assert (image.channels, image.size, image.dtype) == (channels, (61, 83), np.uint8)
    grid = TileGrid(61, 83, 16, 5)
    for window in map(grid.window, grid):
        found = image.read(window)
        assert np.array_equal(found, pixels[window.index])
        assert found.flags.c_contiguous
        found[:] = 0  # What a reader does to its pixels, no other sees.
    assert np.array_equal(whole(image), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_zarr_reads_it_by_the_codec_of_imagecodecs(
    channels: int, tmp_path: Path, photo: TakePhoto
) -> None:
    archive = Archive.open_or_create(tmp_path)
    image = put(archive, jpeg(photo(40, 56, channels)))
    array = zarr.open_array(tmp_path / "a.jpg" / "0", mode="r")
    assert np.array_equal(array[:], whole(image))
    metadata = json.loads((tmp_path / "a.jpg" / "0" / "zarr.json").read_text())
    assert [codec["name"] for codec in metadata["codecs"]] == ["transpose", "imagecodecs_jpeg"]
    assert metadata["codecs"][1]["configuration"] == {}


def test_a_file_of_other_pixels_is_not_taken(photo: TakePhoto) -> None:
    data = jpeg(photo(40, 56))
    pixels = decode_picture(data, name="a.jpg").pixels.copy()
    assert PictureFile.of(data, pixels) is not None
    assert PictureFile.of(data, pixels[:, ::-1]) is None
    assert PictureFile.of(data, pixels.swapaxes(1, 2)) is None
    assert PictureFile.of(data, pixels.astype(np.uint16)) is None
    pixels[2, 39, 55] ^= 1
    assert PictureFile.of(data, pixels) is None


def test_a_file_that_its_decoder_refuses_is_not_taken(
    photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(data: bytes) -> NDArray[Any]:
        raise RuntimeError("a marker that it does not know")

    data = jpeg(photo(40, 56))
    monkeypatch.setattr(file_image, "decode_jpeg", refuse)
    assert PictureFile.of(data, decode_picture(data, name="a.jpg").pixels) is None


@pytest.mark.parametrize("at", [2, 200, -200, -3])
def test_a_flipped_bit_is_an_error(at: int, tmp_path: Path, photo: TakePhoto) -> None:
    archive = Archive.open_or_create(tmp_path)
    image = put(archive, jpeg(photo(64, 64)))
    data = bytearray(chunk_of(archive).read_bytes())
    data[at] ^= 4
    chunk_of(archive).write_bytes(data)
    with pytest.raises(ArchiveError, match=r"is not what was ingested.*ingest it again"):
        image.read(Rect(Span(0, 8), Span(0, 8)))
    assert not image.is_whole(Rect(Span(0, 8), Span(0, 8)))


def test_another_picture_in_its_place_is_an_error(tmp_path: Path, photo: TakePhoto) -> None:
    archive = Archive.open_or_create(tmp_path)
    image = put(archive, jpeg(photo(64, 64)))
    chunk_of(archive).write_bytes(jpeg(photo(64, 64, at=9)))
    with pytest.raises(ArchiveError, match="is not what was ingested"):
        whole(image)


@pytest.mark.parametrize("left", [None, b"", b"\xff\xd8\xff"])
def test_a_file_that_is_cut_off_or_gone_is_an_error(
    left: bytes | None, tmp_path: Path, photo: TakePhoto
) -> None:
    archive = Archive.open_or_create(tmp_path)
    image = put(archive, jpeg(photo(64, 64)))
    chunk_of(archive).unlink()
    if left is not None:
        chunk_of(archive).write_bytes(left)
    with pytest.raises(ArchiveError, match="0/c/0/0/0 is missing" if not left else "not what was"):
        whole(image)


def test_a_decoder_of_other_pixels_is_an_error(
    tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put(Archive.open_or_create(tmp_path), jpeg(photo(64, 64)))
    decode = file_image.decode_jpeg
    monkeypatch.setattr(file_image, "decode_jpeg", lambda data, shape: decode(data, shape) ^ 1)
    with pytest.raises(ArchiveError, match="makes other pixels than the one at ingest"):
        whole(image)


def test_what_the_array_lost_of_its_attributes_is_an_error(
    tmp_path: Path, photo: TakePhoto
) -> None:
    archive = Archive.open_or_create(tmp_path)
    put(archive, jpeg(photo(64, 64)))
    metadata = tmp_path / "a.jpg" / "0" / "zarr.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "attributes": {}}))
    with pytest.raises(ArchiveError, match="KeyError"):
        whole(archive.image("a.jpg"))


def test_its_pixels_are_not_replaced(tmp_path: Path, photo: TakePhoto) -> None:
    archive = Archive.open_or_create(tmp_path)
    image = put(archive, jpeg(photo(64, 64)))
    before = chunk_of(archive).read_bytes()
    with pytest.raises(ArchiveError, match="stored as the file that it came in"):
        image.replace(Rect(Span(0, 64), Span(0, 64)), whole(image))
    assert chunk_of(archive).read_bytes() == before


def test_a_large_picture_in_the_place_of_a_small_one_is_refused_and_not_decoded(
    tmp_path: Path, photo: TakePhoto
) -> None:
    archive = Archive.open_or_create(tmp_path / "lr.zarr")
    put(archive, jpeg(photo(20, 30)))
    bomb = jpeg(np.zeros((3, 5_000, 6_000), np.uint8))
    chunk_of(archive).write_bytes(bomb)
    said = tmp_path / "lr.zarr" / "a.jpg" / "zarr.json"
    document = json.loads(said.read_text())
    document["attributes"]["upres"]["sha256"] = hashlib.sha256(bomb).hexdigest()
    said.write_text(json.dumps(document))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=r"\(20, 30, 3\), shape=\(5000, 6000, 3\)"):
            whole(archive.image("a.jpg"))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_picture_that_is_larger_than_upres_stores_as_a_file_is_refused(
    tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive.open_or_create(tmp_path / "lr.zarr")
    image = put(archive, jpeg(photo(20, 30)))
    monkeypatch.setattr(file_image, "LARGE_BYTES", 20 * 30 * 3)
    assert whole(image).shape == (3, 20, 30)
    monkeypatch.setattr(file_image, "LARGE_BYTES", 20 * 30 * 3 - 1)
    with pytest.raises(ArchiveError, match="did not make this archive"):
        whole(image)


def test_a_jpeg_that_is_to_be_decoded_otherwise_is_refused() -> None:
    assert Jpeg.from_dict({"name": "imagecodecs_jpeg"}) == Jpeg.from_dict(Jpeg().to_dict())
    with pytest.raises(ValueError, match="expected nothing"):
        Jpeg.from_dict({"name": "imagecodecs_jpeg", "configuration": {"colorspace_data": "RGB"}})


def test_a_picture_is_decoded_once_for_all_its_tiles(
    tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put(Archive.open_or_create(tmp_path), jpeg(photo(64, 64)))
    decode, calls = file_image.decode_jpeg, []

    def counted(data: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
        calls.append(1)
        return decode(data, shape)

    monkeypatch.setattr(file_image, "decode_jpeg", counted)
    start = Barrier(4)

    def read(top: int) -> None:
        start.wait()
        image.read(Rect(Span(top, top + 16), Span(0, 64)))

    threads = [Thread(target=read, args=(16 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_no_more_is_held_than_the_bound() -> None:
    held, made = Decoded(100), []

    def take(name: str, size_bytes: int) -> None:
        def make() -> NDArray[Any]:
            assert sum(picture.nbytes for picture in held._pictures.values()) + size_bytes <= 100
            made.append(name)
            return np.zeros(size_bytes, np.uint8)

        assert held.of(name, make, size_bytes=size_bytes).nbytes == size_bytes

    for name, size_bytes in [("a", 40), ("b", 40), ("a", 40), ("c", 40), ("a", 40), ("b", 40)]:
        take(name, size_bytes)
    # When c came, b had not been asked for longest.
    assert made == ["a", "b", "c", "b"]
    take("d", 100)
    assert [*held._pictures] == ["d"]


def test_what_could_not_be_decoded_is_not_held() -> None:
    held = Decoded(100)

    def fail() -> NDArray[Any]:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        held.of("a", fail, size_bytes=1)
    assert held.of("a", lambda: np.ones(1, np.uint8), size_bytes=1) == 1
