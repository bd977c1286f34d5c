"""A network that returns NaN: in bf16 its tile is done again in fp32, in fp32 it has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from models.checkpoint import to_bytes
from models.span import Span
from models.spec import ModelSpec
from pipeline.compute.inference import resolve_precision
from pipeline.geometry import TileGrid
from pipeline.storage.archive import Archive

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import Command, Digest, SavePicture, TakePhoto

TILE = 32
GRID = TileGrid(2 * TILE, 2 * TILE, TILE, 0)
CANCELS = (1 + 2**-8 + 2**-12, -1.0, -(2**-8) - 2**-12)
"""Their sum is zero, but not once each was rounded to bf16."""
ADDS_UP = (1.0, 0.0, 0.0)

needs_bf16 = pytest.mark.skipif(
    resolve_precision("auto", device="cpu") != "bf16", reason="this CPU does not compute in bf16"
)


def checkpoint(path: Path, white: tuple[float, float, float]) -> Path:
    """Write a network that is finite everywhere but at white pixels.

    Three features are 1e5 there and 0 elsewhere; what `white` weighs them to is multiplied until
    anything but zero overflows.
    """
    network = Span(scale=2, features=4)
    weights = dict(network.named_parameters())
    with torch.no_grad():
        for parameter in weights.values():
            parameter.zero_()
        weights["head.weight"][0, 0, 1, 1] = 1.0
        weights["blocks.0.conv1.weight"][:3, 0, 1, 1] = 2e6
        weights["blocks.0.conv1.bias"][:3] = -0.45 * 2e6
        weights["blocks.0.conv2.weight"][0, :3, 1, 1] = torch.tensor(white)
        weights["blocks.0.conv3.weight"][0, 0, 1, 1] = 3e36
        # Beside it a sharpening, which bf16 rounds otherwise than fp32 does.
        weights["head.weight"][3, 1, 1, 1] = 1.0
        weights["join.weight"][3, 3] = 1.0
        weights["enlarge.weight"][:, 3, 1, 1] = 0.3
    spec = ModelSpec(
        name=path.stem, architecture="span", scale=2, channels=3, arguments={"features": 4}
    )
    path.write_bytes(to_bytes(spec, network.state_dict()))
    return path


@pytest.fixture
def pictures(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """Two pictures of four tiles; of the second one, only the window of tile 0 holds white."""
    for n in range(2):
        pixels = np.minimum(photo(2 * TILE, 2 * TILE, at=n * 40), 220)
        pixels[:, 4, 5] = 255 if n else 0
        save(tmp_path / "pictures" / f"{n}.png", pixels)
    return tmp_path / "pictures"


def tile_of(job: Path, item: str, tile: int) -> NDArray[Any]:
    return Archive.open(job / "sr.zarr").image(item).read(GRID.core(tile).scaled(2))


@needs_bf16
def test_a_tile_that_is_nan_in_bf16_alone_is_done_in_fp32(
    pictures: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    model = checkpoint(tmp_path / "rounds.safetensors", CANCELS)
    for precision in ("bf16", "fp32"):
        words = ("--model", model, "--tile", TILE, "--device", "cpu", "--precision", precision)
        said = upres("upscale", pictures, tmp_path / precision, *words, *cluster, "--json")
        assert (said.code, said.document["units"]["done"]) == (0, 8)
    same = {
        (item, tile): np.array_equal(
            tile_of(tmp_path / "bf16", item, tile), tile_of(tmp_path / "fp32", item, tile)
        )
        for item in ("0.png", "1.png")
        for tile in GRID
    }
    # The others were left as bf16 gave them.
    assert [unit for unit, equal in same.items() if equal] == [("1.png", 0)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=needs_bf16), "fp32"])
def test_a_tile_that_is_nan_in_fp32_has_failed_until_another_model_does_it(
    precision: str,
    pictures: Path,
    tmp_path: Path,
    upres: Command,
    cluster: tuple[str, str],
    digest: Digest,
) -> None:
    job, good = tmp_path / "job", ("--model", "bicubic-x2")
    words = ("--tile", TILE, "--device", "cpu", "--precision", precision, *cluster, "--json")
    model = checkpoint(tmp_path / "overflows.safetensors", ADDS_UP)
    said = upres("upscale", pictures, job, "--model", model, *words)
    assert (said.code, said.document["units"]) == (3, {"done": 7, "failed": 1, "pending": 0})
    told = upres("status", job, "--json")
    assert told.code == 3
    (failure,) = told.document["failures"]
    assert (failure["item"], failure["tile"], failure["error"]) == ("1.png", 0, "NotFiniteError")
    assert "NaN or infinity in fp32" in failure["message"]
    before = digest(job / "sr.zarr")
    assert "1.png/0/c/0/0/1" in before
    assert "1.png/0/c/0/0/0" not in before
    again = upres("rerun", job, *cluster, "--json")
    assert (again.code, again.document["computed_units"]) == (3, 0)
    assert digest(job / "sr.zarr") == before
    mended = upres("rerun", job, "--stale", *good, *cluster, "--json")
    assert (mended.code, mended.document["computed_units"]) == (0, 8)
    upres("upscale", pictures, tmp_path / "undisturbed", *good, *words)
    assert digest(job / "sr.zarr") == digest(tmp_path / "undisturbed" / "sr.zarr")
