"""What a format cannot hold is said before anything is computed, with formats that can."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.jobs.export.limits import remarks_on, unwritable
from pipeline.jobs.listener import JobListener
from pipeline.jobs.perform import upscale_job
from pipeline.jobs.request import UpscaleRequest

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.compute.cluster import Client
    from tests.conftest import Command, SavePicture, TakePhoto, Upscale

pytestmark = pytest.mark.usefixtures("shared_workers")

WIDE = (
    "a.webp will be upscaled but not exported: WEBP cannot hold 16400 x 4 pixels of 3 channels "
    "uint8 (at most 16383 a side); write JPEG or PNG or TIFF instead"
)


@pytest.fixture
def source(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    """Return a folder of a WebP that is too wide at x2, and pictures that never are."""
    row = photo(2, 410).repeat(20, axis=2)
    save(tmp_path / "in/a.webp", row)
    save(tmp_path / "in/b.png", row)
    save(tmp_path / "in/c.png", photo(30, 40, 4))
    save(tmp_path / "in/d.png", photo(30, 40, 3, "uint16"))
    return tmp_path / "in"


class Heard(JobListener):
    """Keeps what happened in its order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def remark(self, line: str) -> None:
        self.events.append(line)

    def upscaling(self) -> Any:
        self.events.append("upscaling")
        return super().upscaling()


def run(source: Path, tmp_path: Path, client: Client, **asked: Any) -> tuple[list[str], Any]:
    from pipeline.compute.cluster import address_of

    heard = Heard()
    request = UpscaleRequest(
        src=str(source),
        job_dir=tmp_path / "job",
        model="nearest-x2",
        precision="fp32",
        device="cpu",
        cluster=address_of(client),
        export_dir=tmp_path / "out",
        **asked,
    )
    return heard.events, upscale_job(request, heard)


def test_a_picture_too_large_for_its_own_format_is_named_before_it_is_upscaled(
    source: Path, tmp_path: Path, client: Client
) -> None:
    events, result = run(source, tmp_path, client)
    assert events[:2] == [WIDE, "upscaling"]
    assert [event for event in events if "will be" in event] == [WIDE]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.png", "c.png", "d.png"]
    (failure,) = result.exported.failures
    assert failure.item == "a.webp"
    assert failure.message == WIDE.partition("not exported: ")[2]


def test_of_an_asked_format_alpha_and_depth_are_limits_too(
    source: Path, tmp_path: Path, client: Client
) -> None:
    events, _ = run(source, tmp_path, client, file_format="jpeg")
    told = events[: events.index("upscaling")]
    assert [line.partition(" will")[0] for line in told] == ["c.png", "d.png"]
    assert "JPEG cannot hold 80 x 60 pixels of 4 channels uint8; write PNG or" in told[0]
    assert "JPEG cannot hold 80 x 60 pixels of 3 channels uint16; write PNG or" in told[1]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.jpg", "b.jpg"]


def test_nothing_is_said_where_all_can_be_written(
    source: Path, tmp_path: Path, client: Client
) -> None:
    events, result = run(source, tmp_path, client, file_format="tiff")
    assert events == ["upscaling"]
    assert result.exported.failures == ()


@pytest.mark.slow
def test_of_very_many_only_the_first_are_named(
    source: Path, tmp_path: Path, upscale: Upscale, save: SavePicture, photo: TakePhoto
) -> None:
    for number in range(14):
        save(source / f"e{number:02}.png", photo(30, 40, 2))
    job = upscale(source, tmp_path / "job").job
    with closing(job.open_ledger()) as ledger:
        lines = list(remarks_on(unwritable(job, ledger.items(), scale=2, format="jpeg")))
    assert len(lines) == 11
    assert lines[-1] == "6 more will be upscaled but not exported, for such reasons"


def test_the_command_says_it_on_stderr_and_ends_with_failed_items(
    source: Path, tmp_path: Path, upres: Command
) -> None:
    words = ("--model", "nearest-x2", "--export", tmp_path / "out", "--device", "cpu")
    said = upres("upscale", source, tmp_path / "job", *words)
    assert said.code == 3
    assert WIDE in said.err.splitlines()
