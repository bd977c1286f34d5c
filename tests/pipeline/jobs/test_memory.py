"""Memory does not grow with the picture: a worker holds windows, the driver holds counts."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.compute.cluster import ClusterSettings, connect
from pipeline.geometry import Rect, Span, cuts
from pipeline.jobs.ingest_task import IngestTask, ingest_files
from pipeline.jobs.job import create_job
from pipeline.jobs.request import ExportRequest
from pipeline.jobs.run import Upscaling, run_on
from pipeline.jobs.spec import make_spec
from pipeline.jobs.worker import ModelAddress
from pipeline.reports.job_report import write_report
from pipeline.sources.listing import list_source
from pipeline.storage.archive import SOURCE_SHARD_PX, Archive
from pipeline.storage.image import Layout

if TYPE_CHECKING:
    from tests.conftest import TakePhoto

pytestmark = pytest.mark.slow


def _peak_bytes() -> int:
    # Not getrusage: a process that was started by a large one begins with that one's peak.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _write_large_picture(archive_dir: Path, side: int, tile: np.ndarray) -> None:
    """Write a grey picture of `side` x `side` pixels, shard by shard."""
    image = Archive.open_or_create(archive_dir).create(
        "large.png",
        shape=(1, side, side),
        dtype="uint8",
        layout=Layout.of(height=side, width=side, shard_px=SOURCE_SHARD_PX),
        provenance={"sha256": hashlib.sha256(str(side).encode()).hexdigest(),
                    "format": "png", "mode": "L", "source": "large.png"},
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
        run.ingest(str(archive_dir), client)
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


def test_a_picture_of_196_megapixels_needs_no_more_memory_than_one_of_49(
    tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Arrays go back to the system when they are freed: the peak is what was in use, not what an
    # allocator kept in case.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))
    tile = photo(256, 256, channels=1)
    small = _upscale(tmp_path, 7_000, tile)
    driver = _peak_bytes()
    large = _upscale(tmp_path, 14_000, tile)
    assert large < 2e9
    assert large < 1.1 * small
    assert _peak_bytes() < 1.1 * driver


MOST_BYTES = 700e6


def test_400_megapixels_are_exported_scored_reported_and_read_again_in_700_megabytes(
    tmp_path: Path, photo: TakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))
    archive_dir, side = tmp_path / "source.zarr", 10_000
    _write_large_picture(archive_dir, side, photo(256, 256, channels=1))
    job = create_job(tmp_path / "job", source=str(archive_dir))
    spec = make_spec("nearest-x2", tile_px=1024, halo="auto", precision="fp32", device="cpu")
    upscaling = Upscaling(spec=spec, model=ModelAddress(name_or_file="nearest-x2"))
    with run_on(job, "test") as run:
        with connect(ClusterSettings(workers=1)) as client:
            run.ingest(str(archive_dir), client)
            run.upscale(upscaling, run.plan(upscaling), client)
        for format in ("png", "tiff", "jpeg"):
            request = ExportRequest(out_dir=tmp_path / format, format=format)
            with connect(ClusterSettings(workers=1)) as client:
                exported = run.export(run.plan_export(request), client)
                assert (exported.written, exported.failures) == (1, ()), format
                assert max(client.run(_peak_bytes).values()) < MOST_BYTES, format
        with connect(ClusterSettings(workers=1)) as client:
            assert run.score(None, client) == []
            assert max(client.run(_peak_bytes).values()) < MOST_BYTES
    before = _peak_bytes()
    write_report(job)
    assert _peak_bytes() - before < MOST_BYTES
    corner = job.open_sr().image("large.png").read(Rect(Span(0, 64), Span(2 * side - 64, 2 * side)))
    shutil.rmtree(job.folder)
    for format in ("png", "tiff", "jpeg"):
        target = tmp_path / f"{format}.zarr"
        Archive.open_or_create(target)
        files = tuple(list_source(str(tmp_path / format)))
        with connect(ClusterSettings(workers=1)) as client:
            (ingested,) = client.submit(
                ingest_files, IngestTask(files, target, {}, {}, alone=True)
            ).result()
            assert (ingested.row.message, ingested.row.state) == ("", "ingested")
            assert max(client.run(_peak_bytes).values()) < MOST_BYTES, format
        image = Archive.open(target).image(ingested.row.item)
        back = image.read(Rect(Span(0, 64), Span(2 * side - 64, 2 * side)))
        assert np.abs(back.astype(int) - corner).max() <= (8 if format == "jpeg" else 0), format
        shutil.rmtree(target)
