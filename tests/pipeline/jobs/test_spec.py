"""The spec: its halo, and what one given by hand costs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from torch import Tensor, nn

import pipeline.jobs.spec
from models.checkpoint import Model, load
from pipeline.errors import ModelError
from pipeline.jobs.spec import UpscaleSpec, make_spec

if TYPE_CHECKING:
    from pathlib import Path


class Pooling(nn.Module):
    """A network that looks at the whole picture."""

    def forward(self, x: Tensor) -> Tensor:
        large = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return large + x.mean(dim=(2, 3), keepdim=True)


def _spec(model: str, halo: str | int) -> UpscaleSpec:
    return make_spec(model, tile_px=64, halo=halo, precision="fp32", device="cpu")


@pytest.mark.parametrize(
    ("model", "reach"), [("nearest-x2", 0), ("bicubic", 2), ("lanczos-x3", 3), ("span-x4", 21)]
)
def test_the_halo_is_the_reach_of_the_network(model: str, reach: int) -> None:
    assert _spec(model, "auto").halo_px == reach


def test_a_halo_below_the_reach_is_told_to_leave_seams(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert _spec("bicubic", 1).halo_px == 1
    assert "seams" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _spec("bicubic", 2)
    assert not caplog.text


def test_a_network_that_sees_the_whole_picture_is_refused_unless_a_halo_is_given(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    known = load("nearest-x2")
    monkeypatch.setattr(
        pipeline.jobs.spec, "load_model", lambda _: Model(known.spec, Pooling(), known.sha256)
    )
    with pytest.raises(ModelError, match="whole picture"):
        _spec("anything", "auto")
    assert _spec("anything", 8).halo_px == 8
    assert "whole picture" in caplog.text
