"""Strips of stored images: the picture, whatever its chunks, and no more of it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.errors import ArchiveError
from pipeline.jobs.export.stored_strips import StoredStrips
from pipeline.storage.archive import Archive
from pipeline.storage.image import Layout

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.image import StoredImage


def stored(folder: Path, shape: tuple[int, int, int], shard_px: int) -> StoredImage:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    _, height, width = shape
    return Archive.open_or_create(folder).create(
        "a",
        shape=shape,
        dtype="uint8",
        layout=Layout.of(height=height, width=width, shard_px=shard_px),
        provenance={},
        pixels=pixels,
    )


@pytest.mark.parametrize("shard_px", [60, 100, 1024])
@pytest.mark.parametrize("shape", [(3, 530, 37), (1, 90, 600), (4, 1, 5)])
@pytest.mark.parametrize("most_bytes", [7_000, 60_000, 1 << 30])
def test_strips_are_the_picture_and_none_is_larger_than_allowed(
    shard_px: int,
    shape: tuple[int, int, int],
    most_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.jobs.export.stored_strips._STRIP_BYTES", most_bytes)
    monkeypatch.setattr("pipeline.jobs.export.stored_strips._READ_BYTES", most_bytes)
    strips = StoredStrips(stored(tmp_path / "a.zarr", shape, shard_px))
    parts = list(strips)
    assert np.array_equal(
        np.concatenate(parts, axis=1),
        np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    )
    row_bytes = shape[0] * shape[2]
    assert all(part.nbytes <= max(most_bytes, row_bytes) for part in parts)
    if most_bytes == 1 << 30:
        assert len(parts) == -(-shape[1] // strips.image.chunk_px[0])


def test_a_shard_that_is_missing_is_an_error_at_its_strip(tmp_path: Path) -> None:
    image = stored(tmp_path / "a.zarr", (1, 300, 100), 100)
    next((tmp_path / "a.zarr").rglob("c/0/1/0")).unlink()
    strips = iter(StoredStrips(image))
    assert next(strips).shape == (1, 100, 100)
    with pytest.raises(ArchiveError, match="rows 100-200"):
        next(strips)
