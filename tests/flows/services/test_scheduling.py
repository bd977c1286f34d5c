"""What a person types becomes a job that finds its places and its hour every night."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from prefect.server.schemas.schedules import CronSchedule

from flows.services.scheduling import ScheduledJob, check_at, placed, zone_name
from pipeline.errors import UsageError
from pipeline.jobs.request import UpscaleRequest
from pipeline.storage.store import BucketPlace


def test_relative_places_become_absolute_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "own.safetensors").touch()
    clusters = Path("clusters.toml")
    asked = UpscaleRequest(
        src="photos/*.png", job_dir=Path("./job/"), reference="../hr", export_dir=Path("out"),
        model="own.safetensors", ledger="sqlite:///ledger.db", clusters=clusters,
    )  # fmt: skip
    found = placed(asked, tmp_path)
    assert found.src == str(tmp_path / "photos" / "*.png")
    assert found.job_dir == tmp_path / "job"
    assert found.reference == str(tmp_path.parent / "hr")
    assert found.export_dir == tmp_path / "out"
    assert found.model == str(tmp_path / "own.safetensors")
    assert found.clusters == tmp_path / "clusters.toml"
    assert found.ledger == f"sqlite:///{tmp_path / 'ledger.db'}"
    assert placed(found, Path("/elsewhere")) == found
    far = UpscaleRequest(src="s3://bucket/photos", job_dir=Path("job"), model="span-x4")
    assert placed(far, tmp_path).src == "s3://bucket/photos"
    assert placed(far, tmp_path).model == "span-x4"
    assert placed(far, tmp_path).export_dir is None
    bucket = BucketPlace("s3", "bucket", "night")
    farther = replace(far, job_dir=bucket / "job", export_dir=bucket / "out")
    assert placed(farther, tmp_path) == farther


@pytest.mark.parametrize("model", ["span-x4", "auto", "bicubic", "span-x4-archive@0.5"])
def test_a_name_means_the_model_although_a_file_is_called_so(tmp_path: Path, model: str) -> None:
    (tmp_path / model).touch()
    asked = UpscaleRequest(src="photos", job_dir=Path("job"), model=model)
    assert placed(asked, tmp_path).model == model
    named = replace(asked, model=f"./{model}")
    assert placed(named, tmp_path).model == str(tmp_path / model)


@pytest.mark.parametrize("at", ["", "25:00", "2", "02:60", "2am", "02:00:00", " 02:00", "٠٢:٠٠"])
def test_what_is_not_a_time_of_the_day_is_refused(at: str) -> None:
    with pytest.raises(UsageError, match="expected a time of the day such as 02:00"):
        check_at(at)


def test_times_of_the_day_are_written_in_one_way() -> None:
    assert [check_at(at) for at in ("2:05", "02:05", "0:00", "23:59")] == [
        "02:05", "02:05", "00:00", "23:59"
    ]  # fmt: skip


def test_a_zone_is_named_by_the_user_or_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    assert zone_name("Europe/Berlin") == "Europe/Berlin"
    assert zone_name("") == "Asia/Kathmandu"
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    with pytest.raises(UsageError, match="add --timezone ZONE"):
        zone_name("")
    monkeypatch.delenv("TZ")
    ZoneInfo(zone_name(""))
    with pytest.raises(UsageError, match="Europe/Nowhere"):
        zone_name("Europe/Nowhere")


def test_only_what_differs_from_a_default_is_asked_of_the_flow() -> None:
    request = UpscaleRequest(src="/photos", job_dir=Path("/job"), until="06:30", tile_px=64)
    job = ScheduledJob(request=request, at="02:05", timezone="Europe/Berlin")
    assert job.cron == "5 2 * * *"
    assert job.parameters == {"src": "/photos", "job_dir": "/job", "until": "06:30", "tile_px": 64}


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", datetime(2027, 3, 26, 12, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2027, 10, 29, 12, tzinfo=UTC)),
        ("America/New_York", datetime(2027, 3, 12, 12, tzinfo=UTC)),
        ("America/New_York", datetime(2027, 11, 5, 12, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2027, 4, 2, 6, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2027, 10, 1, 6, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("at", ["01:30", "01:45", "02:00", "02:15", "02:30", "03:00"])
def test_there_is_one_run_a_night_when_clocks_change(zone: str, day: datetime, at: str) -> None:
    request = UpscaleRequest(src="/photos", job_dir=Path("/job"))
    job = ScheduledJob(request=request, at=at, timezone=zone)
    schedule = CronSchedule(cron=job.cron, timezone=job.timezone)
    runs = [one.astimezone(ZoneInfo(zone)) for one in asyncio.run(schedule.get_dates(4, start=day))]
    assert [run.date().toordinal() - day.date().toordinal() for run in runs] == [1, 2, 3, 4]
    shown = [f"{run:%H:%M}" for run in runs]
    # A time that the clocks skip comes later by what they skip.
    assert shown.count(at) >= 3
    skipped = timedelta(minutes=30 if zone == "Australia/Lord_Howe" else 60)
    assert set(shown) <= {at, f"{datetime.strptime(at, '%H:%M') + skipped:%H:%M}"}
