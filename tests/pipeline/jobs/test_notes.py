"""Notes: what was not kept of which item is listed wherever a job is looked at."""

from __future__ import annotations

import io
import re
import sqlite3
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.compute.status import read_status
from pipeline.jobs.export.export_plan import plan_export
from pipeline.jobs.export.request import ExportRequest
from pipeline.jobs.export.stage import run_export
from pipeline.jobs.run import run_on
from pipeline.pictures.metadata.metadata import Metadata, from_json, to_json
from pipeline.reports.job_report import write_report
from pipeline.storage.ledger import EXPORT, FILE_NAME, INGEST, Ledger, Note
from tests.pipeline.pictures.jpeg.test_jpeg_segments import FILM, segment
from tests.pipeline.pictures.metadata.test_colour import cicp, png

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.compute.cluster import Client
    from pipeline.jobs.job import Job
    from tests.conftest import Command, TakePhoto, Upscale

NOTE = f"the embedded film of the motion photo: {len(FILM)} bytes, not kept"
BICUBIC = ("--model", "bicubic-x2", "--tile", "32", "--precision", "fp32", "--device", "cpu")


def motion_photo(pixels: NDArray[np.uint8], *, film: bytes = FILM, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels, 0, 2)).save(file, "JPEG", quality=95)
    data = file.getvalue()
    return data[:2] + (segment(0xFE, comment) if comment else b"") + data[2:] + film


@pytest.fixture
def source(tmp_path: Path, photo: TakePhoto) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "moving.jpg").write_bytes(motion_photo(photo(40, 52), comment=b"by the sea"))
    texts = PngInfo()
    texts.add_text("parameters", "a tree")
    Image.fromarray(np.moveaxis(photo(40, 52), 0, 2)).save(folder / "text.png", pnginfo=texts)
    Image.fromarray(np.moveaxis(photo(40, 52), 0, 2)).save(folder / "plain.png")
    return folder


def notes_of(job: Job) -> list[Note]:
    ledger = job.open_ledger()
    found = ledger.notes()
    ledger.close()
    return found


