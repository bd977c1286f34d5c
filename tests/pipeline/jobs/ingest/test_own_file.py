"""JPEGs whose LR is their own file: which ones, and that nothing else differs."""

from __future__ import annotations

import io
import json
import shutil
import struct
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.geometry import Rect, Span
from pipeline.jobs.disk_use import disk_use
from pipeline.jobs.ingest import own_file
from pipeline.jobs.job import open_job
from pipeline.pictures.files import decode_picture
from pipeline.pictures.jpeg.needs import decoding_needs
from pipeline.storage.archive import Archive
from pipeline.storage.disk import used_by
from pipeline.storage.file_image import DECODED, FileImage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

    from pipeline.storage.image import StoredImage
    from tests.conftest import Begun, Command, Digest, TakePhoto, Upscale

    Cluster: TypeAlias = tuple[str, str]
    Ingest: TypeAlias = Callable[[bytes], StoredImage]


@pytest.fixture(autouse=True)
def _nothing_is_held() -> None:
    DECODED.forget()


def jpeg(photo: TakePhoto, height: int, width: int, *, at: int = 0, **options: Any) -> bytes:
    """Return a photograph as a JPEG file."""
    file = io.BytesIO()
    pixels = np.moveaxis(photo(height, width, at=at), 0, 2)
    Image.fromarray(pixels).save(file, "JPEG", **{"quality": 80, **options})
    return file.getvalue()


def turned(orientation: int) -> bytes:
    """Return EXIF that says so."""
    entry = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    return b"Exif\0\0II*\0\x08\0\0\0\1\0" + entry + b"\0\0\0\0"


def put(folder: Path, **files: bytes) -> Path:
    """Write files into the folder of the source."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / f"{name}.jpg").write_bytes(data)
    return folder


def stored(archive_dir: Path, name: str = "a") -> bytes:
    """Return the one file with the pixels of an item."""
    return (archive_dir / f"{name}.jpg" / "0" / "c" / "0" / "0" / "0").read_bytes()


def without_codec(archive_dir: Path) -> None:
    """Make an archive as a version that knew nothing of files would have made it."""
    metadata = archive_dir / "zarr.json"
    found = json.loads(metadata.read_text())
    del found["attributes"]["upres_codec"]
    metadata.write_text(json.dumps(found))


@pytest.fixture
def ingested(tmp_path: Path, upres: Command, cluster: Cluster) -> Ingest:
    """Ingest one file; return its image, once it was compared with the file's pixels."""

    def ingest(data: bytes) -> StoredImage:
        put(tmp_path / "in", a=data)
        assert upres("ingest", tmp_path / "in", tmp_path / "a.zarr", *cluster).code == 0
        image = Archive.open(tmp_path / "a.zarr").image("a.jpg")
        height, width = image.size
        pixels = image.read(Rect(Span(0, height), Span(0, width)))
        assert np.array_equal(pixels, decode_picture(data, name="a.jpg").pixels)
        return image

    return ingest


@pytest.mark.parametrize(
    ("options", "behind", "is_file"),
    [
        ({}, b"", True),
        ({"progressive": True}, b"", True),
        ({"exif": turned(1)}, b"", True),
        ({}, b"garbage behind the picture", True),
        ({"exif": turned(6)}, b"", False),
        ({"exif": turned(3)}, b"", False),
        ({}, bytes(20_000), False),
        ({}, b"film" * 5_000, False),
    ],
    ids=str,
)
def test_only_what_holds_the_very_pixels_in_less_space_is_taken(
    options: dict[str, Any],
    behind: bytes,
    is_file: bool,
    ingested: Ingest,
    photo: TakePhoto,
    tmp_path: Path,
) -> None:
    data = jpeg(photo, 100, 120, **options) + behind
    assert isinstance(ingested(data), FileImage) is is_file
    assert (stored(tmp_path / "a.zarr") == data) is is_file


def test_every_codec_but_a_named_zstd_takes_files(
    tmp_path: Path, upres: Command, cluster: Cluster, photo: TakePhoto
) -> None:
    source = put(tmp_path / "in", a=jpeg(photo, 100, 120))
    for codec, is_file in ((), True), (("--codec", "jpegxl"), True), (("--codec", "zstd"), False):
        archive_dir = tmp_path / "-".join(("a", *codec))
        assert upres("ingest", source, archive_dir, *codec, *cluster).code == 0
        assert isinstance(Archive.open(archive_dir).image("a.jpg"), FileImage) is is_file


