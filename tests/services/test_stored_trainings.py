"""Trainings whose results are in a real object store: SeaweedFS, which fails as networks do."""

from __future__ import annotations

import csv
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import JobBusyError
from pipeline.storage.claims import Claim, claiming
from pipeline.storage.store import BucketPlace
from tests.services.nights import ROOT, UPRES
from tests.services.stores import SECRET, Bucket, Front, HeldBack, away_from, contents, every
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Begun, Command, SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]

RECIPE = """
name = "small"
scale = 2
channels = 3
seed = 7
architecture = "span"
arguments = { features = 4 }
steps = 12
batch = 4
checkpoint_every = 3
validate_every = 4
validation_patches = 2
precision = "fp32"

[prepare]
extract = "grid"
patch_hr_px = 16
stride_px = 16
degradations = [{ name = "bicubic" }]
split = { validation = 0.25 }
"""
STATE = "state.safetensors"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def dataset(
    begun: Begun,
    upres: Command,
    recipe: Path,
    photo: TakePhoto,
    save: SavePicture,
    store_workers: tuple[str, str],
) -> Path:
    """Patches on a local disk, and beside them what a training there leaves."""

    def make(folder: Path) -> None:
        for n in range(4):
            save(folder / "in" / f"{n}.png", photo(64, 64, at=60 * n))
        words = ("--recipe", recipe)
        assert upres("prepare", folder / "in", folder / "set", *words, *store_workers).code == 0
        assert upres("train", folder / "set", "--out", folder / "run", *words).code == 0

    return begun.as_made_by(make) / "set"


def lasting(place: object) -> dict[str, bytes]:
    """What a training leaves that says neither when nor where it ran."""
    files = contents(place)
    own = {name: one for name, one in files.items() if not name.startswith("events/")}
    return {n: c for n, c in own.items() if n not in ("metrics.csv", "curves.png", "train.lock")
            and n != STATE}  # fmt: skip


def figures(place: object) -> list[dict[str, str]]:
    rows = list(csv.DictReader(contents(place)["metrics.csv"].decode().splitlines()))
    return [{k: v for k, v in row.items() if k not in ("seconds", "waiting_s")} for row in rows]


def events(place: object, folder: Path) -> list[int]:
    """Return the steps that TensorBoard shows."""
    folder.mkdir()
    for name, content in contents(place).items():
        if name.startswith("events/"):
            (folder / name.rpartition("/")[2]).write_bytes(content)
    found = EventAccumulator(str(folder))
    found.Reload()
    return [one.step for one in found.Scalars("psnr_y")]


def words_of(dataset: Path, out: object, recipe: Path, *words: object) -> list[str]:
    given = ("train", dataset, "--out", out, "--recipe", recipe, "--json", *words)
    return list(map(str, given))


@pytest.fixture
def held(front: Front) -> Iterator[HeldBack]:
    """The third state of a training on its way to the store."""
    held = HeldBack(2, lambda method, path: method == "PUT" and path.endswith(STATE))
    front.fault = held
    yield held
    held.released.set()


def started(words: list[str], cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*UPRES, *words],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "UPRES_STORE_PATIENCE": "3600",
            "XDG_CACHE_HOME": str(cache),
        },
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_training_leaves_in_a_bucket_what_it_leaves_on_a_disk(
    bucket: Bucket, dataset: Path, recipe: Path, tmp_path: Path,
    upres: Command, front: Front,
) -> None:  # fmt: skip
    out, here = bucket / "trained/first", dataset.parent / "run"
    front.failed, front.fault = 0, every(3, "503", "reset", "half")
    said = upres(*words_of(dataset, out, recipe))
    front.fault = every(10**9, "")
    assert said.code == 0, said.err
    assert said.document["model"] == f"{out}/best.safetensors"
    assert front.failed > 10
    assert lasting(out) == lasting(here)
    assert {"samples/00000012.png", "checkpoints/00000012.safetensors"} <= lasting(out).keys()
    assert figures(out) == figures(here)
    assert events(out, tmp_path / "events") == [4, 8, 12]
    assert SECRET.encode() not in b"".join(contents(out).values())

    done = upres(*words_of(dataset, out, recipe))
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert f"{out} holds a training already; add --resume" in done.err
    longer = ("--resume", "--set", "steps=16")
    for place in (out, here):
        assert upres(*words_of(dataset, place, recipe, *longer)).code == 0
    assert lasting(out) == lasting(here)
    assert events(out, tmp_path / "longer") == [4, 8, 12, 16]


