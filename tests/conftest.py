"""What the tests of stages and commands share: workers, pictures, jobs, and the command line."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import sqlite3
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pytest
from skimage import data

import tests.examples  # noqa: F401 - it bounds the examples of every property.
from tests.sharing import make_shared_folder
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from pipeline.compute.status import JobStatus
    from pipeline.jobs.job import Job

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several of these share the cores, and torch's threads wait for each other by spinning.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# All that is imported for the tests stays. To look at it again and again would take a fifth of the
# time until the first test, and some of each test's.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that the processes of the tests share."""
    make_shared_folder(config)


def pytest_collection_finish() -> None:
    """Collect garbage from here on, and look at nothing that is older.

    What outlives two collections is networks and the like, and to look at all of it each time takes
    a twentieth of the time of the tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 500)
    gc.enable()


_FIRST = ("test_pulled_plugs", "test_stored_datasets", "test_stores")
_HALFWAY = ("test_take_turns", "test_serve", "test_missed_nights", "test_prefect_yaml")
"""Files with servers whose tests take minutes, most of which they wait; the latter share none."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of services first, those of some files halfway, and the longest before others.

    They wait for minutes for servers, clocks and stores. Where several processes run the tests,
    each has its own part of the list, so two of them come to such tests early. The others compute
    meanwhile, and none waits alone at the end.
    """
    items.sort(key=_turn)
    waiting = [item for item in items if _is_of_services(item)]
    others = items[len(waiting) :]
    late = [item for item in waiting if item.path.stem in _HALFWAY]
    first = [item for item in waiting if item.path.stem not in _HALFWAY]
    half = len(others) // 2
    items[:] = [*first, *others[:half], *late, *others[half:]]


def _turn(item: pytest.Item) -> tuple[bool, int]:
    longest = _FIRST + _HALFWAY
    turn = longest.index(item.path.stem) if item.path.stem in longest else len(longest)
    return not _is_of_services(item), turn


def _is_of_services(item: pytest.Item) -> bool:
    return item.get_closest_marker("services") is not None


class TakePhoto(Protocol):
    def __call__(
        self, height: int, width: int, channels: int = 3, dtype: str = "uint8", at: int = 0
    ) -> NDArray[Any]: ...


class SavePicture(Protocol):
    def __call__(self, path: Path, pixels: NDArray[Any], **metadata: Any) -> Path: ...


@dataclass(frozen=True)
class Upscaled:
    """A job after one run on it."""

    job: Job
    computed: int
    status: JobStatus


class Upscale(Protocol):
    def __call__(
        self,
        source: Path,
        folder: Path,
        *,
        model: str = "bicubic-x2",
        tile_px: int = 32,
        precision: str = "fp32",
        limit_s: float = 60.0,
    ) -> Upscaled: ...


@dataclass(frozen=True)
class Said:
    """What a command left behind: its exit code, and what it wrote where."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Return stdout, all of which must be one JSON document."""
        return json.loads(self.out)


class Command(Protocol):
    def __call__(self, *words: object) -> Said: ...


class Digest(Protocol):
    def __call__(self, folder: Path) -> dict[str, str]: ...


class Begun:
    """A folder that every test of a module finds as one of them once made it, at the same path.

    What most tests of a module begin with is so made once, and copied for the others: paths that
    are recorded in it hold, and nothing that a test does to it is seen by the next one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._kept = folder / "begun", folder / "kept"

    def as_made_by(self, make: Callable[[Path], object]) -> Path:
        """Return the folder as ``make(folder)`` leaves it when it is empty."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._kept.exists():
            shutil.copytree(self._kept, self._folder, symlinks=True)
        else:
            self._folder.mkdir()
            make(self._folder)
            shutil.copytree(self._folder, self._kept, symlinks=True)
        return self._folder


class Watched(sqlite3.Connection):
    """A connection to SQLite that is known until it is closed."""

    left_open: ClassVar[dict[int, str]] = {}

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(database, *args, **kwargs)
        self.left_open[id(self)] = str(database)

    def close(self) -> None:
        super().close()
        self.left_open.pop(id(self), None)


@pytest.fixture(scope="session", autouse=True)
def _watched_connections() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlite3, sqlite3.dbapi2):
            patch.setattr(module, "connect", partial(sqlite3.connect, factory=Watched))
        yield


@pytest.fixture(autouse=True)
def _connections_are_closed(_watched_connections: None) -> Iterator[None]:
    """Fail a test that leaves a database open, as Python 3.13 does once it collects garbage."""
    before = dict(Watched.left_open)
    yield
    left = {key: file for key, file in Watched.left_open.items() if key not in before}
    assert not left, f"connections that nobody closed: {sorted(left.values())}"


