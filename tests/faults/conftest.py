"""What the tests of faults share: a disk of their own."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Mount(Protocol):
    def __call__(self, *options: str) -> Path: ...


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a file system of its own; once more with "remount" and other options changes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(*options: str) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this user may not mount here: {done.stderr.strip()}")
        return folder

    yield mounted
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
