"""Pictures that change in mid-run: no tile of the old one is taken for one of the new."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
    from pipeline.compute.status import JobStatus
    from pipeline.jobs.upscale.stage import UpscaleProgress
    from tests.conftest import Command, Digest, SavePicture, TakePhoto, Upscale

MODEL, TILE = "bicubic-x2", 16
SIDE = 6
"""Tiles along the large picture: far more in all than are in flight when the first come back."""


@pytest.fixture
def pictures(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    save(tmp_path / "pictures" / "a.png", photo(2 * TILE, 2 * TILE))
    save(tmp_path / "pictures" / "b.png", photo(SIDE * TILE, SIDE * TILE))
    return tmp_path / "pictures"


def upscale_while(
    change: Callable[[], object], source: Path, folder: Path, client: Client
) -> JobStatus:
    """Upscale a tile a task, and call `change` once the first tiles are done."""
    spec = make_spec(MODEL, tile_px=TILE, halo="auto", precision="fp32", device="cpu")
    upscaling = Upscaling(spec=spec, model=ModelAddress(name_or_file=MODEL, device="cpu"))
    left = [change]

    def report(progress: UpscaleProgress) -> None:
        if progress.units_done and left:
            left.pop()()

    with (
        pytest.MonkeyPatch.context() as patch,
        run_on(create_job(folder, source=str(source)), "test") as run,
    ):
        patch.setattr("pipeline.jobs.upscale.tiles._TILES_A_TASK", 1)
        run.ingest(str(source), Workers.of(client))
        run.upscale(upscaling, run.plan(upscaling), client, report)
        assert not left
        return run.status()


@pytest.mark.slow
def test_a_file_that_is_replaced_in_mid_run_is_upscaled_as_it_was_and_anew_by_the_next_run(
    pictures: Path,
    tmp_path: Path,
    client: Client,
    upscale: Upscale,
    photo: TakePhoto,
    save: SavePicture,
    digest: Digest,
) -> None:
    upscale(pictures, tmp_path / "old", tile_px=TILE)
    status = upscale_while(
        lambda: save(pictures / "b.png", photo(70, 90, at=40)),
        pictures,
        tmp_path / "job",
        client,
    )
    assert status.complete
    assert digest(tmp_path / "job" / "sr.zarr") == digest(tmp_path / "old" / "sr.zarr")
    again = upscale(pictures, tmp_path / "job", tile_px=TILE)
    assert (again.computed, again.status.complete) == (5 * 6, True)
    upscale(pictures, tmp_path / "new", tile_px=TILE)
    assert digest(tmp_path / "job" / "sr.zarr") == digest(tmp_path / "new" / "sr.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(SIDE * TILE, SIDE * TILE), (70, 90)])
def test_an_archive_that_is_changed_in_mid_run_fails_what_was_not_read_until_the_next_run(
    size: tuple[int, int],
    pictures: Path,
    tmp_path: Path,
    client: Client,
    cluster: tuple[str, str],
    upres: Command,
    upscale: Upscale,
    photo: TakePhoto,
    save: SavePicture,
    digest: Digest,
) -> None:
    archive = tmp_path / "a.zarr"

    def change() -> None:
        save(pictures / "b.png", photo(*size, at=40))
        assert upres("ingest", pictures, archive, *cluster).code == 0

    upres("ingest", pictures, archive, *cluster)
    status = upscale_while(change, archive, tmp_path / "job", client)
    assert status.items == {"done": 1, "failed": 1}
    assert status.units["failed"] == len(status.failures) > SIDE * SIDE // 2
    assert {(f.item, f.error) for f in status.failures} == {("b.png", "ArchiveError")}
    assert any("was changed" in f.message for f in status.failures)
    again = upscale(archive, tmp_path / "job", tile_px=TILE)
    rows, cols = (-(-side // TILE) for side in size)
    assert (again.computed, again.status.complete) == (rows * cols, True)
    upscale(archive, tmp_path / "new", tile_px=TILE)
    assert digest(tmp_path / "job" / "sr.zarr") == digest(tmp_path / "new" / "sr.zarr")
