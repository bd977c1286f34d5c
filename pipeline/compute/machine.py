"""What this process may use of its machine: cores and memory, containers and quotas included.

Reads files of the kernel and nothing else; no library of ours or others.
"""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path("/")
_OF_A_PROCESSOR = ("vendor_id", "model name", "cpu family", "model", "stepping", "cache size")


def cores(root: Path = _ROOT) -> int:
    """Return how many cores this process may keep busy, at least 1.

    The cores that it may be scheduled on, or its CPU quota rounded up where that is less.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def processor(root: Path = _ROOT) -> str:
    """Return what tells one kind of CPU from another, by the words of the kernel."""
    first, _, _ = _text(root / "proc/cpuinfo").partition("\n\n")
    lines = (line.partition(":") for line in first.splitlines())
    values = {name.strip(): value.strip() for name, _, value in lines}
    named = [f"{name} {values[name]}" for name in _OF_A_PROCESSOR if values.get(name)]
    return ", ".join(named) or platform.processor() or platform.machine()


def memory_bytes(root: Path = _ROOT) -> int:
    """Return how much memory this process and its children may fill together."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit(root)
    return total if limit is None else min(total, limit)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the tightest CPU quota of this process's control groups in cores, None without one.

    Version 2 has it in ``cpu.max`` ("QUOTA PERIOD" or "max PERIOD"), version 1 in
    ``cpu.cfs_quota_us`` (-1 is none) and ``cpu.cfs_period_us``; a group's parents bound it too.
    """
    quotas = []
    for folder in _groups("cpu", root):
        both = _text(folder / "cpu.max").split()
        if len(both) != 2:
            both = [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if all(re.fullmatch("[0-9]+", part) and int(part) for part in both):
            quotas.append(int(both[0]) / int(both[1]))
    return min(quotas, default=None)


def memory_limit(root: Path = _ROOT) -> int | None:
    """Return the tightest memory limit of this process's control groups, None without one."""
    limits = []
    for folder in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name)
            if re.fullmatch("[0-9]+", text) and int(text):
                limits.append(int(text))
    return min(limits, default=None)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group and of its parents, of both versions."""
    paths = dict(_group_paths(_text(root / "proc/self/cgroup")))
    for top, mount, kinds in _mounts(_text(root / "proc/self/mountinfo")):
        path = paths.get(controller if controller in kinds else "" if "cgroup2" in kinds else None)
        if path is None:
            continue
        start = root / mount.lstrip("/")
        yield start
        # In a container the mount may begin at its own group, and the path at the host's.
        below = path.removeprefix(top if top == "/" else f"{top}/")
        if ".." in below.split("/") or below.startswith("/") or path == top:
            continue
        folder = start
        for part in filter(None, below.split("/")):
            folder = folder / part
            yield folder


def _group_paths(text: str) -> Iterator[tuple[str | None, str]]:
    """Yield controller and path of each line ``ID:CONTROLLERS:PATH``; version 2 has none: ""."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, found, path = rest.partition(":")
        if found:
            yield from ((controller, path) for controller in controllers.split(","))


def _mounts(text: str) -> Iterator[tuple[str, str, set[str]]]:
    """Yield root, mount point, and kind and options of each control group's file system."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) >= 5 and len(kind) >= 3 and kind[0] in ("cgroup", "cgroup2"):
            yield _unescaped(fields[3]), _unescaped(fields[4]), {kind[0], *kind[2].split(",")}


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _text(path: Path) -> str:
    """Return what a file holds, nothing where it cannot be read: then it sets no limit."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
