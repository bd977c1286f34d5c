"""A script in a process that has imported nothing yet: what commands load is seen there."""

from __future__ import annotations

import subprocess
import sys


def printed_by(script: str) -> tuple[str, str]:
    """Return what a script prints on stdout and on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=600
    )
    return done.stdout, done.stderr
