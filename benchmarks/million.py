"""A million pictures, ten million tiles: what ledger, plan and status cost for each of them.

No picture is made: the ledger is filled as runs fill it, and nothing is in the archives. Each step
is a process of its own, so that its peak memory is known. Costs for each that stay the same from
the first count to the last are flat. ``--ledger postgresql`` measures on a server that is started
for this, whose CPU time is shown as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import sqlalchemy as sa

from pipeline.compute.status import read_status
from pipeline.jobs.job import create_job, open_job
from pipeline.jobs.spec import make_spec
from pipeline.jobs.upscale.plan import plan_job
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import DONE, FILE_NAME, INGESTED, ItemRow, UnitRow
from tests.services.databases import postgresql_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.jobs.job import Job
    from pipeline.storage.ledger import Ledger

_TILE = 512
_COUNTS = (10_000, 100_000, 1_000_000)


def items(count: int, tiles: int) -> Iterator[ItemRow]:
    """Yield so many ingested pictures."""
    for n in range(count):
        yield ItemRow(
            item=f"{n // 1000:04}/{n:09}.jpg",
            state=INGESTED,
            source=f"/archive/{n // 1000:04}/{n:09}.jpg",
            sha256=f"{n:064}",
            channels=3,
            height=_TILE,
            width=tiles * _TILE,
            dtype="uint8",
            fingerprint=f"{n:064}",
            units=tiles,
        )


def units(count: int, tiles: int) -> Iterator[UnitRow]:
    """Yield all their tiles as done."""
    for row in items(count, tiles):
        for number in range(tiles):
            yield UnitRow(
                item=row.item,
                number=number,
                fingerprint=row.fingerprint,
                state=DONE,
                worker="tcp://127.0.0.1:40000",
                seconds=0.5,
                run="0123456789ab",
            )


def record_items(_job: Job, ledger: Ledger, count: int, tiles: int) -> None:
    ledger.put_items(items(count, tiles))


def record_units(_job: Job, ledger: Ledger, count: int, tiles: int) -> None:
    ledger.put_units(units(count, tiles))


def plan(job: Job, ledger: Ledger, count: int, tiles: int) -> None:
    spec = make_spec("nearest-x2", tile_px=_TILE, halo="auto", precision="fp32", device="cpu")
    planned = plan_job(job, spec=spec, ledger=ledger)
    if planned.units != count * tiles:
        raise SystemExit(f"{planned.units} units were planned, expected {count * tiles}")


def status(job: Job, ledger: Ledger, count: int, tiles: int) -> None:
    done = read_status(job.folder, ledger).units["done"]
    if done != count * tiles:
        raise SystemExit(f"{done} units were done, expected {count * tiles}")


def known(_job: Job, ledger: Ledger, count: int, _tiles: int) -> None:
    if len({row.item: row for row in ledger.items()}) != count:
        raise SystemExit("items are missing")


def nothing(_job: Job, _ledger: Ledger, _count: int, _tiles: int) -> None:
    """Do what all steps do: the memory of that is taken off."""


STEPS = {
    "nothing": nothing,
    "items recorded": record_items,
    "plan, before any is done": plan,
    "units recorded": record_units,
    "items looked up at ingest": known,
    "status": status,
}
OF_UNITS = ("units recorded",)


def step(name: str, folder: Path, count: int, tiles: int, url: str) -> None:
    """Do one step, and print its seconds, its CPU time and its peak memory."""
    job = open_job(folder / "job", ledger_url=url or None)
    with closing(job.open_ledger()) as ledger:
        began, cpu = time.perf_counter(), time.process_time()
        STEPS[name](job, ledger, count, tiles)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    # Not `ru_maxrss`: a process inherits that of the one which started it.
    told = Path("/proc/self/status").read_text()
    (peak,) = (line for line in told.splitlines() if line.startswith("VmHWM:"))
    print(wall, cpu, int(peak.split()[1]) * 1024)


class Server:
    """The PostgreSQL at a URL, where it runs on this machine."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        folder = Path(self._answer("SHOW data_directory"))
        pid = int((folder / "postmaster.pid").read_text().split()[0])
        self._process = psutil.Process(pid)

    def _answer(self, query: str) -> str:
        with self._engine.connect() as connection:
            return str(connection.execute(sa.text(query)).scalar())

    def cpu_s(self) -> float:
        """Return what it and its processes, gone ones too, have computed so far."""
        times = [one.cpu_times() for one in (self._process, *self._process.children())]
        gone = self._process.cpu_times()
        return (
            sum(one.user + one.system for one in times) + gone.children_user + gone.children_system
        )

    def size_bytes(self) -> int:
        """Return how large its database is."""
        return int(self._answer("SELECT pg_database_size(current_database())"))


def measure(count: int, tiles: int, url: str) -> None:
    """Print what each step costs at this number of pictures."""
    server = Server(url) if url.startswith("postgresql") else None
    size = server.size_bytes() if server else 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = create_job(folder / "job", source=name, ledger_url=url or None)
        Archive.open_or_create(job.source_dir)
        Archive.open_or_create(job.sr_dir)
        print(f"{count:,} pictures, {count * tiles:,} units", flush=True)
        least = 0
        for done in STEPS:
            words = [sys.executable, "-m", "benchmarks.million", "--step", done, "--folder", name]
            words += ["--tiles", str(tiles), "--pictures", str(count), "--ledger", url]
            before = server.cpu_s() if server else 0.0
            told = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
            wall, cpu, peak = map(float, told.split())
            least = least or peak
            of = count * tiles if done in OF_UNITS else count
            there = server.cpu_s() - before if server else 0.0
            print(
                f"  {done}: {wall / of * 1e6:.1f} us each, {cpu / of * 1e6:.1f} us of CPU here"
                + (f" and {there / of * 1e6:.1f} us in the server" if server else "")
                + f", {(peak - least) / 1e6:.0f} MB ({wall:.0f} s)",
                flush=True,
            )
        if server:
            size = server.size_bytes() - size
        else:
            size = sum(path.stat().st_size for path in job.folder.glob(f"{FILE_NAME}*"))
        print(f"  ledger: {size / (count * tiles):.0f} bytes a unit", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, nargs="+", default=_COUNTS)
    parser.add_argument("--tiles", type=int, default=10, help="of each picture")
    parser.add_argument(
        "--ledger", default="", help="URL of a database, or postgresql; SQLite without"
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        step(asked.step, asked.folder, asked.pictures[0], asked.tiles, asked.ledger)
        return
    private = asked.ledger == "postgresql"
    with postgresql_server() if private else nullcontext(asked.ledger) as url:
        for count in asked.pictures:
            measure(count, asked.tiles, url)


if __name__ == "__main__":
    main()