def test_a_named_zstd_holds_for_what_comes_later(
    tmp_path: Path, upres: Command, cluster: Cluster, photo: TakePhoto
) -> None:
    source = put(tmp_path / "in", a=jpeg(photo, 100, 120))
    assert upres("ingest", source, tmp_path / "a.zarr", *cluster).code == 0
    put(source, b=jpeg(photo, 100, 120, at=9))
    assert upres("ingest", source, tmp_path / "a.zarr", "--codec", "zstd", *cluster).code == 0
    put(source, c=jpeg(photo, 100, 120, at=19))
    assert upres("ingest", source, tmp_path / "a.zarr", *cluster).code == 0
    archive = Archive.open(tmp_path / "a.zarr")
    kinds = [isinstance(archive.image(f"{name}.jpg"), FileImage) for name in "abc"]
    assert kinds == [True, False, False]


@pytest.mark.parametrize("progressive", [False, True])
def test_what_takes_too_much_memory_to_decode_is_stored_as_pixels(
    progressive: bool, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With all colours at full size, coefficients take twice the space of pixels.
    data = jpeg(photo, 96, 128, progressive=progressive, subsampling=0)
    needs = 3 * 96 * 128 * (3 if progressive else 1)
    pixels = decode_picture(data, name="a.jpg")
    monkeypatch.setattr(own_file, "LARGE_BYTES", needs)
    assert own_file.own_file(data, pixels) is None
    monkeypatch.setattr(own_file, "LARGE_BYTES", needs + 1)
    assert own_file.own_file(data, pixels) is not None


def test_what_decoding_needs_is_known_by_the_headers(photo: TakePhoto) -> None:
    assert decoding_needs(jpeg(photo, 90, 130)) == ((90, 130), 0)
    # Blocks of 8: 12 x 17 of brightness, 6 x 9 of each colour.
    progressive = jpeg(photo, 90, 130, progressive=True, subsampling=2)
    assert decoding_needs(progressive) == ((90, 130), 128 * (12 * 17 + 2 * 6 * 9))
    assert decoding_needs(b"\xff\xd8\xff\xd9") is None


JPEGS = {"a": 0, "b": 40}


@pytest.fixture
def done(begun: Begun, upscale: Upscale, photo: TakePhoto) -> Path:
    """Return a folder with JPEGs and a job that upscaled and exported them."""

    def make(folder: Path) -> None:
        put(folder / "in", **{name: jpeg(photo, 100, 120, at=at) for name, at in JPEGS.items()})
        upscale(folder / "in", folder / "job", export_dir=folder / "out")

    return begun.as_made_by(make)


def test_a_job_of_files_gives_the_same_bytes_as_one_of_pixels(
    done: Path, upscale: Upscale, digest: Digest
) -> None:
    upscale(done / "in", done / "pixels", export_dir=done / "other", codec="zstd")
    assert stored(done / "job" / "source.zarr") == (done / "in" / "a.jpg").read_bytes()
    assert stored(done / "pixels" / "source.zarr") != (done / "in" / "a.jpg").read_bytes()
    assert digest(done / "out") == digest(done / "other")
    some, others = (digest(done / name / "sr.zarr") for name in ("job", "pixels"))
    assert some.pop("zarr.json") != others.pop("zarr.json")  # It names the codec.
    assert some == others


@pytest.mark.slow
def test_it_has_the_same_scores(
    done: Path, upscale: Upscale, upres: Command, cluster: Cluster
) -> None:
    upscale(done / "in", done / "pixels", codec="zstd")
    for options in ((), ("--reference", done / "hr")):
        (done / "hr").mkdir(exist_ok=True)
        for name in JPEGS:
            small = Image.open(done / "in" / f"{name}.jpg")
            small.resize((240, 200)).save(done / "hr" / f"{name}.png")
        scores = [
            upres("score", done / job, *options, "--json", *cluster).document
            for job in ("job", "pixels")
        ]
        assert scores[0]["items"] == scores[1]["items"]
        assert all(float in map(type, item.values()) for item in scores[0]["items"])
        assert len(scores[0]["items"]) == len(JPEGS)


def test_a_job_of_before_is_not_written_again(
    done: Path, upscale: Upscale, photo: TakePhoto, digest: Digest
) -> None:
    job = done / "old"
    upscale(done / "in", job, codec="zstd")
    for name in ("source.zarr", "sr.zarr"):
        without_codec(job / name)
    before = {name: digest(job / name) for name in ("source.zarr", "sr.zarr")}
    assert upscale(done / "in", job).computed == 0
    assert before == {name: digest(job / name) for name in before}
    put(done / "in", b=jpeg(photo, 100, 120, at=80), c=jpeg(photo, 100, 120, at=120))
    upscale(done / "in", job)
    after = digest(job / "source.zarr")
    assert {k: v for k, v in after.items() if k.startswith("a.jpg/")} == {
        k: v for k, v in before["source.zarr"].items() if k.startswith("a.jpg/")
    }
    for name in "bc":
        assert stored(job / "source.zarr", name) == (done / "in" / f"{name}.jpg").read_bytes()


def test_a_lost_ledger_is_made_again(done: Path, upscale: Upscale, digest: Digest) -> None:
    before = digest(done / "job" / "source.zarr")
    for ledger in (done / "job").glob("ledger.sqlite*"):
        ledger.unlink()
    assert upscale(done / "in", done / "job").computed == 0
    assert digest(done / "job" / "source.zarr") == before


def test_an_ingest_that_was_killed_in_between_is_done_again(done: Path, upscale: Upscale) -> None:
    folder = done / "job" / "source.zarr" / "a.jpg"
    whole = stored(done / "job" / "source.zarr")
    # The file is written before the provenance: a kill leaves half of it, and none of that.
    metadata = json.loads((folder / "zarr.json").read_text())
    (folder / "zarr.json").write_text(json.dumps({**metadata, "attributes": {}}))
    (folder / "0" / "c" / "0" / "0" / "0").write_bytes(whole[:100])
    assert upscale(done / "in", done / "job").computed == 0
    assert stored(done / "job" / "source.zarr") == whole


def test_a_damaged_file_fails_its_tiles_and_is_mended_by_reading_it_again(
    tmp_path: Path, photo: TakePhoto, upres: Command, cluster: Cluster
) -> None:
    source = put(tmp_path / "in", a=jpeg(photo, 100, 120, at=200), b=jpeg(photo, 100, 120, at=300))
    archive_dir = tmp_path / "a.zarr"
    assert upres("ingest", source, archive_dir, *cluster).code == 0
    chunk = archive_dir / "a.jpg" / "0" / "c" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[-500] ^= 1
    chunk.write_bytes(data)
    words = ("--model", "bicubic-x2", "--tile", "64", "--json", *cluster)
    told = upres("upscale", archive_dir, tmp_path / "job", *words)
    assert told.code == 3
    assert told.document["units"] == {"done": 4, "failed": 4, "pending": 0}
    assert {failure["item"] for failure in told.document["failures"]} == {"a.jpg"}
    assert "is not what was ingested" in told.document["failures"][0]["message"]
    shutil.rmtree(archive_dir / "a.jpg")
    assert upres("ingest", source, archive_dir, *cluster).code == 0
    told = upres("upscale", archive_dir, tmp_path / "job", *words)
    assert (told.code, told.document["units"]["done"]) == (0, 8)


def test_a_file_that_was_let_go_is_stored_again_for_another_model(
    done: Path, upscale: Upscale, digest: Digest
) -> None:
    upscale(done / "in", done / "job", keep="sr")
    assert not (done / "job" / "source.zarr" / "a.jpg").exists()
    assert upscale(done / "in", done / "job", model="nearest-x2").computed > 0
    assert stored(done / "job" / "source.zarr") == (done / "in" / "a.jpg").read_bytes()


@pytest.mark.parametrize("pixels", [False, True])
def test_what_is_to_come_is_near_what_comes(
    pixels: bool, done: Path, upscale: Upscale, photo: TakePhoto
) -> None:
    if pixels:  # Half of the pictures are stored in each of the two ways.
        for name, at in JPEGS.items():
            Image.fromarray(np.moveaxis(photo(100, 120, at=at), 0, 2)).save(
                done / "in" / f"{name}.png"
            )
        upscale(done / "in", done / "job")
    job = open_job(done / "job")
    came = used_by(job.sr_dir).size_bytes
    with closing(job.open_ledger()) as ledger:
        assert disk_use(job, ledger).coming_bytes == 0
        ledger.forget_units([row.item for row in ledger.items()])
        coming = disk_use(job, ledger).coming_bytes
    assert 0.5 * came < coming < 2 * came
