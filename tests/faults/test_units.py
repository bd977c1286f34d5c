"""Faults in units: after each, the status is true, the next run completes, and no pixel differs."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pipeline.compute.inference
from pipeline.compute.worker import on_every_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from tests.conftest import Digest, SavePicture, TakePhoto, Upscale

MARK = 201
"""A tile that begins with a pixel of this value is the one that a fault strikes."""

Fault = Any


def _strike(kind: str) -> Callable[[], None]:
    """Return what makes a worker's network fail at the marked tile in the way of `kind`."""

    def install() -> None:
        original = pipeline.compute.inference.Inference.enlarge_batch

        def enlarge_batch(self: Any, windows: Any) -> Any:
            marked = bool((windows[:, 0, 0, 0] == MARK).any())
            if marked and kind == "hang":
                time.sleep(600)
            if marked and kind == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if marked and kind == "raise":
                raise RuntimeError("struck\nwith a second line")
            if kind == "memory" and windows[:, 0].size > 400:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            if kind == "memory always":
                raise MemoryError
            return original(self, windows)

        type.__setattr__(pipeline.compute.inference.Inference, "enlarge_batch", enlarge_batch)
        pipeline.compute.inference.Inference.unstruck = original

    return install


def _mend() -> None:
    original = getattr(pipeline.compute.inference.Inference, "unstruck", None)
    if original is not None:
        type.__setattr__(pipeline.compute.inference.Inference, "enlarge_batch", original)


@pytest.fixture
def strike(client: Client) -> Iterator[Callable[[str], None]]:
    """Make the network of every worker, and of those that replace it, fail in some way."""

    def install(kind: str) -> None:
        on_every_worker(client, "fault", _strike(kind))

    yield install
    on_every_worker(client, "fault", _mend)


@pytest.fixture
def pictures(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """Three pictures of several tiles; the second tile of the second one is marked."""
    for n in range(3):
        pixels = photo(40, 70, at=n * 40)
        pixels[pixels == MARK] = MARK - 1
        if n == 1:
            # The window of tile 1 begins two pixels (bicubic's reach) before its core.
            pixels[0, 0, 30] = MARK
        save(tmp_path / "pictures" / f"{n}.png", pixels)
    return tmp_path / "pictures"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("raise", "RuntimeError", "struck"),
        ("crash", "WorkerError", "died"),
        ("hang", "WorkerError", "time limit"),
    ],
)
def test_a_struck_unit_is_recorded_and_the_next_run_completes_byte_for_byte(
    kind: str,
    error: str,
    words: str,
    pictures: Path,
    tmp_path: Path,
    upscale: Upscale,
    strike: Callable[[str], None],
    client: Client,
    digest: Digest,
) -> None:
    undisturbed = upscale(pictures, tmp_path / "undisturbed")
    strike(kind)
    struck = upscale(pictures, tmp_path / "job", limit_s=3.0 if kind == "hang" else 60.0)
    assert [(f.item, f.tile, f.error) for f in struck.status.failures] == [("1.png", 1, error)]
    assert words in struck.status.failures[0].message
    assert "\n" not in struck.status.failures[0].message
    assert struck.status.units["done"] == undisturbed.computed - 1
    assert not (tmp_path / "job" / "sr.zarr" / "1.png" / "0" / "c" / "0" / "0" / "1").exists()
    on_every_worker(client, "fault", _mend)
    mended = upscale(pictures, tmp_path / "job")
    assert mended.computed == 1
    assert mended.status.complete
    assert digest(tmp_path / "job" / "sr.zarr") == digest(tmp_path / "undisturbed" / "sr.zarr")


@pytest.mark.parametrize("tile_px", [32, 128], ids=["tiles", "whole pictures"])
def test_a_window_that_memory_does_not_hold_is_halved_to_the_same_pixels(
    tile_px: int,
    pictures: Path,
    tmp_path: Path,
    upscale: Upscale,
    strike: Callable[[str], None],
    digest: Digest,
) -> None:
    upscale(pictures, tmp_path / "undisturbed", tile_px=tile_px)
    strike("memory")
    assert upscale(pictures, tmp_path / "job", tile_px=tile_px).status.complete
    assert digest(tmp_path / "job" / "sr.zarr") == digest(tmp_path / "undisturbed" / "sr.zarr")


def test_memory_that_holds_nothing_at_all_is_a_failure_that_says_so(
    pictures: Path, tmp_path: Path, upscale: Upscale, strike: Callable[[str], None]
) -> None:
    strike("memory always")
    struck = upscale(pictures, tmp_path / "job")
    assert struck.status.units["done"] == 0
    assert {f.error for f in struck.status.failures} == {"MemoryError"}
    assert "does not fit" in struck.status.failures[0].message


def test_a_lost_ledger_is_rebuilt_and_nothing_is_computed_again(
    pictures: Path, tmp_path: Path, upscale: Upscale
) -> None:
    first = upscale(pictures, tmp_path / "job")
    for path in (tmp_path / "job").glob("ledger.sqlite*"):
        path.unlink()
    again = upscale(pictures, tmp_path / "job")
    assert again.computed == 0
    assert again.status.units == first.status.units


def test_a_lost_ledger_beside_a_damaged_shard_computes_that_shard_again(
    pictures: Path,
    tmp_path: Path,
    upscale: Upscale,
    digest: Digest,
) -> None:
    upscale(pictures, tmp_path / "job")
    whole = digest(tmp_path / "job" / "sr.zarr")
    for path in (tmp_path / "job").glob("ledger.sqlite*"):
        path.unlink()
    shard = tmp_path / "job" / "sr.zarr" / "1.png" / "0" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    again = upscale(pictures, tmp_path / "job")
    assert again.computed == 1
    assert digest(tmp_path / "job" / "sr.zarr") == whole


def test_a_missing_source_shard_is_a_failure_and_never_black_pixels(
    pictures: Path, tmp_path: Path, upscale: Upscale, client: Client
) -> None:
    upscale(pictures, tmp_path / "job")
    (tmp_path / "job" / "source.zarr" / "2.png" / "0" / "c" / "0" / "0" / "0").unlink()
    again = upscale(pictures, tmp_path / "job", tile_px=24)
    failed = {f.item for f in again.status.failures}
    assert failed == {"2.png"}
    assert "missing" in again.status.failures[0].message
    assert np.all([f.error == "ArchiveError" for f in again.status.failures])
