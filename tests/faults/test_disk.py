"""Disks that fill, fail or may not be written: it is told, and the next run loses nothing."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zarr.storage import LocalStore

from pipeline.compute.worker import on_every_worker
from pipeline.errors import LedgerError
from pipeline.storage.ledger.ledger import Ledger
from pipeline.storage.ledger.rows import ItemRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from tests.conftest import Command, Digest, SavePicture, Upscale
    from tests.faults.conftest import Mount

WORDS = ("--model", "lanczos-x4", "--tile", 32, "--device", "cpu", "--precision", "fp32")
PICTURES = 4
TILES = 9
UNITS = PICTURES * TILES


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, save: SavePicture) -> Path:
    """Four pictures of nine tiles, of noise: it fills a disk, as it can hardly be compressed."""
    folder = tmp_path_factory.mktemp("disk") / "pictures"
    noise = np.random.default_rng(0)
    for n in range(PICTURES):
        save(folder / f"{n}.png", noise.integers(0, 256, (3, 96, 96), dtype=np.uint8))
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory, upscale: Upscale, digest: Digest
) -> dict[str, str]:
    """The SR archive of a run that nothing disturbed."""
    job = tmp_path_factory.mktemp("undisturbed") / "job"
    assert upscale(pictures, job, model="lanczos-x4").status.complete
    return digest(job / "sr.zarr")


def tiles_in(archive: Path) -> int:
    """Return how many tiles an archive holds."""
    return sum(path.suffix != ".partial" for path in archive.glob("*/0/c/0/*/*"))


# A disk that is full


def test_tiles_that_a_full_disk_does_not_hold_have_failed_and_are_done_once_there_is_space(
    pictures: Path,
    tmp_path: Path,
    undisturbed: dict[str, str],
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
    mount: Mount,
) -> None:
    job = mount("size=1m") / "job"
    ledger = ("--ledger", f"sqlite:///{tmp_path}/ledger.sqlite")
    words = ("upscale", pictures, job, *WORDS, *ledger, *cluster, "--json")
    said = upres(*words)
    assert said.code == 3
    units, failures = said.document["units"], said.document["failures"]
    assert (units["done"], units["pending"]) == (tiles_in(job / "sr.zarr"), 0)
    assert 0 < units["failed"] == len(failures) < UNITS
    assert {f["error"] for f in failures} == {"OSError"}
    assert all("No space left" in f["message"] for f in failures)
    assert upres("status", job, "--json").document["units"] == units
    mount("remount", "size=64m")
    again = upres(*words)
    assert (again.code, again.document["computed_units"]) == (0, units["failed"])
    assert digest(job / "sr.zarr") == undisturbed


@pytest.mark.parametrize("size", ["64k", "400k", "900k", "1m"])
def test_a_disk_that_fills_under_the_ledger_too_loses_nothing(
    size: str,
    pictures: Path,
    undisturbed: dict[str, str],
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
    mount: Mount,
) -> None:
    job = mount(f"size={size}") / "job"
    words = ("upscale", pictures, job, *WORDS, *cluster, "--json")
    said = upres(*words)
    if said.code == 1:
        # What failed could not be recorded either: the command ends there.
        assert "free some space" in said.err.splitlines()[-1]
    else:
        assert said.code == 3
        assert {f["error"] for f in said.document["failures"]} == {"OSError"}
    mount("remount", "size=64m")
    again = upres(*words)
    assert again.code == 0
    assert again.document["units"] == {"done": UNITS, "failed": 0, "pending": 0}
    assert digest(job / "sr.zarr") == undisturbed


def test_a_ledger_that_fills_its_disk_says_so_and_what_to_do(mount: Mount) -> None:
    rows = [ItemRow(item=f"{i:0600d}.png", state="done") for i in range(500)]
    ledger = Ledger.open_file(mount("size=256k") / "ledger.sqlite", job="j")
    with closing(ledger), pytest.raises(LedgerError) as caught:
        ledger.put_items(rows)
    assert "failed: No space left on device (" in str(caught.value)
    assert str(caught.value).endswith(
        "free some space there, then repeat the command; what was recorded stays"
    )


# An export onto a disk that is full, or may not be written


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory, upscale: Upscale) -> Path:
    """A finished job, on a sound disk."""
    job = tmp_path_factory.mktemp("finished") / "job"
    assert upscale(pictures, job, model="nearest-x2").status.complete
    return job


def hidden_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


@pytest.mark.parametrize("size", ["8k", "120k"])
def test_an_export_onto_a_full_disk_is_one_line_and_leaves_whole_files_alone(
    size: str,
    finished: Path,
    tmp_path: Path,
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
    mount: Mount,
) -> None:
    assert upres("export", finished, tmp_path / "whole", *cluster).code == 0
    whole = digest(tmp_path / "whole")
    out = mount(f"size={size}") / "out"
    said = upres("export", finished, out, *cluster)
    there = digest(out) if out.exists() else {}
    assert said.code == 3
    (line,) = [line for line in said.err.splitlines() if line.startswith("  ")]
    full = f"DiskError: {out} cannot be written (No space left on device); free some space"
    assert full in line
    missing = PICTURES - len(there)
    assert ("more like this" in line) == (missing > 1)
    assert missing > 0
    assert there.items() <= whole.items()
    assert hidden_in(out.parent) == []
    mount("remount", "size=64m")
    again = upres("export", finished, out, "--json", *cluster)
    assert (again.code, again.document["written"]) == (0, missing)
    assert digest(out) == whole


def test_an_export_folder_that_cannot_be_made_is_one_line_that_names_it(
    finished: Path, upres: Command, cluster: tuple[str, str], mount: Mount
) -> None:
    disk = mount("size=64m,ro")
    said = upres("export", finished, disk / "out", *cluster)
    assert said.code == 1
    (line,) = said.err.splitlines()
    assert line == (
        f"upres: {disk}/out cannot be written (Read-only file system); make its disk writable, or "
        "export into another folder, then repeat the command"
    )


def test_an_export_that_may_not_be_written_fails_for_what_is_missing_alone(
    finished: Path, upres: Command, cluster: tuple[str, str], digest: Digest, mount: Mount
) -> None:
    out = mount("size=64m") / "out"
    assert upres("export", finished, out, *cluster).code == 0
    (out / "1.png").unlink()
    (out / "2.png").unlink()
    before = digest(out)
    mount("remount", "ro")
    said = upres("export", finished, out, *cluster)
    assert said.code == 3
    assert "0 pictures written" in said.out
    assert "2 unchanged" in said.out
    (line,) = [line for line in said.err.splitlines() if line.startswith("  ")]
    assert f"1.png: DiskError: {out} cannot be written (Read-only file system)" in line
    assert line.endswith("(and 1 more like this)")
    assert digest(out) == before
    mount("remount", "rw")
    assert upres("export", finished, out, *cluster).code == 0


def test_what_cannot_be_pruned_is_a_failure_and_still_listed(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str], mount: Mount
) -> None:
    source, out = tmp_path / "in", mount("size=64m") / "out"
    shutil.copytree(pictures, source)
    words = ("upscale", source, tmp_path / "job", "--model", "nearest-x2", *cluster)
    words = (*words, "--export", out, "--prune", "--json")
    assert upres(*words).code == 0
    (source / "1.png").unlink()
    mount("remount", "ro")
    said = upres(*words)
    export = said.document["export"]
    assert (said.code, export["pruned"], export["gone_files"]) == (3, 0, [f"{out}/1.png"])
    (failure,) = [f for f in said.document["failures"] if f["error"] == "DiskError"]
    assert failure["item"] == "1.png"
    mount("remount", "rw")
    assert upres(*words).document["export"]["pruned"] == 1


# A disk that fails now and then

SOUND = {call: getattr(LocalStore, call) for call in ("get", "set")}


def fail_every_third(call: str, archive: str, number: int) -> None:
    """Make every third `call` for pixels of `archive` fail in this process."""
    lock, calls = threading.Lock(), itertools.count(1)

    async def struck(self: LocalStore, key: str, *args: Any, **kwargs: Any) -> Any:
        if self.root.name == archive and "/c/" in key:
            with lock:
                fails = next(calls) % 3 == 0
            if fails:
                raise OSError(number, os.strerror(number))
        return await SOUND[call](self, key, *args, **kwargs)

    setattr(LocalStore, call, struck)


def mend() -> None:
    for call, sound in SOUND.items():
        setattr(LocalStore, call, sound)


@pytest.fixture
def strike(client: Client) -> Iterator[Callable[[str, str, int], None]]:
    """Make the stores of every worker fail at every third call."""
    yield lambda *how: on_every_worker(client, "fault", partial(fail_every_third, *how))
    on_every_worker(client, "fault", mend)


@pytest.mark.parametrize(
    ("call", "archive", "number"),
    [
        ("get", "a.zarr", errno.EIO),
        ("set", "sr.zarr", errno.EIO),
        ("set", "sr.zarr", errno.ENOSPC),
    ],
)
def test_a_store_that_fails_at_every_third_call_costs_those_tiles_alone(
    call: str,
    archive: str,
    number: int,
    pictures: Path,
    tmp_path: Path,
    undisturbed: dict[str, str],
    upres: Command,
    cluster: tuple[str, str],
    client: Client,
    digest: Digest,
    strike: Callable[[str, str, int], None],
) -> None:
    job = tmp_path / "job"
    assert upres("ingest", pictures, tmp_path / "a.zarr", *cluster).code == 0
    words = ("upscale", tmp_path / "a.zarr", job, *WORDS, *cluster, "--json")
    strike(call, archive, number)
    said = upres(*words)
    assert said.code == 3
    units, failures = said.document["units"], said.document["failures"]
    assert (units["done"], units["pending"]) == (tiles_in(job / "sr.zarr"), 0)
    assert units["done"] >= UNITS // 3
    # Each of two workers counts for itself, and the first call that fails for the tiles of a
    # picture together costs none of them: those not written yet are tried again alone.
    assert units["failed"] == len(failures) >= UNITS // 3 - 1 - PICTURES
    assert all(os.strerror(number) in f["message"] for f in failures)
    on_every_worker(client, "fault", mend)
    again = upres(*words)
    assert (again.code, again.document["computed_units"]) == (0, units["failed"])
    assert digest(job / "sr.zarr") == undisturbed


# A disk that may not be written


@pytest.mark.parametrize(
    "words",
    [
        ("upscale", "{pictures}", "{disk}/job", *WORDS),
        ("upscale", "{pictures}", "{disk}/new", *WORDS),
        ("ingest", "{pictures}", "{disk}/a.zarr"),
        ("rerun", "{disk}/job"),
        ("export", "{disk}/job", "{disk}/images"),
    ],
)
def test_a_disk_that_may_not_be_written_is_one_line_and_stays_as_it_is(
    words: tuple[object, ...],
    pictures: Path,
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
    mount: Mount,
) -> None:
    disk = mount("size=64m")
    assert upres("upscale", pictures, disk / "job", *WORDS, *cluster).code == 0
    before = digest(disk)
    mount("remount", "ro")
    places = {"disk": disk, "pictures": pictures}
    said = upres(*(str(word).format(**places) for word in words), *cluster)
    assert said.code == 1
    (line,) = said.err.splitlines()
    assert line.startswith("upres: ")
    assert "Read-only file system" in line
    told = upres("status", disk / "job", "--json")
    assert (told.code, told.document["units"]["done"]) == (0, UNITS)
    assert digest(disk) == before


def test_an_sr_archive_that_may_not_be_written_costs_the_new_pictures_alone(
    pictures: Path,
    tmp_path: Path,
    undisturbed: dict[str, str],
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
    mount: Mount,
) -> None:
    job, elsewhere = tmp_path / "job", mount("size=64m") / "sr.zarr"
    words = ("upscale", pictures, job, *WORDS, *cluster, "--json")
    assert upres("upscale", pictures / "[0-2].png", *words[2:]).code == 0
    shutil.move(job / "sr.zarr", elsewhere)
    (job / "sr.zarr").symlink_to(elsewhere)
    before = digest(elsewhere)
    mount("remount", "ro")
    said = upres(*words)
    assert (said.code, said.document["computed_units"]) == (3, 0)
    assert said.document["units"] == {"done": UNITS - TILES, "failed": TILES, "pending": 0}
    assert {f["item"] for f in said.document["failures"]} == {"3.png"}
    assert all("Read-only file system" in f["message"] for f in said.document["failures"])
    assert digest(elsewhere) == before
    mount("remount", "rw")
    again = upres(*words)
    assert (again.code, again.document["computed_units"]) == (0, TILES)
    assert digest(elsewhere) == undisturbed
