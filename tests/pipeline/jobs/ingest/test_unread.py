"""What did not change is not read again: neither files of the source nor images of the archives."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from io import BytesIO
from typing import TYPE_CHECKING, Protocol
from zipfile import ZipFile

import pytest
import tifffile

from pipeline.compute.workers import Workers
from pipeline.errors import ClusterError
from pipeline.jobs import stages
from pipeline.jobs.ingest.stage import Comparison, compare, read_new, run_ingest
from pipeline.jobs.job import open_job
from pipeline.jobs.perform import upscale_job
from pipeline.jobs.request import UpscaleRequest
from pipeline.jobs.spec import UpscaleSpec
from pipeline.jobs.upscale.plan import plan_job
from pipeline.storage.archive import Archive
from pipeline.storage.ledger import INGESTED, LR, REJECTED, SR, Ledger
from pipeline.storage.stack_kind import LEAST_MEMBERS
from pipeline.storage.stamps import is_settled, stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from pipeline.jobs.upscale.units import UnitPlan
    from tests.conftest import SavePicture, TakePhoto, Upscale

SECOND = 10**9


class Compare(Protocol):
    def __call__(self) -> Comparison: ...


@pytest.fixture
def source(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """Return a folder of pictures, of which all but one share a stack."""
    save(tmp_path / "in/alone.png", photo(300, 300))
    for n in range(LEAST_MEMBERS):
        save(tmp_path / f"in/of stack/{n:02}.png", photo(24, 20, at=3 * n))
    return tmp_path / "in"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open_file(tmp_path / "ledger.sqlite", job="test")) as opened:
        yield opened


@pytest.fixture
def listed_after(source: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what has all listings begin so many seconds after the first picture was written."""
    first_ns = min(path.stat().st_ctime_ns for path in source.rglob("*.png"))

    def set_clock(seconds: int) -> None:
        at_ns = first_ns + seconds * SECOND
        monkeypatch.setattr("pipeline.jobs.ingest.stage.time.time_ns", lambda: at_ns)

    return set_clock


@pytest.fixture
def later(listed_after: Callable[[int], None]) -> Callable[[], None]:
    """Return what has all listings begin long after everything was written."""
    return lambda: listed_after(24 * 3600)


@pytest.fixture
def compared(tmp_path: Path, source: Path, ledger: Ledger) -> Compare:
    return lambda: compare(str(source), archive_dir=tmp_path / "lr.zarr", ledger=ledger)


@pytest.fixture
def read(tmp_path: Path, source: Path, ledger: Ledger, client: Client) -> Callable[[], None]:
    def run() -> None:
        run_ingest(
            str(source), archive_dir=tmp_path / "lr.zarr", ledger=ledger, workers=Workers.of(client)
        )

    return run


def todo(found: Comparison) -> list[str]:
    return [file.item for file in found.todo]


