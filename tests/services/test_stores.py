"""Jobs in a real object store: SeaweedFS, behind a server that fails as networks do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from platform import node
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.services.databases import PASSWORD
from tests.services.nights import ROOT, UPRES
from tests.services.stores import (
    SECRET,
    Bucket,
    Front,
    HeldBack,
    away_from,
    every,
    pixels,
    unread_below,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Begun, Command, Said, SavePicture, TakePhoto
    from tests.services.stores import SeaweedFS

pytestmark = [pytest.mark.services, pytest.mark.slow]

AWAY_S = 18
"""Longer than twenty tries take."""
TILES = ("--model", "bicubic-x2", "--tile", 32)


@pytest.fixture
def pictures(pictures: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """The pictures of all these tests, ones that share a mixed stack, and what is not a picture."""
    for n in range(17):
        save(pictures / "odd" / f"{n:02}.png", photo(10 + n, 60 - n, at=n))
    (pictures / "notes.txt").write_text("not a picture")
    return pictures


@pytest.fixture
def job_on_disk(
    begun: Begun, pictures: Path, upres: Command, store_workers: tuple[str, str]
) -> Path:
    """The same job on a local disk."""

    def make(folder: Path) -> None:
        said = upres("upscale", pictures, folder / "job", *TILES, *store_workers)
        assert said.code == 0, said.err

    return begun.as_made_by(make) / "job"


@pytest.fixture
def on_disk(job_on_disk: Path) -> dict[str, bytes]:
    """The pixels of the same job on a local disk."""
    return pixels(job_on_disk / "sr.zarr")


def ledger_at(tmp_path: Path) -> tuple[str, str]:
    return "--ledger", f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"


def test_a_job_in_a_bucket_has_the_bytes_of_one_on_a_disk(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], tmp_path: Path, postgresql: str,
    upres: Command, store_workers: tuple[str, str], monkeypatch: pytest.MonkeyPatch,
    front: Front, job_on_disk: Path,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    job, out = bucket / "night/job", bucket / "out"
    words = ("upscale", bucket / "photos", job, *TILES, "--ledger", postgresql, "--export", out,
             "--json", *store_workers)  # fmt: skip
    first = upres(*words)
    assert (first.code, first.document["computed_units"]) == (0, len(on_disk) + 0), first.err
    assert first.document["left_out"]["sidecars"] == 1
    assert pixels(job / "sr.zarr") == on_disk
    upres("export", job_on_disk, tmp_path / "out", *store_workers)
    assert pixels(out) == pixels(tmp_path / "out")

    # Nobody who reads the bucket learns a secret; the password comes from the environment now.
    described = (job / "job.json").read_text()
    assert PASSWORD not in described.replace("%20", " ")
    assert SECRET not in described
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    before = front.requests["GET"]
    again = upres(*words)
    assert (again.code, again.document["computed_units"]) == (0, 0)
    assert again.document["export"]["written"] == 0
    assert front.requests["GET"] > before  # It went through the server that counts.

    status = upres("status", job, "--json")
    assert status.document["items"] == first.document["items"]
    assert status.document["items"]["done"] == 36
    scored = upres("score", job, "--reference", bucket / "out", "--json", *store_workers)
    assert scored.code == 0, scored.err
    assert all("psnr_y" in item["infinite"] for item in scored.document["items"])
    assert upres("report", job).out.strip() == f"{job}/report.html"
    assert b"upres report</title>" in (job / "report.html").read_bytes()
    rerun = upres("rerun", job, "--json", *store_workers)
    assert (rerun.code, rerun.document["computed_units"]) == (0, 0)


def test_an_archive_in_a_bucket_is_made_and_upscaled_where_it_is(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], tmp_path: Path,
    upres: Command, store_workers: tuple[str, str],
) -> None:  # fmt: skip
    archive = bucket / "lr.zarr"
    refused = upres("ingest", pictures, archive, *store_workers)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--ledger" in refused.err
    said = upres("ingest", pictures, archive, *ledger_at(tmp_path), "--json", *store_workers)
    assert (said.code, said.document["items"]["done"]) == (0, 36), said.err
    said = upres("upscale", archive, tmp_path / "local", *TILES, *store_workers)
    assert said.code == 0, said.err
    assert pixels(tmp_path / "local" / "sr.zarr") == on_disk


@pytest.mark.parametrize("faults", [("503",), ("reset", "half")])
def test_a_store_that_fails_every_third_request_gives_the_same_bytes(
    faults: tuple[str, ...], bucket: Bucket, pictures: Path, on_disk: dict[str, bytes],
    tmp_path: Path, upres: Command, store_workers: tuple[str, str], front: Front,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    front.failed, front.fault = 0, every(3, *faults)
    said = upres("upscale", bucket / "photos", bucket / "job", *TILES, *ledger_at(tmp_path),
                 "--export", bucket / "out", *store_workers)  # fmt: skip
    assert said.code == 0, said.err
    assert front.failed > 50
    front.fault = every(10**9, "")
    assert pixels(bucket / "job/sr.zarr") == on_disk
    assert len(pixels(bucket / "out")) == 36


def test_a_store_that_is_away_for_some_seconds_only_makes_the_run_longer(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], tmp_path: Path, upres: Command,
    store_workers: tuple[str, str], front: Front,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    begins: list[float] = []

    def away(_number: int, method: str, path: str) -> str:
        if not begins and method == "PUT" and "sr.zarr" in path and "/c/" in path:
            begins.append(time.monotonic())
        gone_s = time.monotonic() - begins[0] if begins else AWAY_S
        return "reset" if gone_s < 2 else "503" if gone_s < AWAY_S else ""

    front.fault = away
    said = upres("upscale", bucket / "photos", bucket / "job", *TILES, *ledger_at(tmp_path),
                 *store_workers)  # fmt: skip
    assert (said.code, bool(begins)) == (0, True), said.err
    assert pixels(bucket / "job/sr.zarr") == on_disk


def test_a_store_that_is_away_for_longer_than_is_waited_leaves_failures_that_the_next_run_mends(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], tmp_path: Path, upres: Command,
    front: Front, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    monkeypatch.setenv("UPRES_STORE_PATIENCE", "1.5")
    # Workers of their own, as those of the other tests have more patience.
    words = ("upscale", bucket / "photos", bucket / "job", *TILES, *ledger_at(tmp_path), "--json",
             "--workers", 1)  # fmt: skip
    front.fault = away_from("sr.zarr", seconds=8)
    said = upres(*words)
    assert said.code in (1, 3), said.err
    if said.code == 3:
        failed = said.document["failures"]
        assert failed
        assert all("does not answer" in failure["message"] for failure in failed)
    else:
        assert "does not answer" in said.err.splitlines()[-1]
    front.fault = every(10**9, "")
    again = upres(*words)
    assert again.code == 0, again.err
    assert again.document["computed_units"] > 0
    assert pixels(bucket / "job/sr.zarr") == on_disk


def test_nobody_waits_tile_after_tile_for_a_store_that_is_gone(
    bucket: Bucket, tmp_path: Path, upres: Command, front: Front, photo: TakePhoto,
    save: SavePicture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save(tmp_path / "one" / "a.png", photo(240, 240))
    monkeypatch.setenv("UPRES_STORE_PATIENCE", "1")
    words = ("upscale", tmp_path / "one", bucket / "job", "--model", "bicubic-x2", "--tile", 16,
             *ledger_at(tmp_path), "--json", "--workers", 1)  # fmt: skip
    front.fault = away_from("sr.zarr", seconds=10**6)
    said = upres(*words)
    assert (said.code, said.out) == (1, ""), said.err
    last = said.err.splitlines()[-1]
    assert "nothing but failures for" in last
    assert "repeat the command once it works again" in last
    front.fault = every(10**9, "")
    before = upres("status", bucket / "job", "--json").document["units"]
    assert before["failed"] > 0
    assert before["pending"] > before["failed"]
    again = upres(*words)
    assert (again.code, again.document["units"]["done"]) == (0, sum(before.values())), again.err


def test_nobody_waits_picture_after_picture_for_a_source_that_is_gone(
    bucket: Bucket, tmp_path: Path, upres: Command, front: Front, photo: TakePhoto,
    save: SavePicture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for n in range(200):
        save(tmp_path / "many" / f"{n:03}.png", photo(16, 20, at=n))
    bucket.put(tmp_path / "many", "photos")
    monkeypatch.setenv("UPRES_STORE_PATIENCE", "1")
    words = ("upscale", bucket / "photos", tmp_path / "job", "--model", "bicubic-x2", "--json",
             "--workers", 1)  # fmt: skip
    front.fault = unread_below("/photos/")
    said = upres(*words)
    assert (said.code, said.out) == (1, ""), said.err
    assert f"s3://{bucket.place.bucket}: nothing but failures for" in said.err.splitlines()[-1]
    front.fault = every(10**9, "")
    failures = upres("status", tmp_path / "job", "--json").document["failures"]
    assert 0 < len(failures) < 200
    assert {failure["error"] for failure in failures} == {"StoreError"}
    assert any("not tried, as another one waited" in each["message"] for each in failures)
    again = upres(*words)
    assert (again.code, again.document["items"]["done"]) == (0, 200), again.err


@pytest.mark.parametrize("value", ["soon", "0", "nan"])
def test_patience_that_is_not_a_number_of_seconds_is_told_in_a_line(
    value: str, bucket: Bucket, upres: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPRES_STORE_PATIENCE", value)
    told(upres("status", bucket / "job"), 2, f"UPRES_STORE_PATIENCE is {value!r}, expected 1 to")


def test_what_stays_broken_is_a_failed_tile_and_the_next_run_computes_it_alone(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], tmp_path: Path, upres: Command,
    store_workers: tuple[str, str], front: Front,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    front.fault = lambda _n, method, path: (
        "403" if method == "PUT" and "sr.zarr/a.png/0/c/0/1/1" in path else ""
    )
    words = ("upscale", bucket / "photos", bucket / "job", *TILES, *ledger_at(tmp_path), "--json",
             *store_workers)  # fmt: skip
    said = upres(*words)
    assert said.code == 3
    (failure,) = said.document["failures"]
    assert (failure["item"], failure["tile"], failure["error"]) == ("a.png", 4, "StoreError")
    assert "AccessDenied" in failure["message"]
    assert SECRET not in failure["message"]
    front.fault = every(10**9, "")
    again = upres(*words)
    assert (again.code, again.document["computed_units"]) == (0, 1)
    assert pixels(bucket / "job/sr.zarr") == on_disk


def test_a_store_that_refuses_to_show_a_stack_does_not_lose_it(
    bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], tmp_path: Path, upres: Command,
    store_workers: tuple[str, str], front: Front, photo: TakePhoto, save: SavePicture,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    words = ("upscale", bucket / "photos", bucket / "job", *TILES, *ledger_at(tmp_path),
             *store_workers)  # fmt: skip
    assert upres(*words).code == 0
    save(tmp_path / "more" / "99.png", photo(16, 20, at=200))
    bucket.put(tmp_path / "more", "photos/small")
    for hidden in ("members/0.json", "3x16x20-uint8/0/zarr.json"):
        front.fault = lambda _n, method, path, hidden=hidden: (
            "403" if method in ("GET", "HEAD") and path.endswith(hidden) else ""
        )
        assert upres(*words).code in (1, 3)
    front.fault = every(10**9, "")
    assert upres(*words).code == 0
    now = pixels(bucket / "job/sr.zarr")
    assert {name: now[name] for name in on_disk} == on_disk


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_run_that_is_killed_frees_its_job_and_the_next_one_writes_the_same_bytes(
    kind: str, bucket: Bucket, pictures: Path, on_disk: dict[str, bytes], tmp_path: Path,
    upres: Command, store_workers: tuple[str, str], front: Front,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    server = kind == "postgresql"
    ledger = ("--ledger", request.getfixturevalue(kind)) if server else ledger_at(tmp_path)
    bucket.put(pictures, "photos")
    words = ("upscale", bucket / "photos", bucket / "job", *TILES, *ledger, "--json")
    held = HeldBack(2, lambda method, path: method == "PUT" and "sr.zarr" in path and "/c/" in path)
    front.fault = held
    process = subprocess.Popen(
        [*UPRES, *map(str, words), "--workers", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "UPRES_STORE_PATIENCE": "3600"},
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    held.wait_for(3, process)
    busy = upres(*words, *store_workers)
    assert (busy.code, busy.err.count("\n")) == (1, 1)
    assert f"is held by upres upscale (pid {process.pid} on " in busy.err
    process.send_signal(signal.SIGKILL)
    process.communicate()
    held.released.set()
    front.fault = every(10**9, "")
    said = upres(*words, *store_workers)
    assert said.code == 0, said.err
    assert said.document["computed_units"] > 0
    assert pixels(bucket / "job/sr.zarr") == on_disk


def test_objects_are_read_again_only_where_etag_or_size_differ(
    bucket: Bucket, pictures: Path, tmp_path: Path, upres: Command, front: Front,
    store_workers: tuple[str, str], photo: TakePhoto, save: SavePicture,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    read: list[str] = []

    def watch(_number: int, method: str, path: str) -> str:
        if method == "GET" and "/photos/" in path and not path.endswith("/"):
            read.append(path.rpartition("/")[2])
        return ""

    front.fault = watch
    words = ("upscale", bucket / "photos", bucket / "job", *TILES, *ledger_at(tmp_path), "--json",
             *store_workers)  # fmt: skip
    assert upres(*words).code == 0
    assert {"a.png", "00.png"} <= set(read)
    read.clear()
    assert upres(*words).code == 0
    assert read == []
    save(tmp_path / "new" / "a.png", photo(70, 90, at=100))
    bucket.put(tmp_path / "new", "photos")
    said = upres(*words)
    assert (set(read), said.document["computed_units"]) == ({"a.png"}, 9)


def test_an_object_that_changes_while_a_run_reads_is_noticed_and_read_by_the_next(
    bucket: Bucket, pictures: Path, tmp_path: Path, upres: Command, front: Front,
    store_workers: tuple[str, str], photo: TakePhoto, save: SavePicture,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    other = save(tmp_path / "new" / "a.png", photo(70, 90, at=100)).read_bytes()
    changed: list[bool] = []

    def change(_number: int, method: str, path: str) -> str:
        if method == "GET" and path.endswith("/photos/a.png") and not changed:
            changed.append(True)
            (bucket / "photos/a.png").write_bytes(other)
        return ""

    front.fault = change
    words = ("upscale", bucket / "photos", bucket / "job", *TILES, *ledger_at(tmp_path), "--json",
             *store_workers)  # fmt: skip
    said = upres(*words)
    assert (said.code, changed) == (3, [True])
    (failure,) = said.document["failures"]
    assert failure["item"] == "a.png"
    assert "changed since it was listed" in failure["message"]
    again = upres(*words)
    assert (again.code, again.document["computed_units"]) == (0, 9)


def told(said: Said, code: int, *words: str) -> None:
    """One line, with these words and no secret, on stderr alone."""
    assert (said.code, said.out, said.err.count("\n")) == (code, "", 1), said.err
    for word in words:
        assert word in said.err
    for secret in (SECRET, "127.0.0.1", PASSWORD):
        assert secret not in said.err


def test_a_store_that_cannot_be_used_is_told_in_a_line_within_ten_seconds(
    bucket: Bucket, pictures: Path, tmp_path: Path, upres: Command, front: Front,
    store_workers: tuple[str, str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    # What waits for a store that does not answer has to know that it is the first look.
    monkeypatch.setenv("UPRES_STORE_PATIENCE", "3600")

    def upscale(source: object, job: object) -> Said:
        began = time.monotonic()
        said = upres("upscale", source, job, *TILES, *ledger_at(tmp_path), *store_workers)
        assert time.monotonic() - began < 10
        return said

    photos, job = bucket / "photos", bucket / "job"
    told(upscale(photos, "s3://no-such-bucket/job"), 2, "no bucket 'no-such-bucket'")
    told(upscale("s3://no-such-bucket/photos", tmp_path / "j"), 2, "no bucket 'no-such-bucket'")
    told(upscale(bucket / "nothing", job), 2, "nothing does not exist")
    told(upscale("ftp://me:pw@host/x", job), 2, "ftp://", "expected a local path, s3://")
    told(upscale(f"s3://{SECRET}@{bucket.place.bucket}/x", job), 2, "names no bucket")
    told(upres("status", bucket / "job"), 2, "does not exist, expected a job")
    front.fault = lambda _n, _method, _path: "hang"
    told(upscale(photos, job), 1, "does not answer", "AWS_ENDPOINT_URL")
    front.released.set()
    front.fault = every(1, "503")
    told(upscale(photos, job), 1, "the store answered 503 SlowDown")
    front.fault = every(10**9, "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    told(upres("status", bucket / "job"), 1, "does not answer")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
    told(upres("status", bucket / "job"), 2, "AWS_ENDPOINT_URL is not an address")
    monkeypatch.setenv("AWS_ENDPOINT_URL", front.endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    told(upscale(photos, job), 1, "refuses the credentials", node(), "AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert list(job.below()) == []


def test_credentials_that_are_for_one_prefix_alone_are_enough(
    bucket: Bucket, pictures: Path, tmp_path: Path, upres: Command,
    store_workers: tuple[str, str], front: Front,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    # Keys that are to be deleted are in the body of a POST.
    front.fault = lambda _n, method, path: (
        "" if bucket.place.key in path or method == "POST" else "403"
    )
    said = upres("upscale", bucket / "photos/*.png", bucket / "job", *TILES, *ledger_at(tmp_path),
                 "--export", bucket / "out", *store_workers)  # fmt: skip
    assert said.code == 0, said.err
    assert list(pixels(bucket / "out")) == ["a.png"]


def test_an_archive_of_pictures_in_a_bucket_is_refused_in_a_line(
    bucket: Bucket, tmp_path: Path, upres: Command, store_workers: tuple[str, str]
) -> None:
    (bucket / "p/photos.zip").write_bytes(b"PK\3\4" + bytes(60))
    said = upres("upscale", bucket / "p/photos.zip", tmp_path / "job", *TILES, *store_workers)
    told(said, 2, "photos.zip is a zip archive in a bucket", "copy it to a local disk")


def test_places_in_one_bucket_must_be_apart_as_on_a_disk(
    bucket: Bucket, pictures: Path, tmp_path: Path, upres: Command, store_workers: tuple[str, str]
) -> None:
    bucket.put(pictures, "photos")
    photos = bucket / "photos"

    def upscale(*words: object) -> Said:
        return upres("upscale", photos, bucket / "job", *TILES, *ledger_at(tmp_path), *words,
                     *store_workers)  # fmt: skip

    told(upscale("--export", photos / "out"), 2, "is in the source")
    told(upscale("--export", photos), 2, "is in the source")
    told(upscale("--reference", photos, "--export", photos / "x"), 2, "is in --reference")
    told(upres("upscale", bucket / "job", bucket / "job2", *TILES, *ledger_at(tmp_path),
               *store_workers), 2, "does not exist")  # fmt: skip
    assert upscale("--export", bucket / "photos-out").code == 0
    told(upscale("--export", bucket / "job/sr.zarr/x"), 2, "is in the Zarr store")
    # A job among its pictures is never read as a source.
    inside = upres("upscale", photos, photos / "job", *TILES, "--ledger",
                   f"sqlite:///{tmp_path / 'inside.sqlite'}", "--json", *store_workers)  # fmt: skip
    assert (inside.code, inside.document["items"]["done"]) == (0, 36), inside.err
    again = upres("upscale", photos, photos / "job", *TILES, "--json", *store_workers)
    assert (again.code, again.document["items"]["done"]) == (0, 36), again.err
    assert again.document["left_out"]["of_upres"] == 1


def test_objects_of_others_are_not_replaced_by_an_export(
    bucket: Bucket, pictures: Path, tmp_path: Path, upres: Command, store_workers: tuple[str, str],
    photo: TakePhoto, save: SavePicture,
) -> None:  # fmt: skip
    bucket.put(pictures, "photos")
    theirs, out = bucket / "out/a.png", bucket / "out"
    theirs.write_bytes(b"theirs")
    words = ("upscale", bucket / "photos", bucket / "job", *TILES, *ledger_at(tmp_path),
             "--export", out, "--json", *store_workers)  # fmt: skip
    said = upres(*words)
    assert (said.code, theirs.read_bytes()) == (3, b"theirs")
    (failure,) = said.document["failures"]
    assert (failure["item"], failure["error"]) == ("a.png", "OccupiedError")
    said = upres(*words, "--overwrite")
    assert (said.code, said.document["export"]["written"]) == (0, 1)
    ours = theirs.read_bytes()
    assert ours.startswith(b"\x89PNG")
    theirs.write_bytes(b"changed by them")
    said = upres(*words)
    assert (said.code, theirs.read_bytes()) == (3, b"changed by them")
    theirs.unlink()
    assert upres(*words).document["export"]["written"] == 1
    assert theirs.read_bytes() == ours

    # A lost ledger does not make strangers of the job's own objects.
    (tmp_path / "elsewhere.sqlite").unlink()
    said = upres(*words)
    assert (said.code, said.document["computed_units"]) == (0, 0), said.err
    (bucket / "photos/a.png").unlink()
    said = upres(*words, "--prune")
    assert (said.code, said.document["export"]["pruned"], theirs.exists()) == (0, 1, False)


def test_a_listing_takes_a_request_for_a_thousand_objects(
    bucket: Bucket, front: Front, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.sources.listing import list_source

    with monkeypatch.context() as patch:
        # Nothing of interest is seen in front of the store yet, and that takes as long again.
        patch.setenv("AWS_ENDPOINT_URL", seaweed.endpoint)
        for n in range(2_300):
            (bucket / f"photos/{n % 40:02}/{n:04}.jpg").write_bytes(b"x")
    front.requests.clear()
    files = list_source(str(bucket / "photos"))
    assert len(files) == 2_300
    assert files[0].item == "00/0000.jpg"
    assert front.requests.total() <= 5, front.requests
    some = list_source(f"{bucket / 'photos'}/0[12]/*.JPG")
    assert len(some) == sum(n % 40 in (1, 2) for n in range(2_300))


def test_two_jobs_that_begin_at_one_place_do_not_take_each_other_for_their_own(
    bucket: Bucket, tmp_path: Path, pictures: Path
) -> None:
    from pipeline.errors import JobBusyError
    from pipeline.jobs import job as jobs

    folder = bucket / "job"
    url = f"sqlite:///{tmp_path / 'l.sqlite'}"
    first = jobs.create_job(folder, source=str(pictures), ledger_url=url)
    described = json.loads((folder / "job.json").read_text())
    assert described["id"] == first.id
    with pytest.raises(JobBusyError, match="was just started by another run"):
        jobs._described_in_bucket(folder, {**described, "id": "another", "ledger": url})
    assert json.loads((folder / "job.json").read_text()) == described


def test_a_bucket_that_is_empty_after_a_failed_start_stays_so(
    bucket: Bucket, tmp_path: Path, upres: Command, store_workers: tuple[str, str]
) -> None:
    (tmp_path / "empty").mkdir()
    said = upres("upscale", tmp_path / "empty", bucket / "job", *TILES, *ledger_at(tmp_path),
                 *store_workers)  # fmt: skip
    assert said.code == 1
    assert list(bucket.place.below()) == []


def test_a_large_object_is_exported_in_parts_and_never_over_that_of_somebody_else(
    bucket: Bucket, tmp_path: Path
) -> None:
    place = bucket / "large.bin"
    file = tmp_path / "large"
    file.write_bytes(np.random.default_rng(0).bytes(17 * 2**20))
    place.of_bucket.put_file(place.key, file, replaces=False, attributes={"upres-job": "j"})
    facts = place.facts()
    assert facts is not None
    assert (facts.size_bytes, (facts.attributes or {})["upres-job"]) == (17 * 2**20, "j")
    assert place.read_bytes() == file.read_bytes()
    with pytest.raises(FileExistsError):
        place.of_bucket.put_file(place.key, file, replaces=False, attributes={})
    with pytest.raises(FileExistsError):
        place.of_bucket.put_file(place.key, file, replaces='"other"', attributes={})
