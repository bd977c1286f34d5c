"""The worker: units are computed in the pieces that its machine is fastest with, to equal bits."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from models.checkpoint import load
from pipeline.compute.backends import resolve_backend
from pipeline.compute.inference import resolve_precision
from pipeline.compute.machine import cores
from pipeline.compute.speeds import SPEEDS, Speeds, Subject
from pipeline.compute.windows import WindowedBackend
from pipeline.geometry import TileGrid
from pipeline.jobs.spec import make_spec
from pipeline.jobs.upscale.worker import ModelAddress, Workbench, open_workbench
from pipeline.storage.user_cache import cache_file
from tests.examples import pairs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Command, Digest, SavePicture, TakePhoto

MODEL = "span-x2"
ALIKE = Speeds(((128, 1e6), (298, 1e6)))
SMALL_IS_FAST = Speeds(((60, 1e6), (110, 9e5), (130, 1.0)))
PRECISIONS = ("fp32", "bf16")
ENGINES = tuple(product(("torch", "openvino"), PRECISIONS))

pytestmark = pytest.mark.skipif(
    resolve_backend("auto", device="cpu", model=MODEL) != "openvino",
    reason="pieces are for x86 CPUs",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def keep(speeds: Speeds, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine have measured these speeds, whatever computes the model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    found = {
        Subject.of(load(MODEL).spec, backend=backend, precision=precision).key()
        for backend, precision in ENGINES
    }
    # A worker alone on this machine has all its cores.
    keys = found | {key.replace("| 1 of", f"| {cores()} of") for key in found}
    file = cache_file(SPEEDS)
    assert file is not None
    file.parent.mkdir(parents=True)
    document = {"format": 1, "kept": dict.fromkeys(keys, speeds.by_side)}
    file.write_text(json.dumps(document))


def opened(tile_px: int, halo: str | int, backend: str, precision: str) -> Workbench:
    spec = make_spec(
        MODEL, tile_px=tile_px, halo=halo, precision=precision, device="cpu", backend=backend
    )
    return open_workbench(ModelAddress(name_or_file=MODEL, device="cpu"), spec)


@pytest.mark.parametrize(("halo", "engine"), pairs([5, 21, 30], ENGINES), ids=str)
def test_a_tile_has_the_same_bits_in_pieces_also_with_a_halo_that_leaves_seams(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photo: TakePhoto,
    halo: int,
    engine: tuple[str, str],
) -> None:
    backend, precision = engine
    able = (resolve_precision("auto", device="cpu"), "fp32", "torch")
    if precision not in able and backend not in able:
        pytest.skip("this CPU does not compute in bf16, and openvino says so")
    lr = photo(170, 230)
    grid = TileGrid(170, 230, 150, halo)
    tiles = []
    for name, speeds in (("whole", ALIKE), ("pieces", SMALL_IS_FAST)):
        keep(speeds, tmp_path / name, monkeypatch)
        bench = opened(150, halo, backend, precision)
        assert isinstance(bench.inference.backend, WindowedBackend) == (name == "pieces")
        tiles.append(
            [
                bench.enlarge_core(lr[grid.window(t).index], grid.core(t), grid.window(t), halo)
                for t in grid
            ]
        )
    for whole, pieces in zip(*tiles, strict=True):
        np.testing.assert_array_equal(pieces, whole)


def test_interpolation_is_neither_measured_nor_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = make_spec("bicubic-x2", tile_px=512, halo="auto", precision="fp32", device="cpu")
    bench = open_workbench(ModelAddress(name_or_file="bicubic-x2", device="cpu"), spec)
    assert bench.inference.backend.name == "torch"
    assert not isinstance(bench.inference.backend, WindowedBackend)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_jobs_of_tiles_and_stacks_have_the_same_bytes_on_machines_with_other_windows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photo: TakePhoto,
    save: SavePicture,
    upres: Command,
    digest: Digest,
) -> None:
    source = tmp_path / "pictures"
    save(source / "large.png", photo(170, 230))
    save(source / "deep.tif", photo(140, 150, 1, "uint16"))
    save(source / "alpha.png", photo(150, 150, 4))
    for n in range(6):
        save(source / f"faces/{n}.png", photo(70, 60, at=30 * n))
    words = ("--model", MODEL, "--tile", 128, "--device", "cpu", "--workers", 1, "--json")
    digests = []
    for name, speeds in (("whole", ALIKE), ("pieces", SMALL_IS_FAST)):
        keep(speeds, tmp_path / "cache" / name, monkeypatch)
        kept = digest(tmp_path / "cache" / name)["upres/speeds.json"]
        said = upres("upscale", source, tmp_path / name, *words)
        assert (said.code, said.document["units"]["failed"]) == (0, 0), said.err
        assert said.document["computed_units"] > 6
        digests.append(digest(tmp_path / name / "sr.zarr"))
        # The worker found its speeds there: it would have added others.
        assert digest(tmp_path / "cache" / name)["upres/speeds.json"] == kept
    assert digests[0] == digests[1]
    # What one machine began another goes on with: nothing is computed again.
    again = upres("upscale", source, tmp_path / "whole", *words)
    assert (again.code, again.document["computed_units"]) == (0, 0)


@pytest.mark.slow
def test_a_run_without_a_home_that_can_be_written_ends_as_any_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photo: TakePhoto,
    save: SavePicture,
    upres: Command,
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save(tmp_path / "pictures/a.png", photo(40, 50))
    words = ("--model", MODEL, "--device", "cpu", "--workers", 1, "--json")
    said = upres("upscale", tmp_path / "pictures", tmp_path / "job", *words)
    assert (said.code, said.document["units"]["done"]) == (0, 1), said.err