def test_notes_are_in_status_json_and_report_and_change_no_exit_code(
    source: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    job, out = tmp_path / "job", tmp_path / "out"
    words = (*BICUBIC, "--export", out, "--format", "tiff", *cluster, "--json")
    done = upres("upscale", source, job, *words)
    expected = [
        {"item": "moving.jpg", "stage": INGEST, "note": NOTE},
        {
            "item": "moving.jpg", "stage": EXPORT,
            "note": "JPEG comment 'by the sea': TIFF has no place for it",
        },
        {
            "item": "text.png", "stage": EXPORT,
            "note": "PNG text parameters: TIFF has no place for it",
        },
    ]  # fmt: skip
    assert (done.code, done.document["notes"]) == (0, expected)
    listed = upres("status", job, "--items")
    assert listed.code == 0
    lines = [re.sub(r" +", " ", line).strip() for line in listed.out.splitlines()]
    assert lines[:3] == ["done 4/4 moving.jpg", f"ingest: {NOTE}", f"export: {expected[1]['note']}"]
    hint = f"not kept: 3 notes on 2 items; `upres status {job} --items`"
    assert hint in listed.err
    assert upres("status", job, "--json").document["notes"] == expected
    again = upres("export", job, out, "--format", "tiff", *cluster, "--json")
    assert (again.code, again.document["notes"]) == (0, expected[1:])
    assert upres("report", job).code == 0
    page = (job / "report.html").read_text(encoding="utf-8")
    assert page.count("by the sea") == 1
    assert NOTE in page


def test_another_format_has_other_notes(
    source: Path, tmp_path: Path, upscale: Upscale, client: Client
) -> None:
    job = upscale(source, tmp_path / "job").job
    with run_on(job, "test") as run:
        request = ExportRequest(out_dir=tmp_path / "out", format="tiff")
        run.export(run.plan_export(request), client)
        assert [n.item for n in run.ledger.notes() if n.stage == EXPORT] == [
            "moving.jpg",
            "text.png",
        ]
        run.export(run.plan_export(ExportRequest(out_dir=tmp_path / "out")), client)
        assert run.ledger.notes() == [Note("moving.jpg", INGEST, NOTE)]
    with Image.open(tmp_path / "out" / "moving.jpg") as image:
        assert image.info["comment"] == b"by the sea"
    with Image.open(tmp_path / "out" / "text.png") as image:
        assert image.text == {"parameters": "a tree"}


def test_notes_stay_with_an_unchanged_file_and_go_with_a_changed_one(
    source: Path, tmp_path: Path, upscale: Upscale, photo: TakePhoto
) -> None:
    job = upscale(source, tmp_path / "job").job
    for _ in range(2):
        assert notes_of(job) == [Note("moving.jpg", INGEST, NOTE)]
        upscale(source, tmp_path / "job")
    (source / "moving.jpg").write_bytes(motion_photo(photo(40, 52), film=b""))
    upscale(source, tmp_path / "job")
    assert notes_of(job) == []


@pytest.mark.parametrize("in_stack", [False, True])
def test_a_lost_ledger_finds_the_notes_in_the_archive_or_the_files(
    source: Path,
    tmp_path: Path,
    upscale: Upscale,
    client: Client,
    photo: TakePhoto,
    monkeypatch: pytest.MonkeyPatch,
    in_stack: bool,
) -> None:
    if in_stack:
        monkeypatch.setattr("pipeline.storage.stack_kind._CHUNK_MEMBERS", 8)
        for n in range(24):
            data = motion_photo(photo(22, 18, at=7 * n), comment=b"no. %d" % n)
            (source / f"small{n:02}.jpg").write_bytes(data)
    job = upscale(source, tmp_path / "job").job
    notes = notes_of(job)
    assert len(notes) == (25 if in_stack else 1)
    (job.folder / FILE_NAME).unlink()
    upscale(source, tmp_path / "job")
    assert notes_of(job) == notes
    if in_stack:
        assert "/@stacks/" in str(next(job.source_dir.rglob("0.json")))
        ledger = job.open_ledger()
        status = read_status(job.folder, ledger)
        plan = plan_export(
            job, status, ledger=ledger, request=ExportRequest(out_dir=tmp_path / "out")
        )
        run_export(plan, ledger=ledger, client=client)
        ledger.close()
        with Image.open(tmp_path / "out" / "small07.jpg") as image:
            assert image.info["comment"] == b"no. 7"


def test_notes_come_along_from_an_archive_outside_the_job(
    source: Path, tmp_path: Path, upres: Command, cluster: tuple[str, str]
) -> None:
    archive, job = tmp_path / "pictures.zarr", tmp_path / "job"
    ingested = upres("ingest", source, archive, *cluster, "--json").document
    done = upres("upscale", archive, job, *BICUBIC, *cluster, "--json").document
    expected = [{"item": "moving.jpg", "stage": INGEST, "note": NOTE}]
    assert ingested["notes"] == done["notes"] == expected


def test_hdr_colours_fail_the_item_in_a_format_that_cannot_say_them(
    tmp_path: Path, upres: Command, cluster: tuple[str, str], photo: TakePhoto
) -> None:
    (tmp_path / "source").mkdir()
    pixels = np.ascontiguousarray(np.moveaxis(photo(40, 40), 0, 2))
    (tmp_path / "source" / "hdr.png").write_bytes(png(pixels, cicp(9, 16, 0, 1)))
    job, out = tmp_path / "job", tmp_path / "out"
    words = (*BICUBIC, *cluster, "--export", out, "--format", "jpeg", "--json")
    done = upres("upscale", tmp_path / "source", job, *words)
    assert done.code == 3
    (failure,) = done.document["failures"]
    assert failure["message"] == (
        "hdr.jpg: declares HDR colours (cICP PQ), which a colour profile cannot say; "
        "write PNG instead"
    )
    assert not list(out.rglob("*.jpg"))
    assert upres("export", job, out, *cluster).code == 0
    assert b"cICP" in (out / "hdr.png").read_bytes()


def test_the_report_escapes_notes(source: Path, tmp_path: Path, upscale: Upscale) -> None:
    job = upscale(source, tmp_path / "job").job
    ledger = job.open_ledger()
    ledger.put_notes(INGEST, {"moving.jpg": ["<script>alert(1)</script>"]})
    ledger.close()
    assert "<script>alert(1)" not in write_report(job).read_text(encoding="utf-8")


# The ledger


def test_notes_are_replaced_stage_by_stage_and_job_by_job(tmp_path: Path) -> None:
    ledger = Ledger.open_file(tmp_path / FILE_NAME, job="j")
    other = Ledger.open_file(tmp_path / FILE_NAME, job="k")
    ledger.put_notes(INGEST, {"a": ["one", "two\0"], "b\udcff": ["three"]})
    other.put_notes(INGEST, {"a": ["of another job"]})
    ledger.put_notes(EXPORT, {"a": ["four"]})
    assert ledger.notes() == [
        Note("a", INGEST, "one"), Note("a", INGEST, "two\\x00"), Note("a", EXPORT, "four"),
        Note("b\\udcff", INGEST, "three"),
    ]  # fmt: skip
    ledger.put_notes(INGEST, {"a": [], "b\udcff": ["five"]})
    assert ledger.notes() == [Note("a", EXPORT, "four"), Note("b\\udcff", INGEST, "five")]
    assert other.notes() == [Note("a", INGEST, "of another job")]
    ledger.close()
    other.close()


def test_a_ledger_from_before_there_were_notes_has_none_and_takes_some(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    Ledger.open_file(path, job="j").close()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE notes")
    connection.commit()
    connection.close()
    reader = Ledger.open_file(path, job="j", read_only=True)
    assert reader.notes() == []
    reader.close()
    writer = Ledger.open_file(path, job="j")
    writer.put_notes(INGEST, {"a": ["one"]})
    assert writer.notes() == [Note("a", INGEST, "one")]
    writer.close()


# In the archive


def test_metadata_comes_back_from_an_archive_as_it_was() -> None:
    full = Metadata(
        format="png", mode="P", icc=b"i", exif=b"e", xmp=b"x", xmp_extended=b"y", iptc=b"c",
        photoshop=b"p", dpi=(300.0, 150.0), comments=(b"\xff", b""), notes=("a", "b"),
        chunks=(("tEXt", b"k\0v"), ("gAMA", struct.pack(">I", 45455))),
    )  # fmt: skip
    assert from_json(to_json(full)) == full


def test_what_an_earlier_upres_ingested_reads_as_metadata_without_the_rest() -> None:
    before = {"format": "jpeg", "mode": "RGB", "exif": "SUk=", "dpi": [72.0, 72.0], "sha256": "1"}
    assert from_json(before) == Metadata(format="jpeg", mode="RGB", exif=b"II", dpi=(72.0, 72.0))