def test_files_that_did_not_change_are_not_read_and_their_rows_not_written(
    later: Callable[[], None],
    read: Callable[[], None],
    compared: Compare,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later()
    read()
    before = ledger.items()
    written: list[object] = []
    put = ledger.put_items
    monkeypatch.setattr(Ledger, "put_items", lambda _, rows: put_noted(written, put, rows))
    found = compared()
    reported: list[tuple[int, int]] = []
    result = read_new(found, client=None, report=lambda *counted: reported.append(counted))
    assert todo(found) == []
    assert written == []
    assert reported[-1] == (LEAST_MEMBERS + 1, LEAST_MEMBERS + 1)
    assert sorted(result.rows, key=lambda row: row.item) == before
    assert (result.new, result.changed, result.vanished, result.unread) == (0, 0, 0, 0)


def put_noted(written: list[object], put: Callable[..., None], rows: object) -> None:
    noted = list(rows)  # type: ignore[call-overload]
    written += noted
    put(noted)


def test_files_that_changed_just_before_they_were_listed_are_read_once_more(
    read: Callable[[], None], compared: Compare, listed_after: Callable[[int], None]
) -> None:
    listed_after(1)
    read()
    assert len(todo(compared())) == LEAST_MEMBERS + 1
    listed_after(3600)
    read()
    assert todo(compared()) == []


def test_another_content_of_the_same_size_and_time_is_noticed(
    source: Path, read: Callable[[], None], compared: Compare, later: Callable[[], None],
    ledger: Ledger,
) -> None:  # fmt: skip
    later()
    read()
    path = source / "of stack/03.png"
    facts, other = path.stat(), bytearray(path.read_bytes())
    other[-1] ^= 1
    path.write_bytes(other)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == facts.st_size
    assert todo(compared()) == ["of stack/03.png"]
    before = {row.item: row.sha256 for row in ledger.items()}
    read()
    changed = {row.item for row in ledger.items() if row.sha256 != before[row.item]}
    assert changed == {"of stack/03.png"}


def test_a_file_that_was_only_touched_is_read_once_and_unchanged(
    source: Path, read: Callable[[], None], compared: Compare, later: Callable[[], None],
    ledger: Ledger,
) -> None:  # fmt: skip
    later()
    read()
    before = ledger.items()
    os.utime(source / "alone.png", ns=(1, 1))
    assert todo(compared()) == ["alone.png"]
    read()
    assert ledger.items() == before
    assert todo(compared()) == []


def test_a_member_that_gets_the_name_of_another_is_read(
    tmp_path: Path, photo: TakePhoto, ledger: Ledger, client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = BytesIO()
    with ZipFile(made, "w") as packed:
        for n, name in enumerate(("1.tif", "2.tif")):
            picture = BytesIO()
            tifffile.imwrite(picture, photo(30, 30, at=60 * n).transpose(1, 2, 0))
            packed.writestr(name, picture.getvalue())
    # The first is called "é" by the one code page, the second by the other.
    named = made.getvalue().replace(b"1.tif", b"\x82.tif").replace(b"2.tif", b"\xe9.tif")
    (tmp_path / "in.zip").write_bytes(named)
    soon = time.time_ns() + 3600 * SECOND
    monkeypatch.setattr("pipeline.jobs.ingest.stage.time.time_ns", lambda: soon)
    contents = {}
    for names in ("cp437", "cp1252", "cp437"):
        run_ingest(
            str(tmp_path / "in.zip"),
            archive_dir=tmp_path / "lr.zarr",
            ledger=ledger,
            workers=Workers.of(client),
            names=names,
        )
        contents[names] = {row.item: row.sha256 for row in ledger.items(INGESTED)}
    one, other = contents.values()
    assert one["é.tif"] == other["‚.tif"] != other["é.tif"] == one["Θ.tif"]


def test_a_folder_of_pictures_that_was_moved_changes_the_addresses_alone(
    source: Path, tmp_path: Path, read: Callable[[], None], later: Callable[[], None],
    ledger: Ledger,
) -> None:  # fmt: skip
    later()
    read()
    moved = source.rename(tmp_path / "moved")
    found = compare(str(moved), archive_dir=tmp_path / "lr.zarr", ledger=ledger)
    read_new(found, client=None)
    assert todo(found) == []
    assert {row.source for row in ledger.items()} == {str(moved / r.item) for r in ledger.items()}


@pytest.mark.parametrize("how", ["deleted", "damaged", "array damaged", "replaced"])
def test_an_image_that_the_archive_does_not_have_as_it_was_is_looked_at(
    how: str, tmp_path: Path, read: Callable[[], None], compared: Compare,
    later: Callable[[], None],
) -> None:  # fmt: skip
    later()
    read()
    item = tmp_path / "lr.zarr/alone.png"
    if how == "deleted":
        shutil.rmtree(item)
    elif how == "replaced":
        shutil.copytree(item, tmp_path / "copy")
        shutil.rmtree(item)
        (tmp_path / "copy").rename(item)
    else:
        (item / ("zarr.json" if how == "damaged" else "0/zarr.json")).write_text("{")
    assert todo(compared()) == ["alone.png"]
    read()
    assert todo(compared()) == []
    assert Archive.open(tmp_path / "lr.zarr").image("alone.png").size == (300, 300)


def test_pixels_of_a_stack_that_are_gone_are_read_again(
    tmp_path: Path, read: Callable[[], None], compared: Compare, later: Callable[[], None]
) -> None:
    later()
    read()
    (pixels,) = (tmp_path / "lr.zarr/@stacks").glob("*/0/c/0/0/0/0")
    pixels.unlink()
    assert len(todo(compared())) == LEAST_MEMBERS


def test_a_listing_without_what_cannot_be_known_again_says_so(
    tmp_path: Path, source: Path, compared: Compare
) -> None:
    (source / "broken.png").write_bytes(b"not a picture")
    assert "broken.png" in todo(compared())


@pytest.mark.parametrize("known", [False, True])
def test_what_the_listing_says_cannot_be_read_is_rejected_without_a_worker(
    known: bool, source: Path, read: Callable[[], None], compared: Compare,
    later: Callable[[], None], ledger: Ledger,
) -> None:  # fmt: skip
    later()
    read()
    heif = source / ("of stack/03.heic" if known else "new.heic")
    if known:
        heif.with_suffix(".png").unlink()
    heif.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    item = str(heif.relative_to(source))
    for _ in range(2):
        found = compared()
        assert todo(found) == []
        result = read_new(found, client=None)
        rejected = {row.item: row for row in result.rows if row.state == REJECTED}
        assert rejected.keys() == {item}
        assert {row.error for row in rejected.values()} == {"UnsupportedError"}
        assert rejected.items() <= {row.item: row for row in ledger.items()}.items()
        assert result.unread == 0


def test_only_times_that_are_over_settle_a_stamp(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    ctime = path.stat().st_ctime_ns
    os.utime(path, ns=(ctime, ctime + 100 * SECOND))
    stamp = stamp_of(path.stat())
    assert not is_settled(stamp, seen_ns=ctime + SECOND)
    assert is_settled(stamp, seen_ns=ctime + 60 * SECOND)
    assert not is_settled(stamp, seen_ns=ctime + 101 * SECOND)
    os.utime(path, ns=(-5, -5))
    assert is_settled(stamp_of(path.stat()), seen_ns=time.time_ns() + 60 * SECOND)


# The archive of the results


@pytest.fixture
def done(tmp_path: Path, source: Path, upscale: Upscale) -> Path:
    upscale(source, tmp_path / "job")
    return tmp_path / "job"


def planned(folder: Path) -> list[UnitPlan]:
    job = open_job(folder)
    with closing(job.open_ledger()) as ledger:
        values = ledger.upscaling()
        assert values is not None
        plan = plan_job(job, spec=UpscaleSpec.from_json(values["spec"]), ledger=ledger)
        found = list(plan)
        assert plan.units == sum(len(one.numbers) for one in found)
        return found


def test_a_plan_of_nothing_opens_no_image(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(_self: Archive, item: str) -> None:
        raise AssertionError(f"{item} was opened")

    monkeypatch.setattr(Archive, "image", opened)
    assert planned(done) == []


@pytest.mark.slow
def test_a_job_without_seals_opens_its_images_once(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_job(done).open_ledger()) as ledger:
        items = [row.item for row in ledger.items()]
        sealed = ledger.seals_of(SR, items)
        assert sealed.keys() == ledger.seals_of(LR, items).keys() == {"alone.png"}
        (row,) = ledger.items_named(["alone.png"])
        assert (row.state, sealed["alone.png"].says) == (INGESTED, row.fingerprint)
    restored = shutil.copytree(done, done.with_name("restored"))
    opened: list[str] = []
    image = Archive.image
    monkeypatch.setattr(
        Archive, "image", lambda self, item: (opened.append(item), image(self, item))[1]
    )
    assert planned(restored) == []
    assert opened == ["alone.png"]
    assert planned(restored) == []
    assert opened == ["alone.png"]


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json"])
def test_metadata_of_a_result_that_somebody_damaged_is_noticed(name: str, done: Path) -> None:
    path = done / "sr.zarr/alone.png" / name
    path.write_bytes(path.read_bytes().replace(b'"zarr_format"', b'"zarr_FORMAT"', 1)[:-9])
    (plan,) = planned(done)
    assert (plan.name, plan.fresh) == ("alone.png", True)


def test_a_result_of_other_pixels_in_the_place_of_one_is_noticed(done: Path) -> None:
    path = done / "sr.zarr/alone.png/zarr.json"
    with closing(open_job(done).open_ledger()) as ledger:
        (row,) = ledger.items_named(["alone.png"])
    assert row.fingerprint.encode() in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(row.fingerprint.encode(), b"0" * 64))
    (plan,) = planned(done)
    assert plan.fresh


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_shard_that_somebody_took_is_planned_alone(how: str, done: Path) -> None:
    shards = sorted((done / "sr.zarr/alone.png/0/c").rglob("*"))
    shard = next(path for path in reversed(shards) if path.is_file())
    shard.unlink()
    if how == "emptied":
        shard.touch()
    (plan,) = planned(done)
    assert not plan.fresh
    assert len(plan.numbers) == 1


# The workers


def test_a_night_with_nothing_to_do_starts_no_workers(
    tmp_path: Path,
    source: Path,
    cluster: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    later: Callable[[], None],
) -> None:
    later()
    request = UpscaleRequest(
        src=str(source),
        job_dir=tmp_path / "job",
        model="bicubic-x2",
        cluster=cluster[1],
        export_dir=tmp_path / "out",
    )
    first = upscale_job(request)
    assert first.complete

    def connected(_settings: object) -> None:
        raise ClusterError("workers were asked for")

    monkeypatch.setattr(stages, "connect", connected)
    again = upscale_job(request)
    assert (again.computed_units, again.complete) == (0, True)
    assert again.exported is not None
    assert again.exported.unchanged == LEAST_MEMBERS + 1
    (source / "alone.png").unlink()
    assert upscale_job(request).status.items["vanished"] == 1
    shutil.copy(source / "of stack/00.png", source / "new.png")
    with pytest.raises(ClusterError, match="asked for"):
        upscale_job(request)
