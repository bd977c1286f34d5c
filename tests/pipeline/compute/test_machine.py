"""Cores and memory: what a container grants counts, not what its host has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.compute.machine import cores, cpu_quota, memory_bytes, memory_limit, processor

GIB = 2**30
PLENTY = 10**6


def kernel(root: Path, *, groups: str, mounts: str, files: dict[str, object]) -> Path:
    """Lay out what the kernel shows of control groups below `root`."""
    shown = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}
    for name, content in shown.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def version_2(root: Path, path: str, files: dict[str, object]) -> Path:
    mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
    inside = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    return kernel(root, groups=f"0::{path}", mounts=mount, files=inside)


def version_1(root: Path, path: str, top: str, files: dict[str, object]) -> Path:
    groups = f"11:cpuset:/\n5:cpu,cpuacct:{path}\n4:memory:{path}\n1:name=systemd:{path}"
    mounts = (
        f"40 32 0:33 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"41 32 0:34 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
    )
    inside = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    return kernel(root, groups=groups, mounts=mounts, files=inside)


@pytest.mark.parametrize(
    ("written", "quota"),
    [
        ("150000 100000", 1.5),
        ("10000 100000", 0.1),
        ("max 100000", None),
        ("", None),
        ("lots 100000", None),
        ("100000 0", None),
    ],
)
def test_a_quota_of_version_2_is_quota_by_period(
    tmp_path: Path, written: str, quota: float | None
) -> None:
    root = version_2(tmp_path, "/", {"cpu.max": written})
    assert cpu_quota(root) == (None if quota is None else pytest.approx(quota))


@pytest.mark.parametrize(("quota", "expected"), [("150000", 1.5), ("-1", None)])
def test_a_quota_of_version_1_is_quota_by_period(
    tmp_path: Path, quota: str, expected: float | None
) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": quota, "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    assert cpu_quota(version_1(tmp_path, "/", "/", files)) == expected


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    root = version_2(
        tmp_path,
        "/user.slice/job",
        {
            "user.slice/job/cpu.max": "400000 100000",
            "user.slice/cpu.max": "200000 100000",
            "user.slice/job/memory.max": GIB,
            "user.slice/memory.max": "max",
            "other/cpu.max": "1000 100000",
            "other/memory.max": 1,
        },
    )
    assert cpu_quota(root) == 2
    assert memory_limit(root) == GIB


def test_a_container_that_shows_the_hosts_path_is_limited_by_what_is_mounted(
    tmp_path: Path,
) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": 50000,
        "cpu,cpuacct/cpu.cfs_period_us": 100000,
        "memory/memory.limit_in_bytes": 3 * GIB,
        "memory/docker/abc/memory.limit_in_bytes": 1,
    }
    root = version_1(tmp_path, "/docker/abc", "/docker/abc", files)
    assert cpu_quota(root) == 0.5
    assert memory_limit(root) == 3 * GIB


def test_a_group_below_the_mounted_one_is_found_by_its_path_there(tmp_path: Path) -> None:
    files = {
        "memory/inner/memory.limit_in_bytes": GIB,
        "memory/memory.limit_in_bytes": 2 * GIB,
    }
    assert memory_limit(version_1(tmp_path, "/docker/abc/inner", "/docker/abc", files)) == GIB


def test_a_path_that_leads_out_of_the_namespace_is_not_followed(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/../../elsewhere", {"memory.max": GIB})
    (tmp_path / "sys" / "memory.max").write_text("1\n")
    assert memory_limit(root) == GIB


def test_a_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    mount = r"30 23 0:26 / /sys/fs/my\040groups rw - cgroup2 cgroup2 rw"
    files: dict[str, object] = {"sys/fs/my groups/cpu.max": "100000 100000"}
    assert cpu_quota(kernel(tmp_path, groups="0::/", mounts=mount, files=files)) == 1


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) is None
    assert cores(tmp_path) == len(os.sched_getaffinity(0))
    assert memory_bytes(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("hundredths", "expected"), [(1, 1), (99, 1), (100, 1)])
def test_a_part_of_a_core_counts_as_one(tmp_path: Path, hundredths: int, expected: int) -> None:
    assert cores(version_2(tmp_path, "/", {"cpu.max": f"{hundredths * 1000} 100000"})) == expected


def test_a_quota_above_the_cores_that_are_there_adds_none(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/", {"cpu.max": f"{PLENTY * 100000} 100000"})
    assert cores(root) == len(os.sched_getaffinity(0))


def test_a_limit_above_the_memory_that_is_there_adds_none(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/", {"memory.max": 2**62})
    assert memory_bytes(root) == memory_bytes(tmp_path / "nowhere")


def test_a_process_in_a_limited_group_sees_the_limit() -> None:
    """A group of this machine's own kernel, where this account may make one."""
    name = f"upres-test-{uuid4().hex[:8]}"
    one, two = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    if (one / "cpu.cfs_quota_us").exists() or (one / "cpu.shares").exists():
        group, limits = one / name, {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}
    elif (two / "cgroup.controllers").exists():
        group, limits = two / name, {"cpu.max": "100000 100000"}
    else:
        pytest.skip("this machine shows no control groups")
    try:
        group.mkdir()
        for file, value in limits.items():
            (group / file).write_text(value)
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"this account may not make a control group here: {error}")
    code = (
        "import os, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()));"
        "from pipeline.compute.machine import cores, cpu_quota; print(cores(), cpu_quota())"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, group / "cgroup.procs"],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        group.rmdir()
    if done.returncode and "OSError" in done.stderr:
        pytest.skip(f"this account may not enter a control group here: {done.stderr[-200:]}")
    assert done.stdout.split() == ["1", "1.0"], done.stderr


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
cpu MHz\t\t: 2596.146
cache size\t: 1024 KB

processor\t: 1
vendor_id\t: AuthenticAMD
model\t\t: 99
"""


def test_a_processor_is_named_by_what_does_not_change_from_run_to_run(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    file = tmp_path / "proc/cpuinfo"
    file.write_text(CPUINFO)
    named = processor(tmp_path)
    assert named == (
        "vendor_id AuthenticAMD, model name AMD EPYC, cpu family 25, model 17, stepping 1, "
        "cache size 1024 KB"
    )
    file.write_text(CPUINFO.replace("2596.146", "1200.000"))
    assert processor(tmp_path) == named
    file.write_text(CPUINFO.replace("1024 KB", "2048 KB"))
    assert processor(tmp_path) != named
    file.unlink()
    assert processor(tmp_path)
