"""A command whose workers wait at a gate: a test strikes while it knows what they have done.

The command is the installed one but for the gate, which the first few tasks pass. The others wait
on the worker until it is opened. Of the few, half pass late enough for the driver to record them,
so something is in the ledger, and usually not all that is done. The gate can also stand before
each shard of a dataset: then a test strikes in the middle of a chunk.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.waiting import until

if TYPE_CHECKING:
    from pipeline.dataset.worker import PrepareTask
    from pipeline.jobs.upscale.units import UnitTask
    from pipeline.storage.ledger import UnitRow

ROOT = Path(__file__).parents[1]
_PLACE, _FREE, _WRITES = "UPRES_TEST_GATE", "UPRES_TEST_GATE_FREE", "UPRES_TEST_GATE_WRITES"
_TURN_S = 0.02


@dataclass(frozen=True)
class Gate:
    """A folder in which the tasks that pass leave a file, and whoever opens the gate."""

    place: Path
    free: int
    """How many tasks, or shards, pass before it is opened."""
    writes: bool = False
    """Whether it stands before each shard that a worker writes into a dataset."""

    def command(self, *, first: str = "") -> list[str]:
        """Return what to type in place of `upres`; `first` is Python that runs before it."""
        return [sys.executable, "-c", f"{first}\nfrom tests.gates import main; main()"]

    def environment(self) -> dict[str, str]:
        """Return the environment of that command."""
        self.place.mkdir(parents=True, exist_ok=True)
        own = {"PYTHONPATH": str(ROOT), _PLACE: str(self.place), _FREE: str(self.free)}
        return os.environ | own | ({_WRITES: "1"} if self.writes else {})

    def reached(self) -> bool:
        """Return whether all have passed that may."""
        return (self.place / f"passed-{self.free - 1}").exists()

    def open(self) -> None:
        """Let all tasks pass."""
        (self.place / "open").touch()


def main() -> None:
    """Run the command line, with a gate before every tile and every chunk."""
    import pipeline.dataset.prepare
    import pipeline.jobs.upscale.stage
    from upres_start import main

    # The workers find both by their names in this module.
    pipeline.jobs.upscale.stage.upscale_units = upscale_units  # type: ignore[attr-defined]
    pipeline.dataset.prepare.prepare_chunks = prepare_chunks  # type: ignore[attr-defined]
    main()


def upscale_units(task: UnitTask, *, key: str) -> list[UnitRow]:
    """Wait at the gate, then do as the function of this name that it takes the place of."""
    from pipeline.jobs.upscale.worker import upscale_units

    _pass()
    return upscale_units(task, key=key)


def prepare_chunks(task: PrepareTask, *, key: str) -> list[UnitRow]:
    """Wait at the gate, then do as the function of this name that it takes the place of."""
    from pipeline.dataset.worker import prepare_chunks

    if _WRITES in os.environ:
        _stand_before_shards()
    else:
        _pass()
    return prepare_chunks(task, key=key)


@cache
def _stand_before_shards() -> None:
    from pipeline.storage.dataset.arrays import PatchArrays

    write = PatchArrays.write

    def written(*words: Any) -> None:
        _pass()
        write(*words)

    PatchArrays.write = written  # type: ignore[method-assign]


def _pass() -> None:
    place, free = Path(os.environ[_PLACE]), int(os.environ[_FREE])
    for number in range(free):
        with suppress(FileExistsError):
            (place / f"passed-{number}").touch(exist_ok=False)
            if number >= free // 2 and _WRITES not in os.environ:
                _wait_for_the_ledger(place / "passed-0")
            return
    until((place / "open").exists, every_s=_TURN_S)


def _wait_for_the_ledger(first: Path) -> None:
    """The first outcome after so many seconds takes those before it along into the ledger."""
    from pipeline.compute.outcomes import _BATCH_S

    while time.time() < first.stat().st_mtime + 1.25 * _BATCH_S:
        time.sleep(_TURN_S)
