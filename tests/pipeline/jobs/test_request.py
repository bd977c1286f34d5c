"""Requests: defaults and help texts stand once, and what cannot be is refused in one line."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.compute.request import WorkersRequest
from pipeline.constants import DEFAULT_LIMIT_S, DEFAULT_MODEL, DEFAULT_TILE_PX
from pipeline.errors import NoSourceError, UsageError
from pipeline.jobs.request import (
    ExportRequest,
    IngestRequest,
    RerunRequest,
    ScoreRequest,
    UpscaleRequest,
)
from pipeline.jobs.upscaling import Upscaling
from pipeline.request_fields import help_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto


@pytest.fixture
def source(tmp_path: Path, photo: TakePhoto, save: SavePicture) -> Path:
    save(tmp_path / "in" / "a.png", photo(20, 20))
    return tmp_path / "in"


def asked_of(source: Path, **asked: Any) -> UpscaleRequest:
    return UpscaleRequest(**{"src": str(source), "job_dir": source.parent / "job", **asked})


def test_defaults_of_a_request_are_those_of_everything_that_it_becomes(source: Path) -> None:
    request = asked_of(source, export_dir=source.parent / "out")
    assert (request.model, request.tile_px, request.limit_s) == (
        DEFAULT_MODEL,
        DEFAULT_TILE_PX,
        DEFAULT_LIMIT_S,
    )
    assert request.export == ExportRequest(out_dir=source.parent / "out")
    upscaling = asked_of(source, model="bicubic-x2").upscaling()
    assert upscaling == Upscaling(spec=upscaling.spec, model=upscaling.model)
    assert upscaling.model.device == request.device


def test_a_request_without_an_export_folder_exports_nothing(source: Path) -> None:
    assert asked_of(source).export is None


def test_a_request_says_how_to_upscale_as_it_was_asked(source: Path) -> None:
    upscaling = asked_of(
        source,
        model="bicubic-x3",
        tile_px=48,
        halo=7,
        precision="fp32",
        device="cpu",
        backend="torch",
        limit_s=9.0,
    ).upscaling()
    spec = upscaling.spec
    assert (spec.model, spec.scale, spec.tile_px, spec.halo_px) == ("bicubic-x3", 3, 48, 7)
    assert (spec.precision, spec.backend) == ("fp32", "torch")
    assert (upscaling.halo, upscaling.limit_s, upscaling.backend) == (7, 9.0, "torch")


def test_a_halo_in_digits_is_a_number_of_pixels(source: Path) -> None:
    request = asked_of(source, model="bicubic-x2", halo="7", device="cpu", precision="fp32")
    request.check()
    upscaling = request.upscaling()
    assert (upscaling.spec.halo_px, upscaling.halo) == (7, 7)


@pytest.mark.parametrize("limit_s", [0.09, 1.1e7, -1.0, float("inf"), float("nan")])
def test_a_time_limit_that_no_unit_could_keep_is_refused(limit_s: float, source: Path) -> None:
    with pytest.raises(UsageError, match=r"--time-limit is .*, expected 0\.1 to 10000000 seconds"):
        asked_of(source, limit_s=limit_s).check()


def test_an_export_folder_is_refused_before_a_source_that_is_missing_is_looked_for(
    source: Path,
) -> None:
    with pytest.raises(UsageError, match="it is in the source"):
        asked_of(source, export_dir=source / "up", reference="nowhere").check()
    with pytest.raises(NoSourceError, match="nowhere"):
        asked_of(source, export_dir=source.parent / "up", reference="nowhere").check()


def test_an_archive_is_not_ingested_into_itself(source: Path) -> None:
    with pytest.raises(UsageError, match="is the archive"):
        IngestRequest(src=str(source), archive=source).check()
    IngestRequest(src=str(source), archive=source.parent / "lr.zarr").check()


def test_a_rerun_with_another_model_is_one_of_stale_tiles(source: Path) -> None:
    with pytest.raises(UsageError, match="add --stale to redo them"):
        RerunRequest(job_dir=source, model="bicubic-x2").check()
    RerunRequest(job_dir=source, model="bicubic-x2", stale=True).check()


@pytest.mark.parametrize("request_type", [UpscaleRequest, RerunRequest, ScoreRequest])
def test_workers_are_asked_for_in_the_same_way_everywhere(
    request_type: type[WorkersRequest],
) -> None:
    for name in ("cluster", "workers"):
        assert getattr(request_type, name) == getattr(WorkersRequest, name)
        assert help_of(request_type, name) == help_of(WorkersRequest, name)


def test_no_request_can_be_changed(source: Path) -> None:
    request = asked_of(source)
    for field in fields(request):
        with pytest.raises(AttributeError):
            setattr(request, field.name, None)
