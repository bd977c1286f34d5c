"""What the LR of JPEGs takes as the files themselves, and as their pixels: space, ingest, reading.

The shipped photographs are saved as JPEGs of a few sizes and qualities. All happens in this
process, in turn; CPU time counts, the least of three turns. Tiles have 512 px and a halo of 21.
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.codecs import bytes_of
from flows.demo.demo import PHOTOS_DIR
from pipeline.constants import ZSTD
from pipeline.geometry import TileGrid
from pipeline.jobs.ingest.task import ingest_files, plan_ingest
from pipeline.sources.listing import list_source
from pipeline.storage.archive import Archive
from pipeline.storage.file_image import DECODED

_TURNS = 3
_WIDTHS = (1000, 2000, 4000)
_QUALITIES = (75, 90)


def make_jpegs(folder: Path) -> float:
    """Write the JPEGs; return how many megapixels they have."""
    folder.mkdir()
    pixels = 0
    for n, file in enumerate(list_source(str(PHOTOS_DIR))):
        picture = Image.open(io.BytesIO(file.read())).convert("RGB")
        width = _WIDTHS[n % len(_WIDTHS)]
        size = width, picture.height * width // picture.width
        for quality in _QUALITIES:
            pixels += size[0] * size[1]
            picture.resize(size, Image.Resampling.LANCZOS).save(
                folder / f"{n}-{quality}.jpg", quality=quality
            )
    return pixels / 1e6


def ingest(folder: Path, archive_dir: Path, codec: str | None) -> float:
    """Ingest the JPEGs; return the seconds of CPU."""
    Archive.open_or_create(archive_dir, codec=codec)
    files = list(list_source(str(folder)))
    tasks = plan_ingest(files, archive_dir=archive_dir, known={}, stacked={}, alone=True)
    began = time.process_time()
    done = [one for task in tasks for one in ingest_files(task)]
    if not all(one.stored for one in done):
        raise SystemExit(f"a picture was not stored: {[one.row.message for one in done]}")
    return time.process_time() - began


def read_tiles(archive_dir: Path) -> float:
    """Read all tiles of all pictures, as one worker would; return the seconds of CPU."""
    archive = Archive.open(archive_dir)
    DECODED.forget()
    began = time.process_time()
    for item in archive.items():
        image = archive.image(item)
        grid = TileGrid(*image.size, 512, 21)
        for tile in grid:
            image.read(grid.window(tile))
    return time.process_time() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        megapixels = make_jpegs(Path(name) / "in")
        ways: dict[str, str | None] = {"as files": None, "pixels, zstd": ZSTD}
        spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        sizes: dict[str, int] = {}
        for turn in range(_TURNS):
            for way, codec in ways.items():
                place = Path(name) / f"{way}{turn}.zarr"
                spent[way].append((ingest(Path(name) / "in", place, codec), read_tiles(place)))
                sizes[way] = bytes_of(place)
        print(f"{megapixels:.0f} megapixels; bytes a pixel, ms of CPU a megapixel:")
        for way in ways:
            stored, read = (
                min(column) / megapixels * 1e3 for column in zip(*spent[way], strict=True)
            )
            size = sizes[way] / megapixels / 1e6
            print(f"{way}: {size:.2f} bytes, ingest {stored:.0f}, reading all tiles {read:.0f}")


if __name__ == "__main__":
    main()
