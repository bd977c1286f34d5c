"""Faults while a dataset is prepared: the same command goes on, and no byte differs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

import pipeline.dataset.extract
import pipeline.dataset.worker
import pipeline.storage.dataset.spec
from pipeline.compute.worker import on_every_worker
from pipeline.dataset.prepare import Preparation
from pipeline.storage.dataset import HR, Dataset
from tests.gates import Gate
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from tests.conftest import Begun, Command, Digest, SavePicture, TakePhoto
    from tests.faults.conftest import Mount

MARK = 203
"""A picture that begins with a pixel of this value is the one that a fault strikes."""

RECIPE = """
name = "small"
scale = 2

[prepare]
extract = "grid"
patch_hr_px = 16
stride_px = 8
degradations = [{ name = "mild" }]
split = { validation = 0.25 }
"""
CHUNK = 256
"""Patches of a chunk: fewer than by default, as what is shown does not depend on how many."""

SMALL_CHUNKS = f"import pipeline.storage.dataset.spec as s; s._CHUNK_PATCHES = {CHUNK}"

SHARDS = 6
"""How many a chunk is written in: its splits, HR, LR, moments, identities, and its splits again."""


@pytest.fixture(scope="module", autouse=True)
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.storage.dataset.spec, "_CHUNK_PATCHES", CHUNK)
        yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto, save: SavePicture) -> Path:
    """Four pictures that make up four chunks; one of them is marked."""
    folder = tmp_path_factory.mktemp("prepare") / "pictures"
    for n in range(4):
        pixels = photo(128, 136, at=70 * n)
        if n == 2:
            pixels[:, 0, 0] = MARK
        save(folder / f"{n}.png", pixels)
    return folder


@pytest.fixture
def place(
    begun: Begun, pictures: Path, recipe: Path, upres: Command, cluster: tuple[str, str]
) -> Path:
    """Return a folder with `pictures`, and with the dataset that was prepared of them."""

    def make(folder: Path) -> None:
        shutil.copytree(pictures, folder / "pictures")
        assert upres(*words(folder / "pictures", folder / "set", recipe), *cluster).code == 0

    return begun.as_made_by(make)


@pytest.fixture(scope="module")
def whole(
    pictures: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory, digest: Digest,
    upres: Command, cluster: tuple[str, str],
) -> dict[str, str]:  # fmt: skip
    """What an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    assert upres(*words(pictures, folder, recipe), *cluster).code == 0
    assert Dataset.open(folder).chunks == 4
    return digest(folder)


def words(pictures: Path, folder: Path, recipe: Path) -> list[str]:
    return ["prepare", str(pictures), str(folder), "--recipe", str(recipe), "--json"]


