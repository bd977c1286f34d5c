"""How many examples a property is tried on: few where a person waits, all where a machine does."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

FEW = 25
ALL = os.environ.get("UPRES_EXAMPLES") == "all"

settings.register_profile("few", deadline=None, max_examples=FEW)
settings.register_profile("all", deadline=None)
settings.load_profile("all" if ALL else "few")


def examples(most: int = 100, **more: Any) -> settings:
    """Return settings with at most so many examples, and no time limit for one."""
    return settings(max_examples=most if ALL else min(most, FEW), deadline=None, **more)
