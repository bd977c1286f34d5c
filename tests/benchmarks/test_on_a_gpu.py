"""The script for a GPU runs on a CPU with small numbers, leaves its results, and goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import on_a_gpu
from pipeline.training.folder import STATE
from pipeline.training.state import stored_step

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command, SavePicture, TakePhoto

SMALL = (
    "--device", "cpu", "--minutes", "60", "--model", "srcnn-x4", "--pictures", "2", "--side", "48",
    "--tile", "32", "--tests", "tests/pipeline/degradation/test_batch.py", "--recipes", "srcnn-x4",
    "no-such-recipe", "--set", "batch=2", "--set", "checkpoint_every=2", "--set",
    "validate_every=2", "--set", "validation_patches=2", "--set", "precision=fp32",
)  # fmt: skip


@pytest.fixture
def patches(tmp_path: Path, photo: TakePhoto, save: SavePicture, upres: Command) -> Path:
    for n in range(3):
        save(tmp_path / f"pictures/{n}.png", photo(120, 120, at=60 * n))
    words = ("--recipe", "srcnn-x4", "--set", "count=2", "--set", "split.validation=0.34")
    said = upres("prepare", tmp_path / "pictures", tmp_path / "patches", *words)
    assert said.code == 0, said.err
    return tmp_path / "patches"


@pytest.mark.slow
@pytest.mark.usefixtures("shared_workers")
def test_it_leaves_the_results_of_every_part_and_trains_on_when_repeated(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(on_a_gpu, "TESTS_S", 1200.0)
    out = tmp_path / "out"
    words = [*SMALL, "--out", str(out), "--patches", str(patches)]
    on_a_gpu.main([*words, "--set", "steps=4"])
    said = capsys.readouterr().out
    assert "FAILED" not in said
    assert "no-such-recipe: left out" in said

    def found(name: str) -> dict[str, Any]:
        return json.loads((out / f"{name}.json").read_text())

    assert found("tests")["exit_code"] in (0, 5)
    engine = found("engine")
    assert engine["device"] == "CPU"
    assert 0 < engine["efficiency"] < 2
    assert engine["network_mp_s"] > 0
    assert 0 < engine["of_product_tflops"] < 1
    bits = found("bits")
    assert bits["fp32_equal_to_cpu_fp32"] == 1
    assert (bits["fp32_tiles_equal_to_whole"], bits["bf16_tiles_equal_to_whole"]) == (1, 1)
    assert bits["bf16_most_levels_apart"] <= 4
    training = found("training-srcnn-x4")
    assert (training["steps"], training["of_steps"]) == (4, 4)
    assert training["steps_a_second"] > 0
    assert 0 <= training["share_of_waiting"] <= 1
    assert stored_step(out / "training/srcnn-x4" / STATE) == 4

    on_a_gpu.main([*words, "--set", "steps=6"])
    again = capsys.readouterr().out
    assert again.count("done before") == 3
    assert found("training-srcnn-x4")["steps_in_this_run"] == 2


def test_without_time_nothing_is_begun_and_the_next_step_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_gpu.main(["--device", "cpu", "--minutes", "0", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert said.count("no time left; repeat the command") == 3
    assert not list((tmp_path / "out").iterdir())


def test_the_peak_of_a_known_gpu_is_that_of_its_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, tflops in (
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
    ):
        monkeypatch.setattr(on_a_gpu, "_called", lambda _device, name=name: name)
        assert on_a_gpu._peak("cpu", "bf16")["sheet_tflops"] == tflops
        assert "sheet_tflops" not in on_a_gpu._peak("cpu", "fp32")
