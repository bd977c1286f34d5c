"""Backing up and restoring as docs/operations.md says, at rest and while a run is on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Command, Digest, SavePicture

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
UPRES = [sys.executable, "-c", "from flows.cli import main; main()"]
SIDE, TILE, PICTURES = 320, 32, 3
UNITS = PICTURES * (SIDE // TILE) ** 2
WORDS = ("--model", "lanczos", "--tile", TILE)


def steps(heading: str) -> list[str]:
    """Return the commands of a section, without those of upres."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return [line for line in block.splitlines() if not line.startswith("upres ")]


def back_up(folder: Path) -> None:
    for step in steps("Back up"):
        done = subprocess.run(["bash", "-c", step], cwd=folder, capture_output=True, text=True)
        # What cp may say of a job that a run works on.
        errors = [line for line in done.stderr.splitlines() if "No such file" not in line]
        assert errors == []


def restore(folder: Path) -> Path:
    for step in steps("Restore"):
        subprocess.run(["bash", "-c", step], cwd=folder, check=True)
    return folder / "restored"


@pytest.fixture
def source(tmp_path: Path, save: SavePicture) -> Path:
    noise = np.random.default_rng(0)
    for n in range(PICTURES):
        pixels = noise.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
        save(tmp_path / "in" / f"{n}.png", pixels)
    return tmp_path / "in"


def test_a_restored_job_has_nothing_to_do_and_its_ledger_knows_what_was(
    source: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str], digest: Digest
) -> None:
    assert upres("upscale", source, tmp_path / "out", *WORDS, *cluster).code == 0
    assert upres("score", tmp_path / "out", *cluster).code == 0
    back_up(tmp_path)
    restored = restore(tmp_path)
    before, after = (
        upres("status", tmp_path / name, "--json").document for name in ("out", "restored")
    )
    assert after["units"] == before["units"] == {"done": UNITS, "failed": 0, "pending": 0}
    assert after["runs"] == before["runs"]
    again = upres("upscale", source, restored, *WORDS, *cluster, "--json")
    assert (again.code, again.document["computed_units"]) == (0, 0)
    assert digest(restored / "sr.zarr") == digest(tmp_path / "out" / "sr.zarr")

    for step in steps("Move a job"):
        subprocess.run(["bash", "-c", step], cwd=tmp_path, check=True)
    elsewhere = source.rename(tmp_path / "elsewhere")
    moved = upres("upscale", elsewhere, tmp_path / "moved", *WORDS, *cluster, "--json")
    assert (moved.code, moved.document["computed_units"]) == (0, 0)
    assert not restored.exists()


def test_a_backup_of_a_run_that_is_on_is_continued_to_the_same_bytes(
    source: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str], digest: Digest
) -> None:
    out = tmp_path / "out"
    words = [*UPRES, "upscale", str(source), str(out), *map(str, WORDS), "--workers", "1"]
    run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with slow_near_its_end(out, run):
        wait_for_units(out, run, upres)
        back_up(tmp_path)
        assert run.poll() is None, "the run was over before the backup"
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0
    restored = restore(tmp_path)
    done = upres("status", restored, "--json").document["units"]["done"]
    assert 0 < done < UNITS
    again = upres("upscale", source, restored, *WORDS, *cluster, "--json")
    assert (again.code, again.document["computed_units"]) == (0, UNITS - done)
    assert digest(restored / "sr.zarr") == digest(out / "sr.zarr")


@contextmanager
def slow_near_its_end(job: Path, run: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop a run again and again once it has a quarter to do: a busy machine backs up slowly."""
    over = threading.Event()

    def brake() -> None:
        while not over.wait(0.02):
            if len(list((job / "sr.zarr").glob("*/0/c/0/*/*"))) > UNITS * 3 / 4:
                run.send_signal(signal.SIGSTOP)
                over.wait(0.5)
                run.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=brake)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def wait_for_units(job: Path, run: subprocess.Popen[bytes], upres: Command) -> None:
    def done() -> int:
        if not (job / "sr.zarr").exists():
            return 0
        return int(upres("status", job, "--json").document["units"]["done"])

    until(lambda: run.poll() is not None or done(), every_s=0.1)
    assert run.poll() is None, f"it ended with exit code {run.poll()}"
