"""What the processes that run the tests share: a folder for what one of them makes for all."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

SHARED = "UPRES_TESTS_SHARED"
"""Variable of the environment that names the folder."""


def make_shared_folder(config: pytest.Config) -> None:
    """Make the folder in the process that starts the others; it is there until that one ends."""
    if hasattr(config, "workerinput"):
        return
    os.environ[SHARED] = folder = tempfile.mkdtemp(prefix="upres-tests-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
