"""A run ends once its store fails everything for as long as one request is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.compute.silence import Silence
from pipeline.errors import StoreError
from pipeline.storage.store import BucketPlace, Place

BUCKET = BucketPlace("s3", "bucket", "job")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("pipeline.compute.silence.time.monotonic", lambda: now[0])
    monkeypatch.setenv("UPRES_STORE_PATIENCE", "60")
    return now


def hears(place: Place, clock: list[float], *heard: tuple[float, list[str]]) -> None:
    silence = Silence(Path("elsewhere"), place)
    for seconds, errors in heard:
        clock[0] += seconds
        silence.hear(errors)


def test_a_store_that_fails_everything_for_longer_than_its_patience_ends_the_run(
    clock: list[float],
) -> None:
    with pytest.raises(StoreError, match=r"s3://bucket: nothing but failures for 61 s") as caught:
        hears(
            BUCKET, clock, (0, ["StoreError"]), (59, ["UnreadableError"] * 9), (2, ["StoreError"])
        )
    assert "repeat the command once it works again" in str(caught.value)


@pytest.mark.parametrize("other", ["", "NotFiniteError"])
def test_a_unit_that_ends_otherwise_shows_that_the_store_is_there(
    other: str, clock: list[float]
) -> None:
    hears(BUCKET, clock, (0, ["StoreError"]), (59, ["StoreError", other]), (9, ["StoreError"]),
          (0, []), (59, ["StoreError"]))  # fmt: skip


def test_a_disk_is_never_taken_for_a_store_that_is_silent(clock: list[float]) -> None:
    hears(Path("job"), clock, (0, ["UnreadableError"]), (999, ["UnreadableError"]))
