"""What a job's records cost with the number of its units: time, disk and memory of the driver."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compute.status import read_status
from pipeline.jobs.job import create_job
from pipeline.jobs.spec import make_spec
from pipeline.jobs.upscale.plan import plan_job
from pipeline.sources.listing import list_source
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import DONE, FILE_NAME, INGESTED, ItemRow, Ledger, UnitRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.jobs.job import Job

_ROWS, _COLS, _TILE = 6, 8, 512
"""Tiles of a picture of 12 megapixels."""
_BATCH = 2_000


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def held_bytes(work: Callable[[], object]) -> int:
    """Return how much memory what `work` returns takes."""
    tracemalloc.start()
    kept = work()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return held


def items(count: int) -> Iterator[ItemRow]:
    """Yield so many pictures that are ingested."""
    for n in range(count):
        yield ItemRow(
            item=f"folder/of/pictures/{n:09}.jpg",
            state=INGESTED,
            source=f"/archive/folder/of/pictures/{n:09}.jpg",
            sha256=f"{n:064}",
            channels=3,
            height=_ROWS * _TILE,
            width=_COLS * _TILE,
            dtype="uint8",
            fingerprint=f"{n:064}",
            units=_ROWS * _COLS,
        )


def record(ledger: Ledger, rows: list[ItemRow]) -> None:
    """Record all units of some pictures as done, in batches, as a run does."""
    batch: list[UnitRow] = []
    for row in rows:
        batch += [
            UnitRow(
                item=row.item,
                number=number,
                fingerprint=row.fingerprint,
                state=DONE,
                worker="tcp://127.0.0.1:40000",
                seconds=0.5,
                run="0123456789ab",
            )
            for number in range(row.units)
        ]
        if len(batch) >= _BATCH:
            ledger.put_units(batch)
            batch = []
    ledger.put_units(batch)


def listed_bytes(folder: Path, count: int) -> float:
    """Return how much memory the listing of a folder takes a picture."""
    folder.mkdir()
    for n in range(count):
        (folder / f"{n:09}.jpg").touch()
    return held_bytes(lambda: list_source(str(folder))) / count


def grow(job: Job, count: int) -> None:
    """Print what `count` pictures and their units cost."""
    spec = make_spec("nearest-x2", tile_px=_TILE, halo="auto", precision="fp32", device="cpu")
    with closing(job.open_ledger()) as ledger:
        put_items = seconds(lambda: ledger.put_items(items(count)))
        planning = seconds(lambda: sum(1 for _ in plan_job(job, spec=spec, ledger=ledger)))
        known, known_bytes = seconds(ledger.items), held_bytes(ledger.items)
        put_units = seconds(lambda: record(ledger, list(items(count))))
        status = seconds(lambda: read_status(job.folder, ledger))
        status_bytes = held_bytes(lambda: read_status(job.folder, ledger))
    listed = listed_bytes(job.folder.with_name("pictures"), count)
    size = sum(path.stat().st_size for path in job.folder.glob(f"{FILE_NAME}*"))
    units = count * _ROWS * _COLS
    print(f"{count} pictures, {units} units:")
    print(f"a unit: {put_units / units * 1e6:.1f} us, {size / units:.0f} bytes of ledger")
    print(
        f"a picture: recorded in {put_items / count * 1e6:.0f} us, planned in "
        f"{planning / count * 1e6:.0f} us, looked up in {known / count * 1e6:.0f} us and "
        f"{known_bytes / count:.0f} bytes of memory, listed in {listed:.0f} bytes, "
        f"its status counted in {status / count * 1e6:.0f} us and {status_bytes / count:.0f} bytes"
    )


def main() -> None:
    for count in (1_000, 4_000):
        with tempfile.TemporaryDirectory() as folder:
            job = create_job(Path(folder) / "job", source=folder)
            Archive.open_or_create(job.source_dir)
            Archive.open_or_create(job.sr_dir)
            grow(job, count)


if __name__ == "__main__":
    main()
