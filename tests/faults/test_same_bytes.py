"""Whatever way a job is computed, every file of its SR archive is the same."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pytest

from pipeline.compute.cluster import ClusterSettings, connect
from pipeline.compute.workers import Workers
from pipeline.jobs.job import create_job
from pipeline.jobs.run import run_on
from pipeline.jobs.spec import make_spec
from pipeline.jobs.upscale.worker import ModelAddress
from pipeline.jobs.upscaling import Upscaling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from pipeline.jobs.upscale.stage import UpscaleProgress
    from tests.conftest import Digest, SavePicture, TakePhoto

    Order: TypeAlias = Callable[[list[Any]], list[Any]]

MODEL, TILE = "span-x4", 32
UNITS = 2 * 3 + 3 * 2 + 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photo: TakePhoto, save: SavePicture) -> Path:
    """Three small pictures, none of which ends where a tile does."""
    folder = tmp_path_factory.mktemp("same") / "pictures"
    save(folder / "a.png", photo(50, 70))
    save(folder / "b" / "deep.png", photo(67, 40, 4, at=100))
    save(folder / "c.tif", photo(20, 83, 1, "float32", at=200))
    return folder


class Compute(Protocol):
    def __call__(
        self, folder: Path, workers: Client | None = None, order: Order = ..., stop_after: int = ...
    ) -> dict[str, str]: ...


@pytest.fixture(scope="module")
def compute(pictures: Path, client: Client, digest: Digest) -> Compute:
    """Upscale what is not done of the pictures; return the hash of every file of the archive."""
    spec = make_spec(MODEL, tile_px=TILE, halo="auto", precision="auto", device="cpu")
    upscaling = Upscaling(spec=spec, model=ModelAddress(name_or_file=MODEL, device="cpu"))

    def run(
        folder: Path,
        workers: Client | None = None,
        order: Order = lambda plans: plans,
        stop_after: int = UNITS,
    ) -> dict[str, str]:
        with run_on(create_job(folder, source=str(pictures)), "test") as running:

            def report(progress: UpscaleProgress) -> None:
                if progress.units_done >= stop_after:
                    running.stop.request()

            running.ingest(str(pictures), Workers.of(client))
            plans = order(running.plan(upscaling))
            running.upscale(upscaling, plans, workers or client, report)
            done = running.status().units["done"]
        assert (done == UNITS) == (stop_after == UNITS)
        return digest(folder / "sr.zarr")

    return run


@pytest.fixture(scope="module")
def whole(compute: Compute, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one run in order leaves."""
    return compute(tmp_path_factory.mktemp("whole") / "job")


@pytest.mark.parametrize(
    "tiles_a_task", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3)), UNITS]
)
def test_the_order_of_tiles_and_how_many_go_in_one_task_change_no_byte(
    tiles_a_task: int,
    compute: Compute,
    whole: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.jobs.upscale.tiles._TILES_A_TASK", tiles_a_task)
    monkeypatch.setattr("pipeline.jobs.upscale.stage.batch_px", lambda _: 2**30)
    chance = random.Random(tiles_a_task)

    def shuffled(plans: list[Any]) -> list[Any]:
        mixed = [replace(p, numbers=tuple(chance.sample(p.numbers, len(p.numbers)))) for p in plans]
        return chance.sample(mixed, len(mixed))

    assert compute(tmp_path / "job", order=shuffled) == whole


@pytest.mark.slow
def test_a_stop_in_the_middle_changes_no_byte(
    compute: Compute, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.jobs.upscale.tiles._TILES_A_TASK", 1)
    assert compute(tmp_path / "job", stop_after=1) != whole
    assert compute(tmp_path / "job") == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_no_byte(
    workers: int, compute: Compute, whole: dict[str, str], tmp_path: Path
) -> None:
    with connect(ClusterSettings(workers=workers)) as others:
        assert compute(tmp_path / "job", workers=others) == whole
