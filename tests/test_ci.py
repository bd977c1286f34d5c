"""What the continuous integration chooses: the newest Python that can run the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEWEST = Path(__file__).parent.parent / ".ci" / "newest-python"


def pretend(path: Path, version: str, *, whole: bool = True) -> Path:
    """Make what answers as a Python of that version; not `whole`, it cannot make environments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = version.replace(".", " ")
    broken = "" if whole else '*ensurepip*) echo "no module named ensurepip" >&2; exit 1;;'
    path.write_text(f'#!/bin/sh\ncase "$2" in {broken} *) echo "{numbers}";; esac\n')
    path.chmod(0o755)
    return path


def newest(tmp_path: Path) -> str:
    done = subprocess.run(
        [NEWEST, tmp_path / "bin" / "python3.11"],
        env={"PATH": f"{tmp_path / 'bin'}{os.pathsep}/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def oldest(tmp_path: Path) -> None:
    pretend(tmp_path / "bin" / "python3.11", "3.11.7")


def test_the_newest_python_is_found_on_the_path_and_at_pyenv(tmp_path: Path) -> None:
    there = pretend(tmp_path / ".pyenv/versions/3.99.2/bin/python3", "3.99.2")
    pretend(tmp_path / ".pyenv/versions/3.9.2/bin/python3", "3.9.2")
    assert newest(tmp_path) == str(there)
    on_path = pretend(tmp_path / "bin" / "python3.100", "3.100.0")
    assert newest(tmp_path) == str(on_path)


def test_one_that_cannot_make_environments_is_passed_over(tmp_path: Path) -> None:
    there = pretend(tmp_path / "bin" / "python3.98", "3.98.1")
    pretend(tmp_path / "bin" / "python3.99", "3.99.1", whole=False)
    pretend(tmp_path / "bin" / "python3.99-config", "3.99.1")
    assert newest(tmp_path) == str(there)


def test_none_that_is_newer_is_told_by_silence() -> None:
    done = subprocess.run(
        [NEWEST, sys.executable],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    system = [p for p in Path("/usr/bin").glob("python3.[0-9]*") if p.suffix[1:].isdigit()]
    if all(int(p.suffix[1:]) <= sys.version_info.minor for p in system):
        assert done.stdout == ""
