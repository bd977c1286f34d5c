"""What the process that local workers are forked from imports of upres itself.

Python looks there for modules where it was installed, which may hold another upres than the one
that starts the workers. So nothing is imported unless it is that one's own. This module's name is
unlikely to be anyone else's: `pipeline` and `models` are not.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

WANTED = "UPRES_FORKED_FROM"
"""Variable of the environment that says where the upres is that starts the workers."""

_TASKS = (
    "pipeline.jobs.ingest.task",
    "pipeline.jobs.upscale.worker",
    "pipeline.jobs.upscale.chunk_task",
    "pipeline.jobs.export.local_file",
)
"""What most workers do. The modules that it takes are nearly all that they import."""


def _is_found_in(folder: Path, name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.origin == str(folder / name / "__init__.py")


def import_own() -> None:
    """Import what most workers need, if it is of the upres that is wanted."""
    here = Path(__file__).parent
    wanted = os.environ.pop(WANTED, "")
    if wanted == str(here) and all(_is_found_in(here, name) for name in ("pipeline", "models")):
        for name in _TASKS:
            import_module(name)


import_own()