@contextmanager
def started(command: list[str], gate: Gate, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command on a worker of its own, and yield once all have passed the gate that may."""
    with log.open("w") as errors, subprocess.Popen(
        [*gate.command(first=SMALL_CHUNKS), *command, "--workers", "1"], start_new_session=True,
        env=gate.environment(), stdout=subprocess.DEVNULL, stderr=errors,
    ) as process:  # fmt: skip
        try:
            until(lambda: gate.reached() or process.poll() is not None, every_s=0.02)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


class Strike(Protocol):
    def __call__(self, kind: str, once_in: Path | None = None) -> None: ...


def _strike(kind: str, once_in: Path | None) -> Callable[[], None]:
    """Return what makes a worker fail where it cuts patches out of the marked picture."""

    def install() -> None:
        original = pipeline.dataset.extract.patches

        def patches(pixels: Any, *args: Any) -> Any:
            marked = int(pixels[0, 0, 0]) == MARK
            if marked and once_in is not None:
                marked = not once_in.exists()
                once_in.touch()
            if marked and kind == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if marked and kind == "raise":
                raise RuntimeError("struck\nwith a second line")
            if marked and kind == "hang":
                time.sleep(600)
            return original(pixels, *args)

        pipeline.dataset.worker.patches = patches

    return install


def _mend() -> None:
    pipeline.dataset.worker.patches = pipeline.dataset.extract.patches


@pytest.fixture
def strike(client: Client) -> Iterator[Strike]:
    """Make every worker, and those that replace it, fail in some way."""

    def install(kind: str, once_in: Path | None = None) -> None:
        on_every_worker(client, "fault", _strike(kind, once_in))

    yield install
    on_every_worker(client, "fault", _mend)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error"),
    [("raise", "RuntimeError"), ("crash", "WorkerError"), ("hang", "WorkerError")],
)
def test_a_struck_chunk_is_recorded_and_the_next_run_completes_byte_for_byte(
    kind: str,
    error: str,
    pictures: Path,
    recipe: Path,
    whole: dict[str, str],
    tmp_path: Path,
    strike: Strike,
    cluster: tuple[str, str],
    upres: Command,
    digest: Digest,
) -> None:
    command = ("prepare", pictures, tmp_path / "set", "--recipe", recipe, *cluster, "--json")
    strike(kind)
    said = upres(*command, "--time-limit", 8 if kind == "hang" else 60)
    assert said.code == 3
    # The marked picture lies in the second and the third chunk.
    assert {f["item"] for f in said.document["failures"]} == {"chunk 1", "chunk 2"}
    assert {f["error"] for f in said.document["failures"]} == {error}
    assert all("\n" not in f["message"] for f in said.document["failures"])
    assert said.document["units"] == {"done": 2, "failed": 2, "pending": 0}
    dataset = Dataset.open(tmp_path / "set")
    done = dataset.rows("train")
    assert set((done // dataset.spec.chunk_patches).tolist()) <= {0, 3}
    strike("nothing")
    said = upres(*command)
    assert (said.code, said.document["computed_units"]) == (0, 2)
    assert digest(tmp_path / "set") == whole


@pytest.mark.slow
def test_a_worker_that_dies_once_costs_nothing(
    pictures: Path,
    recipe: Path,
    whole: dict[str, str],
    tmp_path: Path,
    strike: Strike,
    cluster: tuple[str, str],
    upres: Command,
    digest: Digest,
) -> None:
    strike("crash", once_in=tmp_path / "struck")
    command = ("prepare", pictures, tmp_path / "set", "--recipe", recipe, *cluster, "--json")
    assert upres(*command).code == 0
    assert (tmp_path / "struck").exists()
    assert digest(tmp_path / "set") == whole


@pytest.mark.slow
def test_a_picture_that_is_changed_in_mid_run_fails_its_chunks_and_is_prepared_by_the_next_run(
    pictures: Path,
    recipe: Path,
    tmp_path: Path,
    cluster: tuple[str, str],
    upres: Command,
    monkeypatch: pytest.MonkeyPatch,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    own = tmp_path / "pictures"
    own.mkdir()
    for path in pictures.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    survey = Preparation.survey

    def surveyed(self: Preparation, *args: Any, **options: Any) -> bool:
        found = survey(self, *args, **options)
        save(own / "2.png", photo(128, 136, at=5))
        return found

    command = ("prepare", own, tmp_path / "set", "--recipe", recipe, *cluster, "--json")
    with monkeypatch.context() as patched:
        patched.setattr(Preparation, "survey", surveyed)
        said = upres(*command)
    assert said.code == 3
    assert {f["item"] for f in said.document["failures"]} == {"chunk 1", "chunk 2"}
    assert all("2.png was changed" in f["message"] for f in said.document["failures"])
    said = upres(*command)
    assert said.code == 0
    assert sum(said.document["patches"].values()) == 4 * 15 * 16


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
def test_a_driver_that_dies_while_it_plans_leaves_nothing_twice_and_nothing_out(
    call: int,
    place: Path,
    recipe: Path,
    cluster: tuple[str, str],
    upres: Command,
    monkeypatch: pytest.MonkeyPatch,
    photo: TakePhoto,
    save: SavePicture,
) -> None:
    own = place / "pictures"
    command = (*words(own, place / "set", recipe), *cluster)
    # One is changed and one is new: manifests are written, the dataset grows, others are retired.
    save(own / "0.png", photo(128, 136, at=33))
    save(own / "5.png", photo(64, 64, at=3))
    calls = 0

    class Killed(BaseException):
        pass

    def dying(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return method(*args)

        return run

    with monkeypatch.context() as patched:
        for name in ("put_manifest", "grow", "retain"):
            patched.setattr(Dataset, name, dying(getattr(Dataset, name)))
        with pytest.raises(Killed):
            upres(*command)
    said = upres(*command)
    assert said.code == 0
    assert sum(said.document["patches"].values()) == 4 * 15 * 16 + 7 * 7
    dataset = Dataset.open(place / "set")
    items = [o.item for m in dataset.manifests() for o in m.origins]
    held = [m.origins[p].item for m in dataset.manifests() for p in m.pictures.tolist()]
    assert set(items) == {"0.png", "1.png", "2.png", "3.png", "5.png"}
    assert {item: held.count(item) for item in items} == {
        **dict.fromkeys(("0.png", "1.png", "2.png", "3.png"), 15 * 16),
        "5.png": 7 * 7,
    }
    for split in ("train", "validation"):
        assert dataset.read(HR, dataset.rows(split)).std(axis=(1, 2, 3)).min() > 0


@pytest.mark.slow
def test_patches_that_a_full_disk_does_not_hold_are_made_once_there_is_space(
    pictures: Path,
    recipe: Path,
    whole: dict[str, str],
    mount: Mount,
    cluster: tuple[str, str],
    upres: Command,
    digest: Digest,
) -> None:
    disk = mount("size=850k")
    command = ("prepare", pictures, disk / "set", "--recipe", recipe, *cluster, "--json")
    said = upres(*command)
    assert said.code in (1, 3)
    assert "No space left" in said.out + said.err or "ENOSPC" in said.out + said.err
    mount("remount", "size=64m")
    said = upres(*command)
    assert said.code == 0
    assert digest(disk / "set") == whole


@pytest.mark.slow
def test_a_source_that_is_gone_as_a_whole_does_not_retire_the_pictures(
    place: Path, recipe: Path, tmp_path: Path, cluster: tuple[str, str], upres: Command
) -> None:
    empty = tmp_path / "unmounted"
    empty.mkdir()
    (empty / "readme.txt").write_text("nothing is mounted here")
    said = upres(*words(empty, place / "set", recipe), *cluster)
    assert said.code == 1
    assert "holds no pictures (left out: 1 sidecar (.txt 1))" in said.err
    assert "mounted" in said.err
    (empty / "other.png").write_bytes(b"of another source")
    said = upres(*words(empty, place / "set", recipe), *cluster)
    assert said.code == 1
    assert "holds none of the 4 pictures" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("free", [2, SHARDS + 3, 4 * SHARDS - 1])
def test_a_killed_driver_is_continued_by_the_same_command_to_the_same_bytes(
    free: int, pictures: Path, recipe: Path, whole: dict[str, str], tmp_path: Path,
    upres: Command, cluster: tuple[str, str], digest: Digest,
) -> None:  # fmt: skip
    folder = tmp_path / "set"
    command = words(pictures, folder, recipe)
    with started(command, Gate(tmp_path / "gate", free, writes=True), tmp_path / "log") as process:
        os.killpg(process.pid, signal.SIGKILL)
    said = upres(*command, *cluster)
    assert said.code == 0, said.err
    assert digest(folder) == whole
    assert np.isin(Dataset.open(folder).splits(), (0, 1)).all()


@pytest.mark.slow
def test_an_interrupt_ends_with_130_and_the_same_command_continues(
    pictures: Path, recipe: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str],
    digest: Digest,
) -> None:  # fmt: skip
    folder, gate, log = tmp_path / "set", Gate(tmp_path / "gate", 1), tmp_path / "log"
    # Seven chunks, which are more than are in flight: those are finished.
    more = ("--set", "stride_px=6")
    command = [*words(pictures, folder, recipe), *more]
    with started(command, gate, log) as process:
        os.killpg(process.pid, signal.SIGINT)
        until(lambda: "finishing the work in progress" in log.read_text())
        gate.open()
        assert process.wait(timeout=PATIENCE_S) == 130
    said = upres(*command, *cluster)
    assert said.code == 0, said.err
    assert 0 < said.document["computed_units"] < Dataset.open(folder).chunks == 7
    assert np.isin(Dataset.open(folder).splits(), (0, 1)).all()
    assert upres(*words(pictures, tmp_path / "other", recipe), *more, *cluster).code == 0
    assert digest(folder) == digest(tmp_path / "other")
