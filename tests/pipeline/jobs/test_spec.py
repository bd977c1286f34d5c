"""The spec: its halo, and what one given by hand costs."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from torch import Tensor, nn

import pipeline.jobs.spec
from models.checkpoint import Model, load
from pipeline.errors import ModelError
from pipeline.jobs.spec import UpscaleSpec, computed_with, make_spec

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
    pooling = Model(replace(known.spec, architecture="pooling"), Pooling(), known.sha256)
    monkeypatch.setattr(pipeline.jobs.spec, "load_model", lambda _: pooling)
    with pytest.raises(ModelError, match="whole picture"):
        _spec("anything", "auto")
    assert _spec("anything", 8).halo_px == 8
    assert "whole picture" in caplog.text


EARLIER = UpscaleSpec(
    model="span-x4",
    weights_sha256="0" * 64,
    scale=4,
    tile_px=256,
    halo_px=21,
    precision="bf16",
    backend="openvino",
)


def test_a_job_from_before_instructions_were_kept_has_the_fingerprint_it_had() -> None:
    assert EARLIER.fingerprint() == (
        "0604a7b2865908721ba6157754aa965d5d9a9e541e1b8fcb253efa04dffade99"
    )
    assert "instructions" not in EARLIER.to_json()
    assert UpscaleSpec.from_json(EARLIER.to_json()) == EARLIER


def test_instructions_are_in_the_fingerprint_of_networks_and_of_nothing_else() -> None:
    kept = computed_with(EARLIER, "avx2", device="cpu")
    assert kept.fingerprint() != EARLIER.fingerprint()
    assert kept.fingerprint() != computed_with(EARLIER, "avx512_core", device="cpu").fingerprint()
    assert UpscaleSpec.from_json(kept.to_json()) == kept
    bicubic = replace(EARLIER, model="bicubic-x4", backend="torch")
    assert computed_with(bicubic, "avx2", device="cpu") == bicubic
    assert computed_with(EARLIER, "avx2", device="cuda") == EARLIER, "the GPU computes, elsewhere"