@pytest.fixture(scope="session")
def digest() -> Digest:
    """Return the hash of every file in a folder, by its path there."""

    def hashes(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return hashes


@pytest.fixture(scope="session", autouse=True)
def _workers_are_forked() -> Iterator[None]:
    """Let pytest's own variable, which is another in each test, not make all workers spawn.

    They are forked only while the environment is what it was, and a spawned one takes two seconds
    of CPU time longer.
    """
    from pipeline.compute import fork_server

    variables = fork_server._environment

    def without_pytests() -> dict[str, str]:
        return {k: v for k, v in variables().items() if k != "PYTEST_CURRENT_TEST"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "_environment", without_pytests)
        yield


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Two worker processes for the whole session."""
    from pipeline.compute import cluster
    from pipeline.compute.clusters import started

    with pytest.MonkeyPatch.context() as patch:
        # Dask would silence all handlers of its logger, and where a conftest has imported it before
        # the tests are collected, those by which pytest keeps what is logged are among them.
        for module in ("deploy.spec", "nanny"):
            name = f"distributed.{module}.silence_logging_cmgr"
            patch.setattr(name, lambda *_, **__: nullcontext())
        # On a busy machine, those that take the place of killed ones come late.
        patch.setattr(cluster, "_FIRST_WORKER_S", PATIENCE_S)
        patch.setattr(started, "_PATIENCE_S", PATIENCE_S)
        with cluster.connect(cluster.ClusterSettings(workers=2)) as found:
            _let_rest(found)
            yield found


def _let_rest(client: Client) -> None:
    """Let Dask look at its own load and memory rarely: while all tests run, it adds up to a minute.

    No test with these workers depends on it: that a worker died is noticed at once in any case.
    Where three seconds pass between two ticks, Dask says that it was held up.
    """
    looks = ("monitor", "memory_monitor", "tick", "ticks", "idle-timeout", "no-workers-timeout")
    found: Any = client.cluster
    for server in (found.scheduler, *found.workers.values()):
        for name in looks:
            if name in server.periodic_callbacks:
                server.periodic_callbacks[name].callback_time = 1_000


@pytest.fixture(scope="session")
def cluster(client: Client) -> tuple[str, str]:
    """The words that make a command use the session's workers."""
    from pipeline.compute.cluster import address_of

    return "--cluster", address_of(client)


@pytest.fixture(scope="module")
def shared_workers(client: Client) -> Iterator[None]:
    """Let whatever would start workers of its own use the session's: a start takes seconds."""
    from pipeline.compute import cluster

    address = cluster.address_of(client)

    def connect(_settings: cluster.ClusterSettings) -> AbstractContextManager[Client]:
        return cluster.connect(cluster.ClusterSettings(address=address))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_local", connect)
        yield


@pytest.fixture(scope="session")
def curves_drawn_once() -> Iterator[None]:
    """Draw the curves of trainings once for all that look alike."""
    from tests.curves import drawn_once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.records.draw_curves", drawn_once())
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """Return what a module's tests begin with, which is made once."""
    return Begun(tmp_path_factory.mktemp("begun"))


@pytest.fixture(scope="session")
def photo() -> TakePhoto:
    """Return pixels ``(c, h, w)`` of a real photograph, other ones for another `at`."""
    photograph = np.moveaxis(data.astronaut(), 2, 0)

    def take(
        height: int, width: int, channels: int = 3, dtype: str = "uint8", at: int = 0
    ) -> NDArray[Any]:
        colours = photograph[:, at : at + height, 100 : 100 + width]
        grey = colours[1:2]
        # A ramp beside the photograph: alpha must differ from the colours to be told apart.
        alpha = np.broadcast_to(np.linspace(0, 255, width), (1, height, width)).astype(np.uint8)
        planes = {
            1: [grey],
            2: [grey, alpha],
            3: [colours],
            4: [colours, alpha],
        }[channels]
        pixels = np.concatenate(planes)
        if dtype == "uint16":
            return pixels.astype(np.uint16) * np.uint16(257) - (pixels > 0).astype(np.uint16)
        if dtype == "float32":
            return pixels.astype(np.float32) / 255
        return np.ascontiguousarray(pixels)

    return take


@pytest.fixture(scope="session")
def save() -> SavePicture:
    """Write pixels as a picture file in the format of its name."""
    from pipeline.pictures.files import write_picture
    from pipeline.pictures.formats import EXTENSIONS
    from pipeline.pictures.metadata.metadata import Metadata
    from pipeline.pictures.picture import Picture

    def save_picture(path: Path, pixels: NDArray[Any], **metadata: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        format = EXTENSIONS[path.suffix.lower()]
        known = Metadata(**{"format": format, "mode": "RGB", **metadata})
        write_picture(path, Picture(pixels=pixels, metadata=known), format=format)
        return path

    return save_picture


@pytest.fixture(scope="session")
def upscale(client: Client) -> Upscale:
    """Create or continue a job: ingest and upscale, on the session's workers."""
    from pipeline.compute.cluster import address_of
    from pipeline.jobs.job import open_job
    from pipeline.jobs.perform import upscale_job
    from pipeline.jobs.request import UpscaleRequest

    def run(source: Path, folder: Path, **asked: Any) -> Upscaled:
        few = {"model": "bicubic-x2", "tile_px": 32, "precision": "fp32", "limit_s": 60.0}
        request = UpscaleRequest(
            src=str(source),
            job_dir=folder,
            device="cpu",
            cluster=address_of(client),
            **{**few, **asked},
        )
        result = upscale_job(request)
        return Upscaled(open_job(folder), result.computed_units, result.status)

    return run


@pytest.fixture(scope="session")
def upres() -> Command:
    """Run a command of the command line in this process; a bug's exception comes through."""
    from click.testing import CliRunner

    from flows.cli import main

    def run(*words: object) -> Said:
        result = CliRunner().invoke(main, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run
