"""Compression: every pixel comes back as it was, and damage is an error."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.constants import CODECS, JPEGXL, ZSTD
from pipeline.errors import ArchiveError
from pipeline.geometry import Rect, Span
from pipeline.jobs.job import open_job
from pipeline.storage.archive import Archive
from pipeline.storage.image import Layout
from pipeline.storage.pixel_codecs import JpegXl
from pipeline.storage.stack_kind import Kind
from pipeline.storage.zarr_metadata import DTYPES
from tests.examples import examples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.storage.image import StoredImage
    from tests.conftest import Digest, SavePicture, TakePhoto, Upscale


def pixels_of(shape: tuple[int, ...], dtype: str, *, seed: int) -> NDArray[Any]:
    """Return noise, with black, white and, behind a transparent last channel, hidden colours."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(0, 1e3, shape).astype(np.float32)
    found = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    found[..., : shape[-1] // 3] = 0
    found[-1, : shape[1] // 2] = 0
    return found


def put(archive: Archive, pixels: NDArray[Any], *, shard_px: int = 4096) -> StoredImage:
    _, height, width = pixels.shape
    return archive.create(
        "a",
        shape=pixels.shape,  # type: ignore[arg-type]
        dtype=str(pixels.dtype),
        layout=Layout.of(height=height, width=width, shard_px=shard_px),
        provenance={"sha256": "0"},
        pixels=pixels,
    )


def serializer(folder: Path) -> str:
    """Return what an array was compressed by."""
    found = json.loads((folder / "zarr.json").read_text())
    names = [codec["name"] for codec in found["codecs"][0]["configuration"]["codecs"]]
    return JPEGXL if "imagecodecs_jpegxl" in names else ZSTD


@examples(30)
@given(
    codec=st.sampled_from(CODECS),
    dtype=st.sampled_from(DTYPES),
    channels=st.integers(1, 6),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    shard_px=st.sampled_from([16, 256]),
)
@example(codec=JPEGXL, dtype="uint8", channels=4, height=33, width=17, shard_px=16)
@example(codec=JPEGXL, dtype="uint16", channels=2, height=1, width=40, shard_px=16)
@example(codec=JPEGXL, dtype="uint16", channels=5, height=9, width=9, shard_px=16)
def test_every_pixel_comes_back(
    codec: str, dtype: str, channels: int, height: int, width: int, shard_px: int
) -> None:
    pixels = pixels_of((channels, height, width), dtype, seed=height)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "a.zarr"
        put(Archive.open_or_create(place, codec=codec), pixels, shard_px=shard_px)
        found = Archive.open(place).image("a")
        assert np.array_equal(found.read(Rect(Span(0, height), Span(0, width))), pixels)
        held = codec == JPEGXL and dtype != "float32" and channels <= 4
        assert serializer(place / "a" / "0") == (JPEGXL if held else ZSTD)


def test_stacks_are_compressed_too(tmp_path: Path) -> None:
    archive = Archive.open_or_create(tmp_path, codec=JPEGXL)
    kind = Kind(3, 9, 7, "uint8")
    stack = archive.create_stack(kind.stack, kind, chunk_members=4, chunks=1)
    images = pixels_of((4, 3, 9, 7), "uint8", seed=1)
    stack.array[:] = images
    assert np.array_equal(archive.stack(kind.stack).array[:], images)
    (array,) = tmp_path.rglob("0/zarr.json")
    assert serializer(array.parent) == JPEGXL


def test_it_is_less_than_half_as_large_for_photographs(tmp_path: Path, photo: TakePhoto) -> None:
    sizes = {}
    for codec in CODECS:
        archive = Archive.open_or_create(tmp_path / codec, codec=codec)
        put(archive, photo(512, 512))
        sizes[codec] = sum(
            f.stat().st_size for f in (tmp_path / codec).rglob("c/**/*") if f.is_file()
        )
    assert sizes[JPEGXL] < 0.7 * sizes[ZSTD]


def test_a_flipped_bit_is_an_error(tmp_path: Path) -> None:
    archive = Archive.open_or_create(tmp_path, codec=JPEGXL)
    put(archive, pixels_of((3, 64, 64), "uint8", seed=2), shard_px=64)
    shard = tmp_path / "a" / "0" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    with pytest.raises(ArchiveError, match="cannot be read"):
        archive.image("a").read(Rect(Span(0, 64), Span(0, 64)))


def test_an_array_that_lost_something_is_refused() -> None:
    kept = JpegXl().to_dict()
    assert JpegXl.from_dict(kept) == JpegXl()
    kept["configuration"]["lossless"] = False
    with pytest.raises(ValueError, match="expected lossless"):
        JpegXl.from_dict(kept)


def test_a_job_gives_the_same_pictures_in_half_the_space(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale, digest: Digest
) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, photo(96, 120))
    exports = {}
    for codec in CODECS:
        out = tmp_path / f"out-{codec}"
        upscale(tmp_path / "in", tmp_path / codec, codec=codec, export_dir=out)
        exports[codec] = digest(out)
        job = open_job(tmp_path / codec)
        assert serializer(job.sr_dir / "a.png" / "0") == codec
        assert serializer(job.source_dir / "a.png" / "0") == codec
    assert exports[JPEGXL] == exports[ZSTD]


def test_another_codec_is_for_new_pictures_and_nothing_is_computed_again(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upscale: Upscale
) -> None:
    job = tmp_path / "job"
    save(tmp_path / "in" / "a.png", photo(40, 40))
    upscale(tmp_path / "in", job)
    before = serializer(job / "sr.zarr" / "a.png" / "0")
    save(tmp_path / "in" / "b.png", photo(40, 52))
    assert upscale(tmp_path / "in", job, codec=JPEGXL).computed == 4
    save(tmp_path / "in" / "c.png", photo(40, 64))
    assert upscale(tmp_path / "in", job).computed == 4
    after = [serializer(job / "sr.zarr" / f"{n}.png" / "0") for n in "abc"]
    assert [before, *after] == [ZSTD, ZSTD, JPEGXL, JPEGXL]
