"""JPEGs in a real object store: their LR is the file itself, and storing it takes few requests."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from pipeline.geometry import Rect, Span
from pipeline.storage.archive import Archive
from pipeline.storage.file_image import DECODED, FileImage
from pipeline.storage.image import Layout
from tests.services.stores import Bucket, Front, contents

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from tests.conftest import Command, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]

NAMES = ("a.jpg", "trips/b.jpg", "trips/c.jpg")
WORDS = ("--model", "bicubic-x2", "--tile", 64)


@pytest.fixture
def jpegs(tmp_path: Path, photo: TakePhoto) -> dict[str, bytes]:
    """JPEGs by their names, which are in a folder."""
    files = {}
    for n, name in enumerate(NAMES):
        file = io.BytesIO()
        pixels = np.moveaxis(photo(100, 120, at=30 * n), 0, 2)
        Image.fromarray(pixels).save(file, "JPEG", quality=80)
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(file.getvalue())
        files[name] = file.getvalue()
    return files


def forget_pictures() -> None:
    """Let go of the pictures that this process holds decoded."""
    DECODED.forget()


def test_the_lr_is_the_file_and_damage_of_it_is_a_failed_tile(
    jpegs: dict[str, bytes], bucket: Bucket, tmp_path: Path, upres: Command,
    client: Client, store_workers: tuple[str, str],
) -> None:  # fmt: skip
    archive, ledger = bucket / "lr.zarr", f"sqlite:///{tmp_path / 'l.sqlite'}"
    said = upres("ingest", tmp_path / "in", archive, "--ledger", ledger, *store_workers)
    assert said.code == 0, said.err
    forget_pictures()
    # The session's workers may hold these pictures from another test.
    client.run(forget_pictures)
    for name, data in jpegs.items():
        assert (archive / f"{name}/0/c/0/0/0").read_bytes() == data
        image = Archive.open(archive).image(name)
        assert isinstance(image, FileImage)
        assert image.read(Rect(Span(0, 100), Span(0, 120))).shape == (3, 100, 120)
    damaged = bytearray(jpegs["a.jpg"])
    damaged[-400] ^= 8
    (archive / "a.jpg/0/c/0/0/0").write_bytes(bytes(damaged))
    said = upres("upscale", archive, tmp_path / "job", *WORDS, "--json", *store_workers)
    assert (said.code, said.document["units"]["failed"]) == (3, 4)
    assert "is not what was ingested" in said.document["failures"][0]["message"]
    said = upres("upscale", tmp_path / "in", tmp_path / "local", *WORDS, *store_workers)
    assert said.code == 0, said.err
    some, others = (contents(tmp_path / job / "sr.zarr" / "trips") for job in ("job", "local"))
    assert {k: v for k, v in some.items() if "/c/" in k} == {
        k: v for k, v in others.items() if "/c/" in k
    }


def test_an_item_is_stored_by_few_requests_in_place_of_whatever_was_there(
    bucket: Bucket, front: Front, photo: TakePhoto
) -> None:
    place, pixels = bucket / "a.zarr", photo(40, 40)
    archive = Archive.open_or_create(place)

    def put(item: str) -> dict[str, int]:
        before = front.requests.copy()
        archive.create(
            item, shape=(3, 40, 40), dtype="uint8", provenance={"sha256": "0"}, pixels=pixels,
            layout=Layout.of(height=40, width=40, shard_px=64),
        )  # fmt: skip
        found = Archive.open(place).image(item).read(Rect(Span(0, 40), Span(0, 40)))
        assert np.array_equal(found, pixels)
        return dict(front.requests - before)

    put("one/a.png")
    # Two of the outer group, four of a picture; what reads it again takes the rest.
    assert put("one/b.png")["PUT"] == 4
    assert sum(put("one/c.png").values()) <= 20
    before = contents(place)
    (place / "one/c.png/0/c/0/0/7").write_bytes(b"left behind by another layout")
    put("one/c.png")
    assert contents(place) == before
