"""A million tiles, or many items: planning takes little memory, and the ledger answers."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.compute.status import Failure, read_status
from pipeline.jobs.job import Job, create_job
from pipeline.storage.ledger import DONE, FAILED, FILE_NAME, INGESTED, ItemRow, UnitRow

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak"),
]

TILE = 512
SHAPES = {1: (1000, 1000), 1_000: (25, 40), 50_000: (1, 2)}
"""Rows and columns of tiles of each item, by how many items there are.

A million in all. Of many items, it is the items that count, so these have few.
"""
MOST_BYTES = {1: 100e6, 1_000: 40e6, 50_000: 30e6}
"""What a plan may take: the tiles of one item are known at once, so those of a large one count."""

RUN = """
import sys
from pathlib import Path

from pipeline.jobs.job import open_job
from pipeline.jobs.spec import make_spec
from pipeline.jobs.upscale.worker import ModelAddress
from pipeline.jobs.upscale.plan import plan_job
from pipeline.jobs.upscale.stage import run_upscale


class DeclaredError(Exception):
    pass


def stop(progress):
    assert progress.units_planned == int(sys.argv[3])
    raise DeclaredError


model = ModelAddress(name_or_file="nearest-x2")
spec = make_spec("nearest-x2", tile_px=512, halo="auto", precision="fp32", device="cpu")
job = open_job(Path(sys.argv[1]))
ledger = job.open_ledger()
if sys.argv[2] == "plan":
    plans = plan_job(job, spec=spec, ledger=ledger)
    try:
        run_upscale(
            job, plans, spec=spec, model=model, ledger=ledger, client=None, run="1", report=stop
        )
    except DeclaredError:
        pass
# Not `ru_maxrss`: a process inherits that of the one which started it.
(peak,) = (line for line in Path("/proc/self/status").open() if line.startswith("VmHWM:"))
print(int(peak.split()[1]) * 1024)
"""
"""What a run does until it has declared its plan, or all but the planning; its peak memory."""


@pytest.fixture(scope="module")
def job_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Job]:
    """Return a job whose ledger knows a number of items, with as many tiles as `SHAPES` says."""
    made: dict[int, Job] = {}

    def job(items: int) -> Job:
        if items not in made:
            made[items] = _job(tmp_path_factory.mktemp("million"), items)
        return made[items]

    return job


def _job(folder: Path, items: int) -> Job:
    rows, cols = SHAPES[items]
    job = create_job(folder / "job", source=str(folder))
    with closing(job.open_ledger()) as ledger:
        ledger.put_items(
            ItemRow(
                item=_name(n),
                state=INGESTED,
                source=_name(n),
                sha256=f"{n:064}",
                channels=3,
                height=rows * TILE,
                width=cols * TILE,
                dtype="uint8",
                fingerprint=f"{n:064}",
                units=rows * cols,
            )
            for n in range(items)
        )
    return job


def _name(number: int) -> str:
    return f"{number:06}.png"


def _tiles(items: int) -> int:
    rows, cols = SHAPES[items]
    return items * rows * cols


def _peak_bytes(job: Job, what: str, tiles: int = 0) -> int:
    words = [sys.executable, "-c", RUN, str(job.folder), what, str(tiles)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


@pytest.fixture(scope="module")
def least(job_of: Callable[[int], Job]) -> int:
    """Return the peak memory of a run that plans nothing."""
    return _peak_bytes(job_of(1), "nothing")


@pytest.mark.parametrize(("items", "most"), MOST_BYTES.items())
def test_a_plan_takes_little_memory(
    items: int, most: float, job_of: Callable[[int], Job], least: int
) -> None:
    assert _peak_bytes(job_of(items), "plan", _tiles(items)) - least < most


def _do_all(job: Job, items: int) -> None:
    """Record every tile as done: in the database, as a million rows from here take long."""
    tiles = _tiles(items) // items
    with closing(sqlite3.connect(job.folder / FILE_NAME)) as database, database:
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(units)")]
        own = {"item": "items.item", "fingerprint": "items.fingerprint", "tile": "number"}
        database.execute(
            f"""
            WITH RECURSIVE numbers(number) AS
                (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < {tiles - 1})
            INSERT OR REPLACE INTO units SELECT {", ".join(own.get(c, f"one.{c}") for c in columns)}
            FROM items CROSS JOIN numbers CROSS JOIN (SELECT * FROM units LIMIT 1) AS one
            """
        )


@pytest.mark.parametrize("items", SHAPES)
def test_the_status_counts_each_tile(items: int, job_of: Callable[[int], Job]) -> None:
    job, first = job_of(items), UnitRow(item=_name(0), number=0, fingerprint="", state=DONE)
    with closing(job.open_ledger()) as ledger:
        ledger.put_units([first])
    _do_all(job, items)
    with closing(job.open_ledger()) as ledger:
        (last,) = (row for row in ledger.items() if row.item == _name(items - 1))
        failed = UnitRow(
            item=last.item,
            number=1,
            fingerprint=last.fingerprint,
            state=FAILED,
            error="OSError",
            message="why",
        )
        ledger.put_units([failed])
        status = read_status(job.folder, ledger)
    assert status.units == {"done": _tiles(items) - 1, "failed": 1, "pending": 0}
    assert status.items["done"] == items - 1
    assert status.failures == (Failure(last.item, 1, "OSError", "why"),)
