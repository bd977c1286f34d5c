"""Memory does not grow with the picture: a worker holds windows, the driver holds counts."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.compute.cluster import ClusterSettings, connect
from pipeline.compute.workers import Workers
from pipeline.geometry import Rect, Span, cuts
from pipeline.jobs.export.local_file import ExportTask, export_item
from pipeline.jobs.ingest.task import IngestTask, ingest_files
from pipeline.jobs.job import create_job
from pipeline.jobs.run import run_on
from pipeline.jobs.spec import make_spec
from pipeline.jobs.upscale.worker import ModelAddress
from pipeline.jobs.upscaling import Upscaling
from pipeline.pictures.formats import SUFFIXES
from pipeline.sources.listing import list_source
from pipeline.storage.archive import SOURCE_SHARD_PX, Archive
from pipeline.storage.image import Layout
from pipeline.storage.ledger import INGESTED, ItemRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.compute.cluster import Client
    from tests.conftest import TakePhoto

pytestmark = pytest.mark.slow


def _peak_bytes() -> int:
    # Not getrusage: a process that was started by a large one begins with that one's peak.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _write_large_picture(archive_dir: Path, side: int, tile: np.ndarray, **provenance: str) -> None:
    """Write a grey picture of `side` x `side` pixels, shard by shard."""
    image = Archive.open_or_create(archive_dir).create(
        "large.png",
        shape=(1, side, side),
        dtype="uint8",
        layout=Layout.of(height=side, width=side, shard_px=SOURCE_SHARD_PX),
        provenance={"sha256": hashlib.sha256(str(side).encode()).hexdigest(),
                    "format": "png", "mode": "L", "source": "large.png", **provenance},
    )  # fmt: skip
    repeats = -(-SOURCE_SHARD_PX // tile.shape[1])
    content = np.tile(tile, (1, repeats, repeats))
    for rows in cuts(side, SOURCE_SHARD_PX):
        for cols in cuts(side, SOURCE_SHARD_PX):
            image.replace(Rect(rows, cols), content[:, : len(rows), : len(cols)])


def _upscale(folder: Path, side: int, tile: np.ndarray) -> int:
    """Upscale a large picture by two; return the worker's peak memory in bytes."""
    archive_dir = folder / f"{side}.zarr"
    _write_large_picture(archive_dir, side, tile)
    job = create_job(folder / f"job{side}", source=str(archive_dir))
    spec = make_spec("nearest-x2", tile_px=1024, halo="auto", precision="fp32", device="cpu")
    upscaling = Upscaling(spec=spec, model=ModelAddress(name_or_file="nearest-x2"))
    with run_on(job, "test") as run, connect(ClusterSettings(workers=1)) as client:
        run.ingest(str(archive_dir), Workers.of(client))
        computed = run.upscale(upscaling, run.plan(upscaling), client)
        peak = max(client.run(_peak_bytes).values())
    assert computed == len(spec.grid(side, side))
    sr = Archive.open(job.sr_dir).image("large.png")
    corner = Rect(Span(2 * side - 64, 2 * side), Span(2 * side - 64, 2 * side))
    source = Archive.open(archive_dir).image("large.png").read(
        Rect(Span(side - 32, side), Span(side - 32, side))
    )  # fmt: skip
    assert np.array_equal(sr.read(corner), source.repeat(2, axis=1).repeat(2, axis=2))
    shutil.rmtree(job.folder)
    shutil.rmtree(archive_dir)
    return int(peak)


def test_a_picture_of_100_megapixels_needs_no_more_memory_than_one_of_25(
    tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Arrays go back to the system when they are freed: the peak is what was in use, not what an
    # allocator kept in case.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))
    tile = photo(256, 256, channels=1)
    small = _upscale(tmp_path, 5_000, tile)
    driver = _peak_bytes()
    large = _upscale(tmp_path, 10_000, tile)
    assert large < 2e9
    assert large < 1.1 * small
    assert _peak_bytes() < 1.1 * driver


MOST_BYTES = 700e6
SIDE = 20_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto) -> Path:
    """Return an archive with one picture of 400 megapixels."""
    folder: Path = tmp_path_factory.mktemp("large") / "sr.zarr"
    _write_large_picture(folder, SIDE, photo(256, 256, channels=1), fingerprint="f")
    return folder


@pytest.fixture(scope="module")
def worker() -> Iterator[Client]:
    """One worker, whose peak is that of all tests so far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))
        with connect(ClusterSettings(workers=1)) as client:
            yield client


@pytest.mark.parametrize("format", ["png", "tiff", "jpeg"])
def test_400_megapixels_are_exported_and_ingested_in_700_megabytes(
    format: str, large: Path, worker: Client, tmp_path: Path
) -> None:
    name = "large" + SUFFIXES[format]
    row = ItemRow(
        item="large.png", state=INGESTED, fingerprint="f", height=SIDE // 2, width=SIDE // 2
    )
    (tmp_path / "out").mkdir()
    export = ExportTask(
        row=row, sr_dir=large, path=tmp_path / "out" / name, partial_name=name,
        format=format, asked=format, made_of="",
    )  # fmt: skip
    Archive.open_or_create(tmp_path / "lr.zarr")
    exported = worker.submit(export_item, export).result()
    assert exported.facts.size_bytes == export.path.stat().st_size
    assert max(worker.run(_peak_bytes).values()) < MOST_BYTES
    files = tuple(list_source(str(export.path)))
    ingest = IngestTask(files, tmp_path / "lr.zarr", {}, {}, alone=True)
    (ingested,) = worker.submit(ingest_files, ingest).result()
    assert (ingested.row.message, ingested.row.state) == ("", INGESTED)
    assert max(worker.run(_peak_bytes).values()) < MOST_BYTES
    corner = Rect(Span(SIDE - 64, SIDE), Span(SIDE - 640, SIDE))
    before = Archive.open(large).image("large.png").read(corner)
    after = Archive.open(tmp_path / "lr.zarr").image(name).read(corner)
    assert np.abs(after.astype(int) - before).max() <= (24 if format == "jpeg" else 0)