def test_two_trainings_never_write_into_one_place_of_a_bucket(
    bucket: Bucket, dataset: Path, recipe: Path, tmp_path: Path, upres: Command, front: Front,
    held: HeldBack, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On one machine the second is refused. Of two machines the later one goes on, from what the
    store has; the earlier one, which was held up meanwhile, ends and changes nothing."""
    out = bucket / "run"
    words = words_of(dataset, out, recipe)
    first = started(words, tmp_path / "cache")
    held.wait_for(3, first)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    busy = upres(*words, "--resume")
    assert (busy.code, busy.err.count("\n")) == (1, 1), busy.err
    assert f"{out} is held by upres train (pid {first.pid} on " in busy.err

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another machine"))
    lock = (out / "train.lock").read_bytes()
    refused = upres(*words, "--resume", "--set", "steps=1")
    assert (refused.code, "steps is 1" in refused.err) == (2, True), refused.err
    assert (out / "train.lock").read_bytes() == lock
    front.fault = every(10**9, "")
    second = upres(*words, "--resume")
    assert second.code == 0, second.err
    written = contents(out)
    held.released.set()
    output, error = first.communicate(timeout=PATIENCE_S)
    assert (first.returncode, output) == (1, b""), error
    assert f"{out} is held by upres train (pid {os.getpid()} on ".encode() in error
    # Nor did what was on its way when it was stopped.
    assert contents(out) == written
    assert lasting(out) == lasting(dataset.parent / "run")


def test_of_several_who_claim_a_place_only_the_last_one_keeps_what_it_stores(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = bucket / STATE

    @contextmanager
    def machine(name: str) -> Iterator[Claim]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        with claiming(bucket / "train.lock", bucket.place, "upres train", kept=kept) as claim:
            claim.take()
            yield claim

    with machine("a") as first:
        first.keep(b"1")
        # What is lost meanwhile, and claims nothing, is put again.
        kept.unlink()
        (bucket / "train.lock").unlink()
        first.check()
        first.keep(b"2")
        assert kept.read_bytes() == b"2"
        with machine("b") as second:
            first.keep(b"3")  # It was on its way before.
            second.keep(b"of the second")
            with pytest.raises(JobBusyError, match=r"is held by upres train \(pid"):
                first.keep(b"4")
            with pytest.raises(JobBusyError):
                first.check()
            second.check()
        assert kept.read_bytes() == b"of the second"


def test_a_training_whose_store_goes_away_ends_with_a_line_and_goes_on_later(
    bucket: Bucket, dataset: Path, recipe: Path, upres: Command, front: Front,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = bucket / "run"
    monkeypatch.setenv("UPRES_STORE_PATIENCE", "1.5")
    front.fault = away_from("/run/checkpoints", seconds=8)
    said = upres(*words_of(dataset, out, recipe))
    assert (said.code, said.out) == (1, ""), said.err
    assert "the store does not answer" in said.err.splitlines()[-1]
    front.fault = every(10**9, "")
    again = upres(*words_of(dataset, out, recipe, "--resume"))
    assert again.code == 0, again.err
    assert lasting(out) == lasting(dataset.parent / "run")


def test_what_cannot_be_trained_into_a_bucket_is_said_in_one_line(
    bucket: Bucket, dataset: Path, recipe: Path, upres: Command
) -> None:
    def told(code: int, message: str, *words: object) -> None:
        said = upres(*words)
        assert (said.code, said.out, said.err.count("\n")) == (code, "", 1), said.err
        assert message in said.err

    out = bucket / "run"
    pictures = dataset.parent / "in"
    told(2, "where no pictures are prepared; make a dataset", *words_of(pictures, out, recipe))
    told(2, "no bucket 'no-such-bucket'", *words_of(dataset, "s3://no-such-bucket/run", recipe))
    told(2, "cannot be resumed: it holds no", *words_of(dataset, out, recipe, "--resume"))
    (out / "recipe.toml").write_bytes(b'name = "by hand"\n')
    told(2, "was not written by a training", *words_of(dataset, out, recipe))
    (bucket / "pictures/a.png").write_bytes(b"one")
    told(2, "holds pictures, such as a.png", *words_of(dataset, bucket / "pictures", recipe))
    bucket.put(dataset, "set")
    told(2, "is a dataset; name another", *words_of(dataset, bucket / "set/run", recipe))
    assert contents(out).keys() == {"recipe.toml"}


def test_pages_are_written_into_a_bucket(
    bucket: Bucket, dataset: Path, upres: Command, tmp_path: Path, photo: TakePhoto,
    save: SavePicture,
) -> None:  # fmt: skip
    of_set, of_trial = bucket / "set.html", bucket / "trial.html"
    assert upres("report", dataset, "--out", of_set).out.strip() == str(of_set)
    save(tmp_path / "p.png", photo(48, 48))
    tried = upres("try", tmp_path / "p.png", "--scale", 2, "--out", of_trial)
    assert (tried.code, tried.out.strip()) == (0, str(of_trial)), tried.err
    for page, other in ((of_set, b"upres dataset</title>"), (of_trial, b"upres try</title>")):
        assert isinstance(page, BucketPlace)
        assert other in page.read_bytes()
        # Its own page is written again, one of somebody else's is not.
        page.write_bytes(b"<html>mine</html>")
    for words in (
        ("report", dataset, "--out", of_set),
        ("try", tmp_path / "p.png", "--out", of_trial),
    ):
        said = upres(*words)
        assert (said.code, said.err.count("\n")) == (1, 1), said.err
        assert "was not written by upres" in said.err
    for folder in (bucket.place, f"s3://{bucket.place.bucket}"):
        said = upres("report", dataset, "--out", folder)
        assert (said.code, said.err.count("\n")) == (2, 1), said.err
        assert ", expected a file; name one in it" in said.err
    said = upres("try", bucket / "p.png")
    assert (said.code, "is not on this machine" in said.err) == (2, True), said.err
    said = upres("report", dataset, "--out", "s3:/bucket/page.html")
    assert (said.code, "expected s3://BUCKET/PREFIX" in said.err) == (2, True), said.err
