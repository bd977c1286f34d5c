"""What the folder of a training holds, and whether a training may begin or go on there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.tables import is_utf8

if TYPE_CHECKING:
    from pathlib import Path

LAST, BEST = "last.safetensors", "best.safetensors"
"""The averaged weights of the last validation, and of the best one."""

STATE, RECIPE = "state.safetensors", "recipe.toml"
"""What resuming needs, and the recipe as resolved."""

CHECKPOINTS = "checkpoints"
"""Folder of the last few models, by their step."""


def files_of_steps(out_dir: Path) -> list[Path]:
    """Return which files that only a training with steps writes are there: state, last, best."""
    return [out_dir / name for name in (STATE, LAST, BEST) if (out_dir / name).exists()]


def check_folder(out_dir: Path, *, resume: bool) -> None:
    """Make sure that a training may begin, or go on, in a folder.

    Raises:
        UsageError: if it holds one that is not to be resumed, or none that could be.
    """
    if not is_utf8(str(out_dir)):
        raise UsageError(f"{str(out_dir)!r} is not UTF-8; name another folder")
    left = files_of_steps(out_dir)
    if left and left[0].name == STATE:
        if resume:
            return
        raise UsageError(f"{out_dir} holds a training already; add --resume or name another folder")
    if left:
        raise UsageError(
            f"{out_dir} holds a training whose {STATE} is gone, so that it cannot go on; name "
            f"another folder, with --set initial={left[0]} to begin with what it learned"
        )
    if resume:
        raise UsageError(
            f"{out_dir} cannot be resumed: it holds no {STATE}; is --out right? Without --resume a "
            "training begins there"
        )
