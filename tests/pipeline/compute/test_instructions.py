"""CPU instructions: which a machine has, which several have in common, and holding to a level."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.compute import instructions
from pipeline.compute.instructions import (
    LEVELS,
    check_level,
    common_level,
    computes_bf16,
    has_level,
    own_level,
)
from pipeline.errors import UsageError

ROOT = Path(__file__).parent.parent.parent.parent
HASWELL = "fpu sse4_1 fma avx2"
SKYLAKE = f"{HASWELL} avx512f avx512bw avx512dq avx512vl"
ZEN4 = f"{SKYLAKE} avx512_vnni avx512_bf16"
SAPPHIRE = f"{ZEN4} avx512_fp16 amx_tile amx_int8 amx_bf16"


def machine(tmp_path: Path, flags: str) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\n")
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("fpu sse4_1 avx", "sse41"),
        (HASWELL, "avx2"),
        (f"{HASWELL} avx512f", "avx2"),
        (SKYLAKE, "avx512_core"),
        (ZEN4, "avx512_core_bf16"),
        (SAPPHIRE, "avx512_core_amx"),
        # Without what comes before it, a higher level is none.
        (f"{HASWELL} amx_tile amx_int8 amx_bf16", "avx2"),
    ],
)
def test_the_level_of_a_cpu_is_the_highest_of_which_it_has_all(
    flags: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert own_level(machine(tmp_path, flags)) == level


def test_the_environment_can_only_lower_the_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine(tmp_path, SKYLAKE)
    monkeypatch.setattr(instructions, "_HELD", {})  # Another test may have held this process.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert own_level(root) == "avx2"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX")
    assert own_level(root) == "avx512_core"


def test_a_higher_level_can_be_held_to_a_lower_one_and_not_the_other_way() -> None:
    for low, high in pairwise(LEVELS):
        assert has_level(high, low)
        assert not has_level(low, high)
        assert common_level([high, low, high]) == low
    assert common_level(["avx2", "aarch64"]) is None
    assert common_level(["aarch64", "aarch64"]) == "aarch64"
    assert has_level("aarch64", "aarch64")
    assert not has_level("avx2", "aarch64")


def test_bf16_is_for_cpus_that_compute_in_it() -> None:
    assert [level for level in LEVELS if computes_bf16(level)] == list(
        LEVELS[LEVELS.index("avx512_core_bf16") :]
    )
    assert not computes_bf16("aarch64")


def test_a_level_that_does_not_exist_is_refused_with_those_that_do() -> None:
    check_level("auto")
    check_level("avx2")
    with pytest.raises(UsageError, match="'AVX2', expected auto, sse41, avx2, avx512_core"):
        check_level("AVX2")


HOLDING = """
import sys
import torch, openvino  # Loaded before, as on a worker that has ingested.
from pipeline.compute.instructions import held_level, hold_to, own_level
from pipeline.errors import ModelError
before = own_level()
hold_to("avx2", run="one")
assert torch.backends.cpu.get_cpu_capability() == "AVX2", "it is in time"
assert (held_level(), own_level()) == ("avx2", before), "what it could have stays known"
hold_to("avx2", run="two")
try:
    hold_to("sse41", run="three")
except ModelError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not has_level(own_level(), "avx2"), reason="this CPU has no AVX2")
def test_a_process_holds_a_level_once_it_is_loaded_and_keeps_it_for_all_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDING],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "has computed with avx2 for another run, expected sse41; start it again" in done.stdout
