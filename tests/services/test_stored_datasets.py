"""Datasets in a real object store: SeaweedFS, behind a server that fails as networks do."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.services.databases import PASSWORD
from tests.services.nights import ROOT, UPRES
from tests.services.stores import (
    KEY_ID,
    SECRET,
    Bucket,
    Front,
    HeldBack,
    away_from,
    contents,
    every,
    unread_below,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Begun, Command, Said, SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]

RECIPE = """
name = "small"
scale = 2
channels = 3
seed = 7
architecture = "span"
arguments = { features = 4 }
steps = 40
batch = 8
window_chunks = 1
validate_every = 20
validation_patches = 2
precision = "fp32"

[prepare]
extract = "grid"
patch_hr_px = 16
stride_px = 8
degradations = [{ name = "bicubic" }, { name = "noise" }]
split = { validation = 0.25, test = 0.25 }
"""
OWN = "about/ledger.json"
"""What only a dataset in a bucket has."""


class Prepare(Protocol):
    def __call__(self, source: object, dataset: object, *words: object) -> Said: ...


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def prepare(
    upres: Command, store_workers: tuple[str, str], recipe: Path, tmp_path: Path
) -> Prepare:
    """Prepare by the small recipe; the ledger of what is in a bucket is a file."""

    def run(source: object, dataset: object, *words: object) -> Said:
        given = ("prepare", source, dataset, "--recipe", recipe, *store_workers, "--json")
        ledger = ledger_at(tmp_path) if str(dataset).startswith("s3:") else ()
        return upres(*given, *(() if "--ledger" in words else ledger), *words)

    return run


def ledger_at(tmp_path: Path) -> tuple[str, str]:
    return "--ledger", f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"


@pytest.fixture
def pictures(begun: Begun, prepare: Prepare, photo: TakePhoto, save: SavePicture) -> Path:
    """Pictures that give more patches than a chunk holds; the dataset of them is beside them."""

    def make(folder: Path) -> None:
        for n, name in enumerate(("a.png", "b/ü b#1%.png", "c.png", "d.png")):
            save(folder / "in" / name, photo(144, 160, at=60 * n))
        (folder / "in" / "notes.txt").write_text("not a picture")
        assert prepare(folder / "in", folder / "set").code == 0

    return begun.as_made_by(make) / "in"


@pytest.fixture
def set_on_disk(pictures: Path) -> Path:
    """The same dataset on a local disk."""
    return pictures.parent / "set"


@pytest.fixture
def on_disk(set_on_disk: Path) -> dict[str, bytes]:
    """The files of the same dataset on a local disk."""
    return contents(set_on_disk)


def stored(place: object) -> dict[str, bytes]:
    return {name: content for name, content in contents(place).items() if name != OWN}


def test_a_dataset_in_a_bucket_has_the_bytes_of_one_on_a_disk(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], set_on_disk: Path, tmp_path: Path,
    postgresql: str, prepare: Prepare, upres: Command, monkeypatch: pytest.MonkeyPatch,
    photo: TakePhoto, store_workers: tuple[str, str], save: SavePicture,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    photos, place = bucket / "photos", bucket / "night/set"
    first = prepare(photos, place, "--ledger", postgresql)
    assert first.code == 0, first.err
    assert first.document["computed_units"] > 1
    assert stored(place) == on_disk

    everything = b"".join(contents(place).values())
    for secret in (SECRET, KEY_ID, PASSWORD, PASSWORD.replace(" ", "%20"), "127.0.0.1:8333"):
        assert secret.encode() not in everything
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    again = upres("prepare", photos, place, "--json", *store_workers)
    assert (again.code, again.document["computed_units"]) == (0, 0), again.err

    here, there = upres("status", set_on_disk, "--json"), upres("status", place, "--json")
    assert there.document == here.document | {"job": str(place)}
    assert upres("report", place).out.strip() == f"{place}/about/report.html"
    for source, out in ((set_on_disk, "out"), (place, "stored")):
        said = upres("export", source, tmp_path / out, *store_workers)
        assert said.code == 0, said.err
    assert contents(tmp_path / "stored") == contents(tmp_path / "out")

    save(pictures / "e.png", photo(144, 160, at=300))
    bucket.put(pictures, "photos")
    assert prepare(pictures, set_on_disk).code == 0
    assert prepare(photos, place, "--ledger", postgresql, "--check").code == 0
    assert stored(place) == contents(set_on_disk)


@pytest.mark.parametrize("faults", [("503",), ("reset", "half")])
def test_a_store_that_fails_every_third_request_gives_the_same_bytes(
    faults: tuple[str, ...], bucket: Bucket, pictures: Path, on_disk: dict[str, bytes],
    prepare: Prepare, front: Front,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    front.failed, front.fault = 0, every(3, *faults)
    said = prepare(bucket / "photos", bucket / "set")
    assert said.code == 0, said.err
    assert front.failed > 30
    front.fault = every(10**9, "")
    assert stored(bucket / "set") == on_disk


def test_a_store_that_is_away_for_longer_than_is_waited_leaves_failures_that_the_next_run_mends(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], recipe: Path, tmp_path: Path,
    upres: Command, front: Front, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    monkeypatch.setenv("UPRES_STORE_PATIENCE", "1.5")
    words = ("prepare", bucket / "photos", bucket / "set", "--recipe", recipe, "--workers", 1,
             "--json", *ledger_at(tmp_path))  # fmt: skip
    front.fault = away_from("/set/hr", seconds=8)
    said = upres(*words)
    assert said.code in (1, 3), said.err
    assert "does not answer" in said.err
    front.fault = every(10**9, "")
    again = upres(*words)
    assert again.code == 0, again.err
    assert again.document["computed_units"] > 0
    assert stored(bucket / "set") == on_disk


def test_nobody_waits_picture_after_picture_for_a_source_that_is_gone(
    bucket: Bucket, pictures: Path, recipe: Path, tmp_path: Path, upres: Command, front: Front,
    monkeypatch: pytest.MonkeyPatch, photo: TakePhoto, save: SavePicture,
) -> None:  # fmt: skip
    for n in range(200):
        save(pictures / f"more/{n:03}.png", photo(16, 20, at=n))
    bucket.put(pictures, "photos")
    monkeypatch.setenv("UPRES_STORE_PATIENCE", "1")
    words = ("prepare", bucket / "photos", tmp_path / "here", "--recipe", recipe, "--workers", 1,
             "--json")  # fmt: skip
    front.fault = unread_below("/photos/")
    said = upres(*words)
    assert (said.code, said.out) == (1, ""), said.err
    assert "nothing but failures for" in said.err.splitlines()[-1]
    front.fault = every(10**9, "")
    again = upres(*words)
    assert again.code in (0, 3), again.err
    assert again.document["computed_units"] > 0


def test_a_run_that_is_killed_frees_its_dataset_and_the_next_one_writes_the_same_bytes(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], recipe: Path, tmp_path: Path,
    prepare: Prepare, front: Front,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    words = ("prepare", bucket / "photos", bucket / "set", "--recipe", recipe, "--workers", 1,
             *ledger_at(tmp_path))  # fmt: skip
    for stop_after in (3, 12, 20):
        held = HeldBack(stop_after - 1, lambda method, path: method == "PUT" and "/set/" in path)
        front.fault = held
        process = subprocess.Popen(
            [*UPRES, *map(str, words)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "UPRES_STORE_PATIENCE": "3600"},
            stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        held.wait_for(stop_after, process)
        if stop_after == 12:
            busy = prepare(bucket / "photos", bucket / "set")
            assert (busy.code, busy.err.count("\n")) == (1, 1)
            assert f"is held by upres prepare (pid {process.pid} on " in busy.err
        process.send_signal(signal.SIGKILL)
        process.communicate()
        held.released.set()
    front.fault = every(10**9, "")
    said = prepare(bucket / "photos", bucket / "set")
    assert said.code == 0, said.err
    assert stored(bucket / "set") == on_disk


def test_a_store_that_refuses_to_show_patches_does_not_lose_them(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], prepare: Prepare, front: Front
) -> None:
    bucket.put(pictures, "photos")
    assert prepare(bucket / "photos", bucket / "set").code == 0
    # Nothing could be made again.
    (bucket / "photos").remove_below()
    bucket.put(pictures / "b", "photos/b")
    for hidden in ("/hr/c.0.0.0.0", "/identity/c.0", "/manifest/0.json", "/set/zarr.json"):
        front.fault = lambda _n, method, path, hidden=hidden: (
            "403" if method in ("GET", "HEAD") and path.endswith(hidden) else ""
        )
        said = prepare(bucket / "photos", bucket / "set", "--check")
        assert said.code in (1, 3), hidden
        assert "refuses the credentials" in said.err, hidden
        front.fault = every(10**9, "")
        now = stored(bucket / "set")
        assert {n: c for n, c in now.items() if "/c." in n} == {
            n: c for n, c in on_disk.items() if "/c." in n
        }, hidden


def test_pairs_and_archives_of_a_bucket_are_prepared_as_those_of_a_disk(
    bucket: Bucket, photo: TakePhoto, save: SavePicture, tmp_path: Path, prepare: Prepare,
    upres: Command, store_workers: tuple[str, str],
) -> None:  # fmt: skip
    for n in range(3):
        hr = photo(96, 128, at=40 * n)
        save(tmp_path / "hr" / f"{n}.png", hr)
        save(tmp_path / "lr" / f"{n}x2.png", hr[:, ::2, ::2])
    for name in ("hr", "lr"):
        bucket.put(tmp_path / name, name)
    here = prepare(tmp_path / "hr", tmp_path / "pairs", "--lr", f"given={tmp_path / 'lr'}")
    there = prepare(bucket / "hr", bucket / "pairs", "--lr", f"given={bucket / 'lr'}")
    assert (here.code, there.code) == (0, 0), here.err + there.err
    assert there.document["lr_versions"] == ["bicubic", "noise", "given"]
    assert stored(bucket / "pairs") == contents(tmp_path / "pairs")

    archive = bucket / "lr.zarr"
    ledger = f"sqlite:///{tmp_path / 'archive.sqlite'}"
    assert upres("ingest", tmp_path / "hr", archive, "--ledger", ledger, *store_workers).code == 0
    assert prepare(archive, tmp_path / "of-archive").code == 0
    assert prepare(tmp_path / "hr", tmp_path / "of-files").code == 0
    assert contents(tmp_path / "of-archive") == contents(tmp_path / "of-files")


def test_a_training_reads_from_a_bucket_what_it_reads_from_a_disk(
    bucket: Bucket, set_on_disk: Path, recipe: Path, tmp_path: Path, upres: Command, front: Front
) -> None:
    """In its own process, and in one that reads for it."""
    bucket.put(set_on_disk, "set")
    words = ("--recipe", recipe, "--memory", "disk", "--json")
    here = upres("train", set_on_disk, "--out", tmp_path / "here", "--readers", 1, *words)
    assert here.code == 0, here.err
    for readers in (0, 1):
        out = tmp_path / f"there {readers}"
        front.requests.clear()
        front.failed, front.fault = 0, every(3, "503", "half")
        there = upres("train", bucket / "set", "--out", out, "--readers", readers, *words)
        assert there.code == 0, there.err
        assert there.document["dataset"] == str(bucket / "set")
        assert front.failed > 5
        # A shard is fetched whole, and not again while it is kept.
        assert front.requests["GET"] < 200
        trained = (out / "last.safetensors").read_bytes()
        assert trained == (tmp_path / "here/last.safetensors").read_bytes()
        written = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
        assert SECRET.encode() not in written
    front.fault = every(10**9, "")
    measured = upres("evaluate", out / "last.safetensors", bucket / "set", "--json")
    assert measured.code == 0, measured.err


def test_a_training_never_waits_for_a_bucket(
    bucket: Bucket, set_on_disk: Path, recipe: Path, tmp_path: Path, upres: Command
) -> None:
    bucket.put(set_on_disk, "set")
    words = ("--recipe", recipe, "--memory", "disk", "--set", "steps=200", "--set", "batch=16")

    def waiting_share(out: str) -> float:
        said = upres("train", bucket / "set", "--out", tmp_path / out, *words)
        assert said.code == 0, said.err
        with (tmp_path / out / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        first, last = rows[0], rows[-1]
        # Before the first row, the process that reads was started.
        waited = float(last["waiting_s"]) - float(first["waiting_s"])
        return waited / (float(last["seconds"]) - float(first["seconds"]))

    # Where other programs have the cores, it is the reading process that has to wait.
    shares = (waiting_share(f"run {turn}") for turn in range(3))
    assert any(share < 0.05 for share in shares)


def told(said: Said, code: int, *words: str) -> None:
    """One line, with these words and no secret, on stderr alone."""
    assert (said.code, said.out, said.err.count("\n")) == (code, "", 1), said.err
    for word in words:
        assert word in said.err
    for secret in (SECRET, "127.0.0.1", PASSWORD):
        assert secret not in said.err


def test_what_cannot_be_is_told_in_a_line_within_ten_seconds(
    bucket: Bucket, pictures: Path, recipe: Path, tmp_path: Path, upres: Command, prepare: Prepare,
    front: Front, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    photos, place = bucket / "photos", bucket / "set"
    bare = ("--recipe", recipe)
    told(upres("prepare", photos, place, *bare), 2, "cannot hold the ledger", "--ledger")
    told(upres("prepare", photos, tmp_path / "set", *bare, *ledger_at(tmp_path)), 2, "beside it")
    nowhere = f"sqlite:///{tmp_path / 'no' / 'such.sqlite'}"
    told(upres("prepare", photos, place, *bare, "--ledger", nowhere), 2, "is not a folder")
    told(prepare(photos, photos / "set"), 2, "is in the source")
    told(prepare(photos, f"s3://{place.bucket}"), 2, "whole bucket")
    told(prepare(photos, "s3://no-such-bucket/set"), 2, "no bucket 'no-such-bucket'")
    told(prepare("s3://no-such-bucket/photos", place), 2, "no bucket 'no-such-bucket'")
    told(prepare(photos, place, "--lr", "x=s3://no-such-bucket/x"), 2, "no bucket")
    missing = "s3://no-such-bucket/set"
    told(upres("train", missing, "--out", tmp_path / "run", *bare), 2, "no bucket")
    assert prepare(photos, place).code == 0
    other = ("--ledger", f"sqlite:///{tmp_path / 'another.sqlite'}")
    told(upres("prepare", photos, place, *other), 2, "has its ledger at ")
    told(upres("export", place, bucket / "out"), 2, "expected a local path")
    assert upres("prepare", photos, bucket / "preview", *bare, "--preview").code == 0
    assert not (bucket / "preview").exists()
    assert (bucket / "preview.preview.png").read_bytes()[:4] == b"\x89PNG"
    # A dataset among pictures is never read as some.
    both = prepare(bucket.place, tmp_path / "all")
    assert both.code == 0, both.err
    assert both.document["files_left_out"]["of_upres"] == 1

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    # What waits for a store that does not answer has to know that it is the first look.
    monkeypatch.setenv("UPRES_STORE_PATIENCE", "3600")
    for words in (("status", place), ("report", place), ("export", place, tmp_path / "out"),
                  ("train", place, "--out", tmp_path / "run", *bare),
                  ("prepare", photos, place)):  # fmt: skip
        began = time.monotonic()
        told(upres(*words), 1, "does not answer")
        assert time.monotonic() - began < 10
