"""Peak memory and speed of one large picture: exported in each format, and ingested from it.

Each measurement is a process of its own. Run it in two checkouts to compare them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.geometry import Rect, cuts
from pipeline.jobs.export.local_file import ExportTask, export_item
from pipeline.jobs.ingest.task import IngestTask, ingest_files
from pipeline.pictures.files import read_picture
from pipeline.pictures.formats import BY_NAME, SUFFIXES
from pipeline.sources.listing import list_source
from pipeline.storage.archive import Archive
from pipeline.storage.image import Layout
from pipeline.storage.ledger import INGESTED, ItemRow

SHARD_PX, SCALE, FINGERPRINT = 1024, 4, "measured"


def make_archive(folder: Path, *, height: int, width: int, channels: int, dtype: str) -> None:
    """Write one SR picture, shard by shard: a photograph that is repeated by mirroring."""
    tile = _photograph(folder.parent / "photographs", channels).astype(dtype)
    tile = tile * np.dtype(dtype).type({"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype])
    archive = Archive.open_or_create(folder)
    image = archive.create(
        "large",
        shape=(channels, height, width),
        dtype=dtype,
        layout=Layout.of(height=height, width=width, shard_px=SHARD_PX),
        provenance={"format": "png", "mode": "RGB", "fingerprint": FINGERPRINT},
    )
    for i, rows in enumerate(cuts(height, SHARD_PX)):
        for j, cols in enumerate(cuts(width, SHARD_PX)):
            mirrored = tile[:, :: 1 - 2 * (i % 2), :: 1 - 2 * (j % 2)]
            image.replace(Rect(rows, cols), mirrored[:, : len(rows), : len(cols)])


def _photograph(folder: Path, channels: int) -> np.ndarray:
    from benchmarks.rig import photographs  # It imports more than a worker does.

    photographs(folder, 2)
    file = next(iter(list_source(str(folder))))
    pixels = read_picture(file.read(), name=file.item).pixels
    # Enlarged pictures have few details of a pixel's size.
    larger = np.repeat(np.repeat(pixels, 2, axis=1), 2, axis=2).astype(np.uint16)
    smooth = (larger + np.roll(larger, 1, axis=1) + np.roll(larger, 1, axis=2)) // 3
    padded = np.pad(smooth, ((0, 0), (0, SHARD_PX), (0, SHARD_PX)), mode="symmetric")
    return np.resize(padded[:, :SHARD_PX, :SHARD_PX], (channels, SHARD_PX, SHARD_PX))


def export(folder: Path, format: str) -> None:
    """Export the picture, in this process."""
    image = Archive.open(folder / "sr.zarr").image("large")
    height, width = image.size
    row = ItemRow(
        item="large", state=INGESTED, fingerprint=FINGERPRINT, height=height // SCALE, width=width
    )
    name = "large" + SUFFIXES[format]
    export_item(
        ExportTask(
            row=row,
            sr_dir=folder / "sr.zarr",
            path=folder / f"out/{name}",
            partial_name=name,
            format=format,
            asked=format,
            made_of="",
        )
    )


def ingest(folder: Path, format: str) -> None:
    """Ingest the exported file, in this process."""
    target = folder / f"lr-{format}.zarr"
    Archive.open_or_create(target)
    files = tuple(list_source(str(folder / "out" / ("large" + SUFFIXES[format]))))
    for ingested in ingest_files(IngestTask(files, target, {}, {}, alone=True)):
        if ingested.row.state != INGESTED:
            raise SystemExit(f"not ingested: {ingested.row.message}")


def measured(folder: Path, what: str, format: str) -> str:
    """Return peak memory and seconds of one of the two, in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.large_pictures", "--alone", what, format]
    done = subprocess.run(
        [*words, "--folder", str(folder)], check=False, capture_output=True, text=True
    )
    return done.stdout.strip() or f"failed: {done.stderr.strip().splitlines()[-1:]}"


def alone(folder: Path, what: str, format: str) -> None:
    """Measure this process."""
    idle, before_s = _peak_mb(), time.process_time()
    height, width = Archive.open(folder / "sr.zarr").image("large").size
    began = time.perf_counter()
    {"export": export, "ingest": ingest}[what](folder, format)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - before_s
    megapixels = height * width / 1e6
    print(
        f"{_peak_mb():.0f} MB at most, {idle:.0f} MB before; {seconds:.1f} s, "
        f"{megapixels / seconds:.1f} megapixels a second; {cpu_s:.1f} s of CPU time"
    )


def _peak_mb() -> float:
    # Not getrusage: a process that was started by a large one begins with that one's peak.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, default=100)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--dtype", default="uint8")
    parser.add_argument("--formats", nargs="+", default=["png", "tiff", "jpeg", "webp"])
    parser.add_argument("--no-ingest", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        alone(given.folder, *given.alone)
        return
    width = int((given.megapixels * 1e6 * 4 / 3) ** 0.5)
    height = int(given.megapixels * 1e6 / width)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "out").mkdir()
        make_archive(
            folder / "sr.zarr",
            height=height,
            width=width,
            channels=given.channels,
            dtype=given.dtype,
        )
        print(f"{width} x {height} pixels, {given.channels} channels, {given.dtype}")
        for format in given.formats:
            title = BY_NAME[format].title
            print(f"{title:5} export: {measured(folder, 'export', format)}", flush=True)
            if not given.no_ingest:
                print(f"{title:5} ingest: {measured(folder, 'ingest', format)}", flush=True)
            for path in [*(folder / "out").iterdir()]:
                path.unlink()


if __name__ == "__main__":
    main()
