"""Which instructions of the CPU compute a network: the last bits of its pixels depend on them.

The levels have the names by which oneDNN knows them; torch and OpenVINO both compute with it. A
process can be held to a lower level than its CPU has, before it computes for the first time. Other
CPUs than x86 have one level, the name of their kind.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_FLAGS = {
    "sse41": {"sse4_1"},
    "avx2": {"avx2", "fma"},
    "avx512_core": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512_core_vnni": {"avx512_vnni"},
    "avx512_core_bf16": {"avx512_bf16"},
    "avx512_core_fp16": {"avx512_fp16"},
    "avx512_core_amx": {"amx_tile", "amx_int8", "amx_bf16"},
    "avx512_core_amx_fp16": {"amx_fp16"},
}
"""What a CPU must have for each level, beside what the levels below it need."""
LEVELS = tuple(_FLAGS)
"""From the least to the most."""

_BF16 = "avx512_core_bf16"
_OF_ONEDNN, _OF_TORCH = "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"
_ROOT = Path("/")
_HELD: dict[str, str] = {}
"""The level that this process is held to (`level`), by which run, and what it `could` have."""


def own_level(root: Path = _ROOT) -> str:
    """Return the highest level that this process can compute with.

    The CPU's own, or less where the environment limits it.
    """
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if found is None:
        return platform.machine()
    flags, level = set(found[1].split()), ""
    for name, needed in _FLAGS.items():
        if not needed <= flags:
            break
        level = name
    # Once this process is held to a level, the variable is its own.
    limit = _HELD.get("limit", os.environ.get(_OF_ONEDNN, "")).lower()
    return min(level, limit, key=LEVELS.index) if level and limit in LEVELS else level


def held_level() -> str:
    """Return the level that this process is held to already, "" where it is not."""
    return _HELD.get("level", "")


def limited_to() -> str:
    """Return the level that this process is held to below its own, "" where it is not."""
    held = held_level()
    return "" if held == own_level() else held


def has_level(own: str, wanted: str) -> bool:
    """Return whether what has the level `own` can be held to `wanted`."""
    if own in LEVELS and wanted in LEVELS:
        return LEVELS.index(wanted) <= LEVELS.index(own)
    return own == wanted


def common_level(levels: Iterable[str]) -> str | None:
    """Return the highest level that all of `levels` can be held to, None where there is none."""
    levels = set(levels)
    if len(levels) == 1:
        return levels.pop()
    return min(levels, key=LEVELS.index) if levels <= set(LEVELS) else None


def computes_bf16(level: str) -> bool:
    """Return whether a CPU of this level computes in bf16 as fast as it can be."""
    return level in LEVELS and has_level(level, _BF16)


def hold_to(level: str, *, run: str) -> None:
    """Let this process compute with `level` from now on; the same `run` may call this again.

    Raises:
        ModelError: if the CPU does not have it, or the process has computed with another before.
    """
    here, own = socket.gethostname(), own_level()
    if not has_level(own, level):
        raise ModelError(f"{here} has the instructions {own}, expected {level}; leave it out")
    if _HELD and _HELD["run"] != run and _HELD["level"] != level:
        raise ModelError(
            f"a worker on {here} has computed with {_HELD['level']} for another run, expected "
            f"{level}; start it again"
        )
    limit = _HELD.get("limit", os.environ.get(_OF_ONEDNN, ""))
    _HELD.update(level=level, run=run, limit=limit)
    if level in LEVELS:
        os.environ[_OF_ONEDNN] = level.upper()
        os.environ[_OF_TORCH] = _torch_level(level)
        _check_torch(level)


def _torch_level(level: str) -> str:
    """Return what torch calls the level of its own kernels."""
    known = {"sse41": "default", "avx2": "avx2"}
    return known.get(level, "avx512")


def _check_torch(level: str) -> None:
    """Make sure that torch, where it was loaded before, has not computed with more already.

    Raises:
        ModelError: if it has.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return
    found = str(torch.backends.cpu.get_cpu_capability()).lower()
    if found != _torch_level(level):
        raise ModelError(
            f"a worker on {socket.gethostname()} has computed with {found} before, expected "
            f"{level}; start it again"
        )


def check_level(wanted: str) -> None:
    """Refuse a level that does not exist.

    Raises:
        UsageError: then.
    """
    if wanted not in ("auto", *LEVELS):
        raise UsageError(f"instructions are {wanted!r}, expected auto, {', '.join(LEVELS)}")
