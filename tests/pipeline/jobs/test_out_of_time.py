"""A run whose time is up ends between units, hands over what is finished, and is continued."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.jobs import stages
from pipeline.jobs.budget import EXPORT_GRACE_S, SCORE_GRACE_S, TimedStop
from pipeline.jobs.listener import JobListener
from pipeline.jobs.perform import upscale_job
from pipeline.jobs.request import UpscaleRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.jobs.results import JobResult
    from pipeline.jobs.upscale.stage import UpscaleProgress
    from tests.conftest import Command, Digest, SavePicture, TakePhoto

HOUR_S = 3600.0
PICTURES = 24
"""Enough that some of their files and tiles wait while others are in flight."""
TILE_PX, SIDE_PX = 32, 68
"""Each picture has nine tiles: three rows and three columns."""
FEW = 4


class Night(JobListener):
    """A clock that is put on once the named stage is under way."""

    def __init__(self, *, by_s: float, during: str) -> None:
        self._during = during
        self._by_s = by_s
        self._ahead_s = 0.0

    def now(self) -> float:
        return time.time() + self._ahead_s

    @contextmanager
    def upscaling(self) -> Iterator[Callable[[UpscaleProgress], None]]:
        def hear(progress: UpscaleProgress) -> None:
            if progress.units_done and self._during == "upscale":
                self._ahead_s = self._by_s

        yield hear

    @contextmanager
    def counting(self, stage: str, _unit: str) -> Iterator[Callable[[int, int], None]]:
        def hear(_done: int, _of: int) -> None:
            if stage == self._during:
                self._ahead_s = self._by_s

        yield hear


@pytest.fixture
def run(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, cluster: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., JobResult]:  # fmt: skip

    def go(
        night: Night | None = None,
        *,
        job: str = "job",
        pictures: int = PICTURES,
        stacks: bool = False,
        **asked: Any,
    ) -> JobResult:
        if not stacks:
            # In stacks, they would share few units.
            monkeypatch.setattr("pipeline.jobs.ingest.stacking.LEAST_MEMBERS", PICTURES + 1)
        for n in range(pictures):
            name, height = f"{n:02}.png", SIDE_PX + 1 + n
            if not (tmp_path / "in" / name).exists():
                save(tmp_path / "in" / name, photo(height, SIDE_PX, at=n))
                if "reference" in asked:
                    save(tmp_path / "hr" / name, photo(2 * height, 2 * SIDE_PX))
        if night is not None:
            monkeypatch.setattr(stages, "TimedStop", partial(TimedStop, now=night.now))
        request = UpscaleRequest(
            src=str(tmp_path / "in"), job_dir=tmp_path / job, model="bicubic-x2", tile_px=TILE_PX,
            device="cpu", precision="fp32", cluster=cluster[1], budget="1h", **asked,
        )  # fmt: skip
        return upscale_job(request, night or JobListener())

    return go


@pytest.mark.slow
def test_it_ends_between_units_and_the_next_run_makes_the_same_bytes(
    run: Callable[..., JobResult], tmp_path: Path, digest: Digest
) -> None:
    first = run(Night(by_s=HOUR_S, during="upscale"), export_dir=tmp_path / "out")
    units = first.status.units
    assert first.out_of_time
    assert not first.stopped
    assert not first.failed
    assert 0 < units["done"] == first.computed_units
    assert units["done"] + units["pending"] == PICTURES * 9
    assert units["pending"] > 100, "what was in flight came in, and no more"
    assert first.left.startswith(f"{units['pending']} tiles, ")
    assert first.to_json()["out_of_time"] is True
    second = run(Night(by_s=0, during=""), export_dir=tmp_path / "out")
    assert not second.out_of_time
    assert second.complete
    assert second.computed_units == units["pending"]
    run(Night(by_s=0, during=""), job="whole", export_dir=tmp_path / "other")
    assert digest(tmp_path / "out") == digest(tmp_path / "other")
    assert len(digest(tmp_path / "out")) == PICTURES


@pytest.mark.slow
def test_what_is_finished_by_then_is_still_scored_and_exported(
    run: Callable[..., JobResult], tmp_path: Path
) -> None:
    result = run(
        Night(by_s=HOUR_S + SCORE_GRACE_S / 2, during="upscale"),
        export_dir=tmp_path / "out", reference=str(tmp_path / "hr"),
    )  # fmt: skip
    done = result.status.items["done"]
    assert result.out_of_time
    assert result.exported is not None
    assert 0 < done == result.exported.written == len(list((tmp_path / "out").iterdir()))
    assert result.status.items["pending"] == PICTURES - done


def test_the_grace_ends_for_scores_before_files(
    run: Callable[..., JobResult], tmp_path: Path
) -> None:
    ahead_s = HOUR_S + (SCORE_GRACE_S + EXPORT_GRACE_S) / 2
    result = run(
        Night(by_s=ahead_s, during="score"),
        pictures=FEW, export_dir=tmp_path / "out", reference=str(tmp_path / "hr"),
    )  # fmt: skip
    assert result.status.units["pending"] == 0
    assert result.exported is not None
    assert result.exported.written == FEW
    assert result.out_of_time
    assert result.left == "scores or exported files"


def test_files_that_were_not_read_are_left_for_the_next_run(
    run: Callable[..., JobResult],
) -> None:
    # Small ones are read once more for their stack, which there is no time for.
    first = run(Night(by_s=HOUR_S, during="ingest"), stacks=True)
    assert first.out_of_time
    assert first.ingestion is not None
    assert first.ingestion.new == first.status.items["pending"]
    assert first.unread == PICTURES - first.ingestion.new > 0
    second = run(Night(by_s=0, during=""), stacks=True)
    assert second.ingestion is not None
    assert second.ingestion.new == PICTURES - first.ingestion.new
    assert (second.unread, second.complete) == (0, True)


def test_time_that_is_up_before_the_first_tile_leaves_nothing_to_score_or_export(
    run: Callable[..., JobResult], tmp_path: Path
) -> None:
    result = run(
        Night(by_s=HOUR_S, during="ingest"),
        export_dir=tmp_path / "out", reference=str(tmp_path / "hr"),
    )  # fmt: skip
    assert result.out_of_time
    assert not result.failed
    assert result.exported is not None
    assert result.exported.written == 0


def test_a_run_that_ends_late_but_whole_was_not_out_of_time(run: Callable[..., JobResult]) -> None:
    result = run(Night(by_s=2 * HOUR_S, during="report"), pictures=FEW)
    assert not result.out_of_time
    run(Night(by_s=2 * HOUR_S, during="ingest"), pictures=FEW)
    assert run(Night(by_s=2 * HOUR_S, during="ingest"), pictures=FEW).left == "nothing"


def test_the_command_says_what_is_left_and_ends_well(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command, cluster: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for n in range(3):
        save(tmp_path / "in" / f"{n}.png", photo(40 + n, 40))
    night = Night(by_s=0, during="")
    monkeypatch.setattr(stages, "TimedStop", partial(TimedStop, now=lambda: night.now() + 2e5))
    words = ("upscale", tmp_path / "in", tmp_path / "job", "--model", "bicubic-x2",
             "--until", "06:30", *cluster)  # fmt: skip
    said = upres(*words)
    assert said.code == 0
    assert said.err.strip().splitlines()[-1] == (
        "time is up; left: 3 files of the source; repeat the command to go on"
    )
    as_json = upres(*words, "--json")
    assert as_json.code == 0
    assert (as_json.document["out_of_time"], as_json.document["unread"]) == (True, 3)
    (tmp_path / "in" / "0.png").write_bytes(b"no picture")
    monkeypatch.setattr(stages, "TimedStop", TimedStop)
    assert upres(*words).code == 3
    assert json.loads(upres(*words, "--json").out)["units"]["pending"] == 0
